/* Restriction and prolongation of a multigrid cycle, both by the rows of P^T, which alone is held.
 * As in native.c, vectors are [n] or [n, k] by rows.
 *
 * Prolongation adds to each unknown in the order of the rows of R = P^T. So its parts are of unknowns:
 * each goes over the rows that reach into it, and of those that reach beyond takes what is inside. */
#include "matrix.h"
#include "threads.h"

/* Of how many rows of R (of tiles) a part asks at once whether they reach into it: those that have
 * a base in common, too. */
#define REACH SHORT_ROWS

#define PLAIN(f) (code[f])
#define CODED(f) (d[code[f]])

/* x += R^T e, of n rows of R whose first entry has its column at c and its value at code, and where
 * `clipped` of columns first to last. */
#define DEFINE_ROWS_OF(T, NAME, COLUMN, CODE, VALUE)                                             \
    INLINE void NAME(int64_t k, int64_t n, const int32_t *restrict indptr,                       \
                     const COLUMN *restrict c, const CODE *restrict code, const T *restrict d,   \
                     int clipped, int64_t first, int64_t last, const T *restrict e,              \
                     T *restrict x)                                                              \
    {                                                                                            \
        int32_t f = 0;                                                                           \
        (void)d;                                                                                 \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const T *restrict from = e + i * k;                                                  \
            FETCH_ENTRY(code + f + AHEAD);                                                       \
            FETCH_ENTRY(c + f + AHEAD);                                                          \
            const int32_t end = indptr[i + 1] - indptr[0];                                       \
            /* Columns of a row differ, so four can be under way at a time. */                   \
            for (; k == 1 && !clipped && f + 4 <= end; f += 4) {                                 \
                T sum[4];                                                                        \
                for (int j = 0; j < 4; ++j)                                                      \
                    sum[j] = x[c[f + j]] + VALUE(f + j) * from[0];                               \
                for (int j = 0; j < 4; ++j)                                                      \
                    x[c[f + j]] = sum[j];                                                        \
            }                                                                                    \
            for (; f < end; ++f) {                                                               \
                const int64_t column = c[f];                                                     \
                if (clipped && (column < first || column >= last))                               \
                    continue;                                                                    \
                T *restrict to = x + column * k;                                                 \
                for (int64_t j = 0; j < k; ++j)                                                  \
                    to[j] += VALUE(f) * from[j];                                                 \
            }                                                                                    \
        }                                                                                        \
    }

#define ADD(ROWS, COLUMNS, CODES, BASE)                                                          \
    ROWS(k, end - begin, indptr, COLUMNS, CODES, R->parts[6], clipped, first - (BASE),           \
         last - (BASE), e + begin * k, x + (int64_t)(BASE)*k)

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *indices, const T *values, const T *x,          \
                                   const int32_t *rows, T *y, const T *w, T *dot, T *square);    \
    void hpc_sla_span_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first, int64_t last,\
                             int64_t width, int64_t k, const T *x, T *out, int64_t stride);      \
                                                                                                 \
    DEFINE_ROWS_OF(T, near_plain_##NAME, uint16_t, T, PLAIN)                                     \
    DEFINE_ROWS_OF(T, near_8_##NAME, uint16_t, uint8_t, CODED)                                   \
    DEFINE_ROWS_OF(T, near_16_##NAME, uint16_t, uint16_t, CODED)                                 \
    DEFINE_ROWS_OF(T, far_plain_##NAME, int32_t, T, PLAIN)                                       \
    DEFINE_ROWS_OF(T, far_8_##NAME, int32_t, uint8_t, CODED)                                     \
    DEFINE_ROWS_OF(T, far_16_##NAME, int32_t, uint16_t, CODED)                                   \
                                                                                                 \
    /* Rows begin to end of R, which have a base in common. */                                   \
    INLINE void prolong_rows_##NAME(int64_t k, const hpc_sla_matrix *R, int64_t begin,           \
                                    int64_t end, int clipped, int64_t first, int64_t last,       \
                                    const T *e, T *x)                                            \
    {                                                                                            \
        const int32_t *indptr = (const int32_t *)R->parts[0] + begin;                            \
        const T *values = (const T *)R->parts[R->form == MATRIX_CSR ? 2 : 1] + indptr[0];        \
        const uint8_t *bytes = (const uint8_t *)R->parts[1] + indptr[0];                         \
        const uint16_t *words = (const uint16_t *)R->parts[1] + indptr[0];                       \
        if (R->form == MATRIX_CSR) {                                                             \
            ADD(far_plain_##NAME, (const int32_t *)R->parts[1] + indptr[0], values, 0);          \
            return;                                                                              \
        }                                                                                        \
        const hpc_sla_columns c = matrix_columns(R, begin);                                      \
        if (R->form == MATRIX_SHORT && c.near)                                                   \
            ADD(near_plain_##NAME, c.near, values, c.base);                                      \
        else if (R->form == MATRIX_SHORT)                                                        \
            ADD(far_plain_##NAME, c.far, values, 0);                                             \
        else if (R->form == MATRIX_CODED_8 && c.near)                                            \
            ADD(near_8_##NAME, c.near, bytes, c.base);                                           \
        else if (R->form == MATRIX_CODED_8)                                                      \
            ADD(far_8_##NAME, c.far, bytes, 0);                                                  \
        else if (c.near)                                                                         \
            ADD(near_16_##NAME, c.near, words, c.base);                                          \
        else                                                                                     \
            ADD(far_16_##NAME, c.far, words, 0);                                                 \
    }                                                                                            \
                                                                                                 \
    /* Rows of tiles: `wide` rows of R by `high` columns, the tiles as they are in P. */         \
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
        int64_t near = 0;                                                                        \
        if (R->form == MATRIX_CSR)                                                               \
            hpc_sla_csr_matmul_##NAME(last - first, k, (const int32_t *)R->parts[0] + first,     \
                                      R->parts[1], R->parts[2], a[2], NULL, out + first * k,     \
                                      NULL, NULL, NULL);                                         \
        else if (R->form != MATRIX_TILED)                                                        \
            for (int64_t c = 0; c < k; c += WIDTH)                                               \
                hpc_sla_span_##NAME(R, &near, first, last, k - c < WIDTH ? k - c : WIDTH, k,     \
                                    (const T *)a[2] + c, out + first * k + c, k);                \
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
        const int32_t *reach = R->parts[8];                                                      \
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
