/* Incomplete factorisations and their triangular solves on one thread. See incomplete.py, which
 * calls these and holds the plain versions they are tested against.
 *
 * A factor is one CSR array: the entries of row i before `diagonal[i]` belong to a unit lower
 * triangle L, those after it to an upper triangle U whose diagonal is kept inverted in `inverse`.
 * For L D L^T only the lower triangle is stored, and D is that diagonal. Columns ascend in a row.
 */
#include <math.h>
#include <stdint.h>

/* Columns of a block of vectors done at a time, in registers. */
#define WIDTH 8

#define ROWS_UP for (int64_t i = 0; i < n; ++i)
#define ROWS_DOWN for (int64_t i = n; i-- > 0;)
#define LOWER for (int32_t p = indptr[i]; p < diagonal[i]; ++p)
#define UPPER for (int32_t p = diagonal[i] + 1; p < indptr[i + 1]; ++p)
#define COLUMNS for (int64_t j = 0; j < width; ++j)

#define DEFINE(T, NAME)                                                                          \
    /* ILU(0), in place on `values` (Saad, 2nd ed., algorithm 10.4). `where` holds n times -1.   \
     * Returns -1, or the first row whose pivot is not larger than its `least`. */               \
    int64_t hpc_sla_ilu0_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,            \
                                const int32_t *restrict diagonal,                                \
                                const int32_t *restrict indices, T *restrict values,             \
                                T *restrict inverse, const T *restrict least,                    \
                                int32_t *restrict where)                                         \
    {                                                                                            \
        (void)k;                                                                                 \
        ROWS_UP                                                                                  \
        {                                                                                        \
            for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p)                                  \
                where[indices[p]] = p;                                                           \
            LOWER                                                                                \
            {                                                                                    \
                const int32_t row = indices[p];                                                  \
                const T factor = values[p] * inverse[row];                                       \
                values[p] = factor;                                                              \
                for (int32_t q = diagonal[row] + 1; q < indptr[row + 1]; ++q)                    \
                    if (where[indices[q]] >= 0)                                                  \
                        values[where[indices[q]]] -= factor * values[q];                         \
            }                                                                                    \
            for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p)                                  \
                where[indices[p]] = -1;                                                          \
            const T pivot = values[diagonal[i]];                                                 \
            if (!(fabs((double)pivot) > (double)least[i]))                                       \
                return i;                                                                        \
            inverse[i] = 1 / pivot;                                                              \
        }                                                                                        \
        return -1;                                                                               \
    }                                                                                            \
                                                                                                 \
    /* IC(0) as L D L^T with D > 0, in place on the values of the lower triangle. Otherwise as   \
     * ILU(0). */                                                                                \
    int64_t hpc_sla_ic0_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,             \
                               const int32_t *restrict diagonal,                                 \
                               const int32_t *restrict indices, T *restrict values,              \
                               T *restrict inverse, const T *restrict least,                     \
                               int32_t *restrict where)                                          \
    {                                                                                            \
        (void)k;                                                                                 \
        ROWS_UP                                                                                  \
        {                                                                                        \
            LOWER where[indices[p]] = p;                                                         \
            LOWER                                                                                \
            {                                                                                    \
                const int32_t row = indices[p];                                                  \
                T sum = values[p]; /* becomes l_ip d_p */                                        \
                for (int32_t q = indptr[row]; q < diagonal[row]; ++q)                            \
                    if (where[indices[q]] >= 0)                                                  \
                        sum -= values[where[indices[q]]] * values[q];                            \
                values[p] = sum;                                                                 \
            }                                                                                    \
            T pivot = values[diagonal[i]];                                                       \
            LOWER                                                                                \
            {                                                                                    \
                const T factor = values[p] * inverse[indices[p]];                                \
                where[indices[p]] = -1;                                                          \
                pivot -= factor * values[p];                                                     \
                values[p] = factor;                                                              \
            }                                                                                    \
            values[diagonal[i]] = pivot;                                                         \
            if (!(pivot > least[i]))                                                             \
                return i;                                                                        \
            inverse[i] = 1 / pivot;                                                              \
        }                                                                                        \
        return -1;                                                                               \
    }                                                                                            \
                                                                                                 \
    /* L x = b, from the first row. In all of these x and b may not overlap. */                  \
    static void forward_##NAME(int64_t n, int64_t k, int64_t width,                              \
                               const int32_t *restrict indptr, const int32_t *restrict diagonal, \
                               const int32_t *restrict indices, const T *restrict values,        \
                               const T *restrict b, T *restrict x)                               \
    {                                                                                            \
        if (k == 1) {                                                                            \
            ROWS_UP                                                                              \
            {                                                                                    \
                T sum = b[i];                                                                    \
                LOWER sum -= values[p] * x[indices[p]];                                          \
                x[i] = sum;                                                                      \
            }                                                                                    \
            return;                                                                              \
        }                                                                                        \
        ROWS_UP                                                                                  \
        {                                                                                        \
            T sum[WIDTH];                                                                        \
            COLUMNS sum[j] = b[i * k + j];                                                       \
            LOWER COLUMNS sum[j] -= values[p] * x[indices[p] * k + j];                           \
            COLUMNS x[i * k + j] = sum[j];                                                       \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* U x = x, from the last row. */                                                            \
    static void backward_##NAME(int64_t n, int64_t k, int64_t width,                             \
                                const int32_t *restrict indptr,                                  \
                                const int32_t *restrict diagonal,                                \
                                const int32_t *restrict indices, const T *restrict values,       \
                                const T *restrict inverse, T *restrict x)                        \
    {                                                                                            \
        if (k == 1) {                                                                            \
            ROWS_DOWN                                                                            \
            {                                                                                    \
                T sum = x[i];                                                                    \
                UPPER sum -= values[p] * x[indices[p]];                                          \
                x[i] = sum * inverse[i];                                                         \
            }                                                                                    \
            return;                                                                              \
        }                                                                                        \
        ROWS_DOWN                                                                                \
        {                                                                                        \
            T sum[WIDTH];                                                                        \
            COLUMNS sum[j] = x[i * k + j];                                                       \
            UPPER COLUMNS sum[j] -= values[p] * x[indices[p] * k + j];                           \
            COLUMNS x[i * k + j] = sum[j] * inverse[i];                                          \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* L^T x = x, from the last row: once x_i is known, it leaves the equations before it. */    \
    static void backward_transposed_##NAME(int64_t n, int64_t k, int64_t width,                  \
                                           const int32_t *restrict indptr,                       \
                                           const int32_t *restrict diagonal,                     \
                                           const int32_t *restrict indices,                      \
                                           const T *restrict values, T *restrict x)              \
    {                                                                                            \
        ROWS_DOWN LOWER COLUMNS x[indices[p] * k + j] -= values[p] * x[i * k + j];               \
    }                                                                                            \
                                                                                                 \
    /* L U x = b. */                                                                             \
    void hpc_sla_lu_solve_##NAME(int64_t n, int64_t k, const int32_t *indptr,                    \
                                 const int32_t *diagonal, const int32_t *indices,                \
                                 const T *values, const T *inverse, const T *b, T *x)            \
    {                                                                                            \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            forward_##NAME(n, k, width, indptr, diagonal, indices, values, b + c, x + c);        \
            backward_##NAME(n, k, width, indptr, diagonal, indices, values, inverse, x + c);     \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* U^T L^T x = b. */                                                                         \
    void hpc_sla_lu_solve_transposed_##NAME(int64_t n, int64_t k, const int32_t *indptr,         \
                                            const int32_t *diagonal, const int32_t *indices,     \
                                            const T *values, const T *inverse, const T *b, T *x) \
    {                                                                                            \
        for (int64_t e = 0; e < n * k; ++e)                                                      \
            x[e] = b[e];                                                                         \
        for (int64_t c = 0; c < k; c += WIDTH, x += WIDTH) {                                     \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            ROWS_UP                                                                              \
            {                                                                                    \
                COLUMNS x[i * k + j] *= inverse[i];                                              \
                UPPER COLUMNS x[indices[p] * k + j] -= values[p] * x[i * k + j];                 \
            }                                                                                    \
            backward_transposed_##NAME(n, k, width, indptr, diagonal, indices, values, x);       \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* L D L^T x = b. */                                                                         \
    void hpc_sla_ldlt_solve_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *diagonal, const int32_t *indices,              \
                                   const T *values, const T *inverse, const T *b, T *x)          \
    {                                                                                            \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            forward_##NAME(n, k, width, indptr, diagonal, indices, values, b + c, x + c);        \
            ROWS_UP for (int64_t j = c; j < c + width; ++j) x[i * k + j] *= inverse[i];          \
            backward_transposed_##NAME(n, k, width, indptr, diagonal, indices, values, x + c);   \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
