/* Restriction and prolongation of a multigrid cycle, both by the rows of P^T, which alone is held.
 * As in native.c, vectors are [n] or [n, k] by rows. */
#include "matrix.h"

#define DEFINE(T, NAME)                                                                          \
    /* x += R^T e, row by row of R: each unknown's sum is made in the order of R's rows. */      \
    INLINE void prolong_rows_##NAME(int64_t k, const hpc_sla_matrix *R, const T *restrict e,     \
                                    T *restrict x)                                               \
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = 0; i < R->rows; ++i) {                                                  \
            const T *restrict from = e + i * k;                                                  \
            FETCH_ENTRY(values + indptr[i] + AHEAD);                                             \
            FETCH_ENTRY(indices + indptr[i] + AHEAD);                                            \
            for (int32_t f = indptr[i]; f < indptr[i + 1]; ++f) {                                \
                T *restrict to = x + indices[f] * k;                                             \
                for (int64_t j = 0; j < k; ++j)                                                  \
                    to[j] += values[f] * from[j];                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* The two for tiles: `wide` rows of R by `high` columns, the tiles as they are in P. */     \
    INLINE void prolong_tiles_##NAME(int64_t k, int64_t high, int64_t wide,                      \
                                     const hpc_sla_matrix *R, const T *restrict e, T *restrict x)\
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = 0; i < R->rows / wide; ++i) {                                           \
            const T *restrict from = e + i * wide * k;                                           \
            for (int64_t f = indptr[i]; f < indptr[i + 1]; ++f) {                                \
                const T *restrict tile = values + f * high * wide;                               \
                T *restrict to = x + indices[f] * high * k;                                      \
                for (int64_t r = 0; r < high; ++r)                                               \
                    for (int64_t j = 0; j < k; ++j) {                                            \
                        T sum = 0;                                                               \
                        for (int64_t q = 0; q < wide; ++q)                                       \
                            sum += tile[r * wide + q] * from[q * k + j];                         \
                        to[r * k + j] += sum;                                                    \
                    }                                                                            \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void restrict_tiles_##NAME(int64_t k, int64_t high, int64_t wide,                     \
                                      const hpc_sla_matrix *R, const T *restrict x,              \
                                      T *restrict out)                                           \
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = 0; i < R->rows / wide; ++i) {                                           \
            T *restrict to = out + i * wide * k;                                                 \
            for (int64_t q = 0; q < wide * k; ++q)                                               \
                to[q] = 0;                                                                       \
            for (int64_t f = indptr[i]; f < indptr[i + 1]; ++f) {                                \
                const T *restrict tile = values + f * high * wide;                               \
                const T *restrict from = x + indices[f] * high * k;                              \
                for (int64_t r = 0; r < high; ++r)                                               \
                    for (int64_t q = 0; q < wide; ++q)                                           \
                        for (int64_t j = 0; j < k; ++j)                                          \
                            to[q * k + j] += tile[r * wide + q] * from[r * k + j];               \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* out = R x. */                                                                             \
    CLONED void hpc_sla_restrict_##NAME(int64_t k, const hpc_sla_matrix *R, const T *x, T *out)  \
    {                                                                                            \
        if (R->form != MATRIX_TILED) {                                                           \
            hpc_sla_product_##NAME(k, R, x, NULL, out, NULL, NULL, NULL);                        \
            return;                                                                              \
        }                                                                                        \
        const int64_t *size = R->parts[3];                                                       \
        if (k == 1 && size[0] == 3 && size[1] == 6)                                              \
            restrict_tiles_##NAME(1, 3, 6, R, x, out);                                           \
        else if (k == 1 && size[0] == 6 && size[1] == 6)                                         \
            restrict_tiles_##NAME(1, 6, 6, R, x, out);                                           \
        else                                                                                     \
            restrict_tiles_##NAME(k, size[0], size[1], R, x, out);                               \
    }                                                                                            \
                                                                                                 \
    /* x += R^T e. */                                                                            \
    CLONED void hpc_sla_prolong_##NAME(int64_t k, const hpc_sla_matrix *R, const T *e, T *x)     \
    {                                                                                            \
        const int64_t *size = R->parts[3];                                                       \
        if (R->form != MATRIX_TILED && k == 1)                                                   \
            prolong_rows_##NAME(1, R, e, x);                                                     \
        else if (R->form != MATRIX_TILED)                                                        \
            prolong_rows_##NAME(k, R, e, x);                                                     \
        else if (k == 1 && size[0] == 3 && size[1] == 6)                                         \
            prolong_tiles_##NAME(1, 3, 6, R, e, x);                                              \
        else if (k == 1 && size[0] == 6 && size[1] == 6)                                         \
            prolong_tiles_##NAME(1, 6, 6, R, e, x);                                              \
        else                                                                                     \
            prolong_tiles_##NAME(k, size[0], size[1], R, e, x);                                  \
    }

DEFINE(double, float64)
DEFINE(float, float32)
