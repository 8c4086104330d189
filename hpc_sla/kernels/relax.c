/* CPU loops of a multigrid cycle for one thread: a sparse product and what is done with it, in one
 * pass. As in native.c, vectors are [n] or [n, k] by rows. */
#include "matrix.h"

#define DEFINE(T, NAME)                                                                          \
    /* out = b + scale A x, or with rows out[rows] += scale A x. b may be out. */                \
    INLINE void affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *restrict x,           \
                              const int32_t *restrict rows, const T *b, const T *scale, T *out)  \
    {                                                                                            \
        const int32_t *restrict indptr = A->parts[0], *restrict indices = A->parts[1];           \
        const T *restrict values = A->parts[2];                                                  \
        const int64_t n = A->rows;                                                               \
        const T a = scale[0];                                                                    \
        for (int64_t first = 0; first < k; first += WIDTH) {                                     \
            const int64_t width = k - first < WIDTH ? k - first : WIDTH;                         \
            T sum[WIDTH];                                                                        \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const int64_t row = (rows ? rows[i] : i) * k + first;                            \
                if (k == 1)                                                                      \
                    sum[0] = row_##NAME(indptr[i], indptr[i + 1], indices, values, x);           \
                else                                                                             \
                    row_wide_##NAME(indptr[i], indptr[i + 1], width, k, indices, values,         \
                                    x + first, sum);                                             \
                for (int64_t j = 0; j < width; ++j)                                              \
                    out[row + j] = (rows ? out[row + j] : b[row + j]) + a * sum[j];              \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    CLONED void hpc_sla_csr_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,        \
                                          const int32_t *rows, const T *b, const T *scale,       \
                                          T *out)                                                \
    {                                                                                            \
        if (k == 1 && !rows)                                                                     \
            affine_##NAME(1, A, x, NULL, b, scale, out);                                         \
        else                                                                                     \
            affine_##NAME(k, A, x, rows, b, scale, out);                                         \
    }                                                                                            \
                                                                                                 \
    /* q = beta before + alpha d (b - A x);  out = here + q, and after = q, where here is x.     \
     * With rows, A x is a part that was missing there: out[rows] and after[rows] lose           \
     * alpha d A x. before and after may be NULL, and may be one. */                             \
    INLINE void relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here,      \
                             const int32_t *restrict rows, const T *restrict b,                  \
                             const T *restrict d, const T *coefficients, const T *before,        \
                             T *after, T *out)                                                   \
    {                                                                                            \
        const int32_t *restrict indptr = A->parts[0], *restrict indices = A->parts[1];           \
        const T *restrict values = A->parts[2];                                                  \
        const int64_t n = A->rows;                                                               \
        const T alpha = coefficients[0], beta = coefficients[1];                                 \
        for (int64_t first = 0; first < k; first += WIDTH) {                                     \
            const int64_t width = k - first < WIDTH ? k - first : WIDTH;                         \
            T sum[WIDTH];                                                                        \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const int64_t at = rows ? rows[i] : i, row = at * k + first;                     \
                const T scale = alpha * d[at];                                                   \
                if (k == 1)                                                                      \
                    sum[0] = row_##NAME(indptr[i], indptr[i + 1], indices, values, x);           \
                else                                                                             \
                    row_wide_##NAME(indptr[i], indptr[i + 1], width, k, indices, values,         \
                                    x + first, sum);                                             \
                for (int64_t j = 0; j < width; ++j) {                                            \
                    if (rows) {                                                                  \
                        const T lost = scale * sum[j];                                           \
                        out[row + j] -= lost;                                                    \
                        if (after)                                                               \
                            after[row + j] -= lost;                                              \
                    } else {                                                                     \
                        T q = scale * (b[row + j] - sum[j]);                                     \
                        if (before)                                                              \
                            q += beta * before[row + j];                                         \
                        if (after)                                                               \
                            after[row + j] = q;                                                  \
                        out[row + j] = here[row + j] + q;                                        \
                    }                                                                            \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    CLONED void hpc_sla_csr_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,         \
                                         const T *here, const int32_t *rows, const T *b,         \
                                         const T *d, const T *coefficients, const T *before,     \
                                         T *after, T *out)                                       \
    {                                                                                            \
        if (k == 1 && !rows && before && !after)                                                 \
            relax_##NAME(1, A, x, here, NULL, b, d, coefficients, before, NULL, out);            \
        else if (k == 1 && !rows && !before && after)                                            \
            relax_##NAME(1, A, x, here, NULL, b, d, coefficients, NULL, after, out);             \
        else                                                                                     \
            relax_##NAME(k, A, x, here, rows, b, d, coefficients, before, after, out);           \
    }

DEFINE(double, float64)
DEFINE(float, float32)
