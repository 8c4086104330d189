/* The small matrix of GMRES: a step of linear/hessenberg.py, which says what it is in torch
 * operations. Those cost microseconds each, many of them in a loop that has just swept the caches;
 * this is one call. Conventions as in native.c: `restart` is the number of columns, k that of
 * right-hand sides, matrix is [restart + 1, restart, k], null [restart + 1, k], the rest [., k]. */
#include "native.h"

#include <math.h>

/* Comparisons as they are in torch: NaN stays NaN, and is not positive. */
#define NOT_NEGATIVE(x) ((x) < 0 ? 0 : (x))

#define DEFINE(T, NAME)                                                                          \
    /* The next entry of the vector orthogonal to the columns, from column j. */                 \
    INLINE void extend_##NAME(int64_t restart, int64_t k, int64_t j, const T *matrix, T *null)   \
    {                                                                                            \
        double total = 0;                                                                        \
        for (int64_t i = 0; i <= j; ++i)                                                         \
            total -= (double)null[i * k] * matrix[(i * restart + j) * k];                        \
        const double below = matrix[((j + 1) * restart + j) * k];                                \
        null[(j + 1) * k] = (T)(below > 0 ? total / below : 0);                                  \
    }                                                                                            \
                                                                                                 \
    INLINE double complete_##NAME(int64_t restart, int64_t k, int64_t j, const T *with_u,        \
                                  T *matrix, T *null, T length)                                  \
    {                                                                                            \
        double square = with_u[j * k];                                                           \
        for (int64_t i = 0; i < j; ++i)                                                          \
            square -= (double)with_u[i * k] * with_u[i * k];                                     \
        const double alpha = sqrt(NOT_NEGATIVE(square));                                         \
        if (j == 0)                                                                              \
            return alpha;                                                                        \
        T *column = matrix + (j - 1) * k;                                                        \
        if (length >= j) {                                                                       \
            for (int64_t i = 0; i < j; ++i)                                                      \
                column[i * restart * k] += with_u[i * k];                                        \
            column[j * restart * k] = (T)alpha;                                                  \
        }                                                                                        \
        extend_##NAME(restart, k, j - 1, matrix, null);                                          \
        return alpha;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* Hessenberg.complete, given with_u [j + 1]. */                                             \
    void hpc_sla_hessenberg_complete_##NAME(int64_t restart, int64_t k, int64_t j,               \
                                            const T *with_u, T *matrix, T *null,                 \
                                            const T *length)                                     \
    {                                                                                            \
        for (int64_t e = 0; e < k; ++e)                                                          \
            complete_##NAME(restart, k, j, with_u + e, matrix + e, null + e, length[e]);         \
    }                                                                                            \
                                                                                                 \
    /* Hessenberg.step, given sums [2, j + 2]; out [3] is last, inverse and norm. */             \
    void hpc_sla_hessenberg_step_##NAME(int64_t restart, int64_t k, int64_t j, const T *sums,    \
                                        const T *beta, const T *target, T *matrix, T *null,      \
                                        T *length, uint8_t *live, T *out)                        \
    {                                                                                            \
        for (int64_t e = 0; e < k; ++e) {                                                        \
            const T *s = sums + e, *c = s + (j + 2) * k;                                         \
            T *m = matrix + e, *n = null + e;                                                    \
            const double alpha = complete_##NAME(restart, k, j, s, m, n, length[e]);             \
            const double inverse = live[e] && alpha > 0 ? 1 / alpha : 0;                         \
            double product = s[(j + 1) * k], square = c[(j + 1) * k];                            \
            for (int64_t i = 0; i < j; ++i) {                                                    \
                product -= (double)s[i * k] * c[i * k];                                          \
                square -= (double)c[i * k] * c[i * k];                                           \
            }                                                                                    \
            const double last = product * inverse;                                               \
            square -= last * last;                                                               \
            const double below = sqrt(NOT_NEGATIVE(square)) * inverse;                           \
            for (int64_t row = 0; row <= j; ++row) {                                             \
                double t = row < j ? c[row * k] : last;                                          \
                for (int64_t i = 0; i < j; ++i)                                                  \
                    t -= (double)m[(row * restart + i) * k] * s[i * k];                          \
                m[(row * restart + j) * k] = (T)(t * inverse);                                   \
            }                                                                                    \
            m[((j + 1) * restart + j) * k] = (T)below;                                           \
            extend_##NAME(restart, k, j, m, n);                                                  \
            length[e] += live[e];                                                                \
            double norm = 0;                                                                     \
            for (int64_t i = 0; i <= j + 1; ++i)                                                 \
                norm += (double)n[i * k] * n[i * k];                                             \
            norm = below > 0 ? beta[e] / sqrt(norm) : 0;                                         \
            live[e] = live[e] && norm > target[e] && alpha > 0;                                  \
            out[e] = (T)last, out[k + e] = (T)inverse, out[2 * k + e] = (T)norm;                 \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* min ||beta e_1 - H y||_2 over the columns that each has made, by Givens rotations:        \
     * y [j, k] in doubles. room is a double [j + 2, j + 1]. Whether H had full rank, and no     \
     * NaN: if not, y is nothing. */                                                             \
    int64_t hpc_sla_hessenberg_solve_##NAME(int64_t restart, int64_t k, int64_t j, const T *beta,\
                                            const T *matrix, const T *length, double *room,      \
                                            double *y)                                           \
    {                                                                                            \
        double *right = room + (j + 1) * j;                                                      \
        for (int64_t e = 0; e < k; ++e) {                                                        \
            const int64_t m = (int64_t)length[e];                                                \
            double largest = 0;                                                                  \
            for (int64_t i = 0; i <= m; ++i) {                                                   \
                right[i] = i ? 0 : beta[e];                                                      \
                for (int64_t c = 0; c < m; ++c)                                                  \
                    room[i * j + c] = matrix[(i * restart + c) * k + e];                         \
            }                                                                                    \
            for (int64_t i = 0; i < m; ++i) {                                                    \
                double *above = room + i * j, *below = above + j;                                \
                const double length_of = hypot(above[i], below[i]);                              \
                const double c = length_of ? above[i] / length_of : 1;                           \
                const double s = length_of ? below[i] / length_of : 0, first = right[i];         \
                for (int64_t f = i; f < m; ++f) {                                                \
                    const double a = above[f];                                                   \
                    above[f] = c * a + s * below[f], below[f] = c * below[f] - s * a;            \
                }                                                                                \
                right[i] = c * first, right[i + 1] = -s * first;                                 \
                largest = fmax(largest, length_of);                                              \
            }                                                                                    \
            for (int64_t i = 0; i < j; ++i)                                                      \
                y[i * k + e] = 0;                                                                \
            for (int64_t i = m - 1; i >= 0; --i) {                                               \
                double sum = right[i];                                                           \
                for (int64_t f = i + 1; f < m; ++f)                                              \
                    sum -= room[i * j + f] * y[f * k + e];                                       \
                if (!(fabs(room[i * j + i]) > 1e-14 * largest))                                  \
                    return 0;                                                                    \
                y[i * k + e] = sum / room[i * j + i];                                            \
                if (!isfinite(y[i * k + e]))                                                     \
                    return 0;                                                                    \
            }                                                                                    \
        }                                                                                        \
        return 1;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
