/* How well each row of a system is solved: see hpc_sla.linear.accuracy. CPU loops for one thread;
 * conventions as in native.c. */
#include <math.h>
#include <stdlib.h>

#include "matrix.h"

/* Rows of a block done at a time, so that the columns of k > 1 stay in the cache. */
#define BLOCK 512

#define DEFINE(T, NAME)                                                                          \
    /* y = |A| |x|, or y[rows] += |A| |x|; of ones where x is null, for k = 1 alone. `longest` \
     * is 0, or entries of the longest row where the form of A writes rows to a room. */         \
    CLONED int64_t hpc_sla_absolute_##NAME(int64_t longest, int64_t k, const hpc_sla_matrix *A,  \
                                           const T *x, const int32_t *rows, T *y)                \
    {                                                                                            \
        int32_t *index_room = longest ? malloc(longest * sizeof *index_room) : NULL;             \
        T *value_room = longest ? malloc(longest * sizeof *value_room) : NULL;                   \
        const int enough = !longest || (index_room && value_room);                               \
        int64_t near = 0;                                                                        \
        for (int64_t i = 0; enough && i < A->rows; ++i) {                                        \
            const int32_t *indices;                                                              \
            const T *values;                                                                     \
            const int32_t length =                                                               \
                matrix_row_##NAME(A, i, &near, index_room, value_room, &indices, &values);       \
            T *to = y + (rows ? rows[i] : i) * k;                                                \
            if (k == 1) {                                                                        \
                T sum = rows ? *to : 0;                                                          \
                if (x)                                                                           \
                    for (int32_t e = 0; e < length; ++e)                                         \
                        sum += (T)fabs(values[e] * x[indices[e]]);                               \
                else                                                                             \
                    for (int32_t e = 0; e < length; ++e)                                         \
                        sum += (T)fabs(values[e]);                                               \
                *to = sum;                                                                       \
                continue;                                                                        \
            }                                                                                    \
            for (int64_t c = 0; c < k && !rows; ++c)                                             \
                to[c] = 0;                                                                       \
            for (int32_t e = 0; e < length; ++e)                                                 \
                for (int64_t c = 0; c < k; ++c)                                                  \
                    to[c] += (T)fabs(values[e] * x[indices[e] * k + c]);                         \
        }                                                                                        \
        free(index_room);                                                                        \
        free(value_room);                                                                        \
        return enough;                                                                           \
    }                                                                                            \
                                                                                                 \
    /* An error beside a scale: no error is 0, and beside an infinite scale it is NaN. */        \
    INLINE T ratio_##NAME(T error, T scale)                                                      \
    {                                                                                            \
        return isinf(scale) ? (T)NAN : error > 0 ? error / scale : error;                        \
    }                                                                                            \
                                                                                                 \
    /* The larger one, and NaN if either is. */                                                  \
    INLINE T larger_##NAME(T one, T other)                                                       \
    {                                                                                            \
        return other <= one ? one : one != one ? one : other;                                    \
    }                                                                                            \
                                                                                                 \
    /* scale += |b|;  found [5, k] = the largest ratio of |r| to scale and the largest |x|; the  \
     * sums of the squares of r, scale and b, which for a `step` of 0 is one number. */          \
    CLONED void hpc_sla_judge_##NAME(int64_t n, int64_t k, int64_t step, const T *b, const T *x, \
                                     const T *r, T *scale, double *found)                        \
    {                                                                                            \
        for (int64_t e = 0; e < 5 * k; ++e)                                                      \
            found[e] = 0;                                                                        \
        for (int64_t first = 0; first < n; first += BLOCK) {                                     \
            const int64_t last = first + BLOCK < n ? first + BLOCK : n;                          \
            for (int64_t c = 0; c < k; ++c) {                                                    \
                T worst = (T)found[c], largest = (T)found[k + c];                                \
                double errors = 0, scales = 0, sizes = 0;                                        \
                for (int64_t e = first * k + c; e < last * k; e += k) {                          \
                    const T error = (T)fabs(r[e]), size = (T)fabs(b[e * step]), own = (T)fabs(x[e]); \
                    const T whole = scale[e] += size;                                            \
                    worst = larger_##NAME(worst, ratio_##NAME(error, whole));                    \
                    largest = larger_##NAME(largest, own);                                       \
                    errors += (double)error * error;                                             \
                    scales += (double)whole * whole;                                             \
                    sizes += (double)size * size;                                                \
                }                                                                                \
                found[c] = worst, found[k + c] = largest;                                        \
                found[2 * k + c] += errors, found[3 * k + c] += scales;                          \
                found[4 * k + c] += sizes;                                                       \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* found [2, k] = the largest ratios of |r| to scale, but to scale + sizes where scale is    \
     * below rtol (sizes + |b|); and to scale + sizes. Sizes are `sizes` [n] times numbers[1 ..],\
     * by columns, and numbers[0] is rtol. */                                                    \
    CLONED void hpc_sla_guard_##NAME(int64_t n, int64_t k, int64_t step, const T *numbers,       \
                                     const T *b, const T *r, const T *scale, const T *sizes,     \
                                     double *found)                                              \
    {                                                                                            \
        for (int64_t c = 0; c < k; ++c) {                                                        \
            T worst = 0, safest = 0;                                                             \
            for (int64_t i = 0, e = c; i < n; ++i, e += k) {                                     \
                const T size = sizes[i] * numbers[1 + c], safe = scale[e] + size;                \
                const T error = (T)fabs(r[e]), least = numbers[0] * (size + (T)fabs(b[e * step])); \
                worst = larger_##NAME(worst, ratio_##NAME(error, scale[e] < least ? safe : scale[e])); \
                safest = larger_##NAME(safest, ratio_##NAME(error, safe));                       \
            }                                                                                    \
            found[c] = worst, found[k + c] = safest;                                             \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
