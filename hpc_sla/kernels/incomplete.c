/* Incomplete factorisations and their triangular solves on one thread. See incomplete.py, which
 * calls these and holds the plain versions they are tested against.
 *
 * While it is made, a factor is one CSR array: the entries of row i before `diagonal[i]` belong to
 * L, those after it to U, both with a diagonal of ones, and `inverse` becomes D^-1. Columns ascend
 * in a row.
 */
#include <math.h>

#include "native.h"

#define ROWS_UP for (int64_t i = 0; i < n; ++i)
#define LOWER for (int32_t p = indptr[i]; p < diagonal[i]; ++p)

#define DEFINE(T, NAME)                                                                          \
    /* ILU(0) as L D U, in place on `values` (Saad, 2nd ed., algorithm 10.4, U divided by its    \
     * diagonal). `where` holds n times -1. Returns -1, or the first row whose pivot is not larger\
     * than its `least`. */                                                                      \
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
                const T entry = values[p];                                                       \
                values[p] = entry * inverse[row];                                                \
                for (int32_t q = diagonal[row] + 1; q < indptr[row + 1]; ++q)                    \
                    if (where[indices[q]] >= 0)                                                  \
                        values[where[indices[q]]] -= entry * values[q];                          \
            }                                                                                    \
            for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p)                                  \
                where[indices[p]] = -1;                                                          \
            const T pivot = values[diagonal[i]];                                                 \
            if (!(fabs((double)pivot) > (double)least[i]))                                       \
                return i;                                                                        \
            inverse[i] = 1 / pivot;                                                              \
            for (int32_t p = diagonal[i] + 1; p < indptr[i + 1]; ++p)                            \
                values[p] *= inverse[i];                                                         \
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
    /* L D U x = b for one column. In each row the entry nearest to the diagonal comes last, and \
     * where it is the row's that was solved just before, x there is taken from `before`: a chain\
     * of such rows then waits for a register, not for what it has just written to memory. */    \
    INLINE void column_##NAME(int64_t n, const int32_t *restrict lp, const int32_t *restrict li, \
                              const T *restrict lower, const int32_t *restrict up,               \
                              const int32_t *restrict ui, const T *restrict upper,               \
                              const T *restrict d, const T *restrict b, T *restrict x)           \
    {                                                                                            \
        T before = 0;                                                                            \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            T sum = b[i];                                                                        \
            int32_t p = lp[i];                                                                   \
            const int32_t last = lp[i + 1] - 1;                                                  \
            if (p <= last) {                                                                     \
                for (; p < last; ++p)                                                            \
                    sum -= lower[p] * x[li[p]];                                                  \
                if (li[p] == i - 1)                                                              \
                    sum -= lower[p] * before;                                                    \
                else                                                                             \
                    sum -= lower[p] * x[li[p]];                                                  \
            }                                                                                    \
            x[i] = before = sum;                                                                 \
        }                                                                                        \
        for (int64_t i = n; i-- > 0;) {                                                          \
            T sum = d[i] * x[i];                                                                 \
            const int32_t first = up[i], end = up[i + 1];                                        \
            if (first < end) {                                                                   \
                for (int32_t p = first + 1; p < end; ++p)                                        \
                    sum -= upper[p] * x[ui[p]];                                                  \
                if (ui[first] == i + 1)                                                          \
                    sum -= upper[first] * before;                                                \
                else                                                                             \
                    sum -= upper[first] * x[ui[first]];                                          \
            }                                                                                    \
            x[i] = before = sum;                                                                 \
        }                                                                                        \
    }                                                                                            \
    /* One row for `width` columns at once, whose chains run side by side. */                    \
    INLINE void wide_##NAME(int64_t k, int64_t width, int32_t begin, int32_t end,                \
                            const int32_t *restrict indices, const T *restrict values,           \
                            const T *x, T *sum)                                                  \
    {                                                                                            \
        for (int32_t p = begin; p < end; ++p) {                                                  \
            const T *from = x + indices[p] * k;                                                  \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] -= values[p] * from[j];                                                   \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void columns_##NAME(int64_t n, int64_t k, int64_t width, const int32_t *restrict lp,  \
                               const int32_t *restrict li, const T *restrict lower,              \
                               const int32_t *restrict up, const int32_t *restrict ui,           \
                               const T *restrict upper, const T *restrict d, const T *b, T *x)   \
    {                                                                                            \
        T sum[WIDTH];                                                                            \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] = b[i * k + j];                                                           \
            wide_##NAME(k, width, lp[i], lp[i + 1], li, lower, x, sum);                          \
            for (int64_t j = 0; j < width; ++j)                                                  \
                x[i * k + j] = sum[j];                                                           \
        }                                                                                        \
        for (int64_t i = n; i-- > 0;) {                                                          \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] = d[i] * x[i * k + j];                                                    \
            wide_##NAME(k, width, up[i], up[i + 1], ui, upper, x, sum);                          \
            for (int64_t j = 0; j < width; ++j)                                                  \
                x[i * k + j] = sum[j];                                                           \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* L D U x = b for CSR triangles L and U without their unit diagonals, d the inverse of D. x \
     * and b may not overlap. */                                                                 \
    CLONED void hpc_sla_ldu_solve_##NAME(int64_t n, int64_t k, const int32_t *restrict lp,       \
                                         const int32_t *restrict li, const T *restrict lower,    \
                                         const int32_t *restrict up, const int32_t *restrict ui, \
                                         const T *restrict upper, const T *restrict d,           \
                                         const T *restrict b, T *restrict x)                     \
    {                                                                                            \
        if (k == 1) {                                                                            \
            column_##NAME(n, lp, li, lower, up, ui, upper, d, b, x);                             \
            return;                                                                              \
        }                                                                                        \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            if (k - c >= WIDTH)                                                                  \
                columns_##NAME(n, k, WIDTH, lp, li, lower, up, ui, upper, d, b + c, x + c);      \
            else                                                                                 \
                columns_##NAME(n, k, k - c, lp, li, lower, up, ui, upper, d, b + c, x + c);      \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
