/* Restriction and prolongation of a multigrid cycle, both by the rows of P^T, which alone is held.
 * As in native.c, vectors are [n] or [n, k] by rows.
 *
 * Prolongation adds to each unknown in the order of the rows of R = P^T. So its parts are of unknowns:
 * each goes over the rows that reach into it, and of those that reach beyond takes what is inside. */
#include "matrix.h"
#include "threads.h"

/* Of how many rows of R (of tiles) a part asks at once whether they reach into it. */
#define REACH 256

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *indices, const T *values, const T *x,          \
                                   const int32_t *rows, T *y, const T *w, T *dot, T *square);    \
                                                                                                 \
    /* x += R^T e, of rows begin to end of R and where `clipped` of columns first to last. */    \
    INLINE void prolong_rows_##NAME(int64_t k, const hpc_sla_matrix *R, int64_t begin,           \
                                    int64_t end, int clipped, int64_t first, int64_t last,       \
                                    const T *restrict e, T *restrict x)                          \
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = begin; i < end; ++i) {                                                  \
            const T *restrict from = e + i * k;                                                  \
            FETCH_ENTRY(values + indptr[i] + AHEAD);                                             \
            FETCH_ENTRY(indices + indptr[i] + AHEAD);                                            \
            for (int32_t f = indptr[i]; f < indptr[i + 1]; ++f) {                                \
                if (clipped && (indices[f] < first || indices[f] >= last))                       \
                    continue;                                                                    \
                T *restrict to = x + indices[f] * k;                                             \
                for (int64_t j = 0; j < k; ++j)                                                  \
                    to[j] += values[f] * from[j];                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* The same of tiles: `wide` rows of R by `high` columns, the tiles as they are in P. */     \
    INLINE void prolong_tiles_##NAME(int64_t k, int64_t high, int64_t wide,                      \
                                     const hpc_sla_matrix *R, int64_t begin, int64_t end,        \
                                     int clipped, int64_t first, int64_t last,                   \
                                     const T *restrict e, T *restrict x)                         \
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = begin; i < end; ++i) {                                                  \
            const T *restrict from = e + i * wide * k;                                           \
            for (int64_t f = indptr[i]; f < indptr[i + 1]; ++f) {                                \
                if (clipped && (indices[f] < first || indices[f] >= last))                       \
                    continue;                                                                    \
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
                                      const hpc_sla_matrix *R, int64_t begin, int64_t end,       \
                                      const T *restrict x, T *restrict out)                      \
    {                                                                                            \
        const int32_t *restrict indptr = R->parts[0], *restrict indices = R->parts[1];           \
        const T *restrict values = R->parts[2];                                                  \
        for (int64_t i = begin; i < end; ++i) {                                                  \
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
    static CLONED void restrict_part_##NAME(const void *const *a, int64_t first, int64_t last,   \
                                            void *none)                                          \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const hpc_sla_matrix *R = a[1];                                                          \
        const int64_t *size = R->parts[3];                                                       \
        T *out = (T *)a[3];                                                                      \
        (void)none;                                                                              \
        if (R->form != MATRIX_TILED)                                                             \
            hpc_sla_csr_matmul_##NAME(last - first, k, (const int32_t *)R->parts[0] + first,     \
                                      R->parts[1], R->parts[2], a[2], NULL, out + first * k,     \
                                      NULL, NULL, NULL);                                         \
        else if (k == 1 && size[0] == 3 && size[1] == 6)                                         \
            restrict_tiles_##NAME(1, 3, 6, R, first, last, a[2], out);                           \
        else if (k == 1 && size[0] == 6 && size[1] == 6)                                         \
            restrict_tiles_##NAME(1, 6, 6, R, first, last, a[2], out);                           \
        else                                                                                     \
            restrict_tiles_##NAME(k, size[0], size[1], R, first, last, a[2], out);               \
    }                                                                                            \
                                                                                                 \
    /* out = R x. */                                                                             \
    void hpc_sla_restrict_##NAME(int64_t k, const hpc_sla_matrix *R, const T *x, T *out)         \
    {                                                                                            \
        const int64_t wide = R->form == MATRIX_TILED ? ((const int64_t *)R->parts[3])[1] : 1;    \
        const void *a[] = {&k, R, x, out};                                                       \
        hpc_sla_run(R->rows / wide, k * wide * matrix_weight(R), R->parts[0],                    \
                    restrict_part_##NAME, a, 0, 0, NULL);                                        \
    }                                                                                            \
                                                                                                 \
    /* Columns first to last, of tiles where there are any. */                                   \
    static CLONED void prolong_part_##NAME(const void *const *a, int64_t first, int64_t last,    \
                                           void *none)                                           \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const hpc_sla_matrix *R = a[1];                                                          \
        const int tiled = R->form == MATRIX_TILED;                                               \
        const int64_t *size = R->parts[3], rows = tiled ? R->rows / size[1] : R->rows;           \
        const int32_t *reach = R->parts[4];                                                      \
        const T *e = a[2];                                                                       \
        T *x = (T *)a[3];                                                                        \
        (void)none;                                                                              \
        for (int64_t i = 0; i < rows; i += REACH, reach += 2) {                                  \
            const int64_t end = i + REACH < rows ? i + REACH : rows;                             \
            if (reach[1] < first || reach[0] >= last)                                            \
                continue;                                                                        \
            const int clipped = reach[0] < first || reach[1] >= last;                            \
            if (!tiled && k == 1 && !clipped)                                                    \
                prolong_rows_##NAME(1, R, i, end, 0, 0, 0, e, x);                                \
            else if (!tiled)                                                                     \
                prolong_rows_##NAME(k, R, i, end, clipped, first, last, e, x);                   \
            else if (k == 1 && size[0] == 3 && size[1] == 6)                                     \
                prolong_tiles_##NAME(1, 3, 6, R, i, end, clipped, first, last, e, x);            \
            else if (k == 1 && size[0] == 6 && size[1] == 6)                                     \
                prolong_tiles_##NAME(1, 6, 6, R, i, end, clipped, first, last, e, x);            \
            else                                                                                 \
                prolong_tiles_##NAME(k, size[0], size[1], R, i, end, clipped, first, last, e, x);\
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* x += R^T e. */                                                                            \
    void hpc_sla_prolong_##NAME(int64_t k, const hpc_sla_matrix *R, const T *e, T *x)            \
    {                                                                                            \
        const int64_t high = R->form == MATRIX_TILED ? *(const int64_t *)R->parts[3] : 1;        \
        const void *a[] = {&k, R, e, x};                                                         \
        /* The halo's few entries are not worth a crew, however many unknowns there are. */      \
        if (hpc_sla_parts(R->entries, k) == 1)                                                   \
            prolong_part_##NAME(a, 0, R->columns / high, NULL);                                  \
        else                                                                                     \
            hpc_sla_run(R->columns / high, k * high * (1 + R->entries / R->columns), NULL,       \
                        prolong_part_##NAME, a, 0, 0, NULL);                                     \
    }

DEFINE(double, float64)
DEFINE(float, float32)
