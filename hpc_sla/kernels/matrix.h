/* A matrix of this rank's rows, however it is stored, for kernels that take any form. */
#ifndef HPC_SLA_MATRIX_H
#define HPC_SLA_MATRIX_H

#include "native.h"

enum {
    MATRIX_CSR = 0,
    MATRIX_ROWS = 1,
    MATRIX_PATTERNS = 2,
    MATRIX_NODES = 3,
    MATRIX_SHORT = 4,
    MATRIX_CODED_8 = 5,
    MATRIX_CODED_16 = 6,
    MATRIX_SLICED = 7,
    MATRIX_SLICED_8 = 8,
    MATRIX_SLICED_16 = 9,
    MATRIX_TILED = 32,
};

/* Rows that share a base in MATRIX_SHORT: a window. */
#define SHORT_ROWS 256
/* Rows of a slice of MATRIX_SLICED, and slices of a window. */
#define SLICE 8
#define SLICES (SHORT_ROWS / SLICE)

/* As `hpc_sla.kernels.matrix.Matrix` lays it out. */
typedef struct {
    int64_t form;
    int64_t rows, columns, entries;
    /* By form.
     * MATRIX_CSR: indptr (int32), indices (int32), values.
     * MATRIX_ROWS, a dictionary of nodes of `block` rows: starts of runs of nodes of one kind
     * (int32 [runs + 1]), their kinds (int32 [runs]), ends (int32 [kinds + 1]): the entries of a
     * kind, which are columns less the node's first row (int32) and values [entries, lanes], as
     * many lanes as `matrix_lanes` says, of which the last are 0.
     * MATRIX_PATTERNS, a dictionary of rows' columns: the first four of these, where in the values
     * each run begins (int32 [runs]), values.
     * MATRIX_NODES, whose `block` rows have the same columns, as many side by side: where a node's
     * first row begins in the next (int32 [nodes + 1]), which are its columns' nodes (int32);
     * values, row by row.
     * MATRIX_SHORT, 16-bit columns: indptr (int32), values, and of each SHORT_ROWS rows the lowest
     * column (int32) and where their columns less that are among the next (int32), which are uint16;
     * or ~ where they are among the one after that, int32, of which the columns are too far apart.
     * MATRIX_CODED_8 and _16: the same with uint8 or uint16 in place of the values, which are
     * places in the last part, the values that there are.
     * MATRIX_SLICED (SELL-C-sigma of Kreutzer et al. 2014): the rows of each window by their
     * lengths, the longest first, SLICE of them side by side: where slices begin (int32), values,
     * and the last four of MATRIX_SHORT, then where in its window each row went (uint8 [rows]),
     * and how long the one at each place is (uint8 [rows]). The first entries of a slice's rows,
     * then the second ones, and so on; of a shorter row 0 times the last one's column. `block` is
     * SHORT_ROWS.
     * MATRIX_SLICED_8 and _16: with codes, as above.
     * MATRIX_TILED, for transfer.c alone: as MATRIX_CSR of dense tiles, and their size (int64 [2]):
     * the columns and rows of one, whose entries come column by column.
     * For transfer.c, part 8 of any: of each SHORT_ROWS rows (of tiles) the first and the last
     * column (int32), 0 and -1 where there are none. */
    const void *parts[12];
    /* Rows of a node, 1 where there are none. */
    int64_t block;
} hpc_sla_matrix;

/* y = A x, or y[rows] += A x, and inner products: as csr_matmul in native.c. */
void hpc_sla_product_float64(int64_t k, const hpc_sla_matrix *A, const double *x,
                             const int32_t *rows, double *y, const double *w, double *dot,
                             double *square);
void hpc_sla_product_float32(int64_t k, const hpc_sla_matrix *A, const float *x,
                             const int32_t *rows, float *y, const float *w, float *dot,
                             float *square);

/* out = b + scale A x, or out[rows] += scale A x: relax.c. */
void hpc_sla_affine_float64(int64_t k, const hpc_sla_matrix *A, const double *x,
                            const int32_t *rows, const double *b, const double *scale,
                            double *out);
void hpc_sla_affine_float32(int64_t k, const hpc_sla_matrix *A, const float *x,
                            const int32_t *rows, const float *b, const float *scale, float *out);

/* q = beta before + alpha d (b - A x);  out = here + q, after = q: relax.c. */
void hpc_sla_relax_float64(int64_t k, const hpc_sla_matrix *A, const double *x,
                           const double *here, const int32_t *rows, const double *b,
                           const double *d, const double *coefficients, const double *before,
                           double *after, double *out);
void hpc_sla_relax_float32(int64_t k, const hpc_sla_matrix *A, const float *x, const float *here,
                           const int32_t *rows, const float *b, const float *d,
                           const float *coefficients, const float *before, float *after,
                           float *out);

/* out = R x, and x += R^T e, for R = P^T: transfer.c. */
void hpc_sla_restrict_float64(int64_t k, const hpc_sla_matrix *R, const double *x, double *out);
void hpc_sla_restrict_float32(int64_t k, const hpc_sla_matrix *R, const float *x, float *out);
void hpc_sla_prolong_float64(int64_t k, const hpc_sla_matrix *R, const double *e, double *x);
void hpc_sla_prolong_float32(int64_t k, const hpc_sla_matrix *R, const float *e, float *x);

INLINE int64_t matrix_lanes(int64_t block)
{
    return block == 1 ? 1 : block <= 4 ? 4 : 8;
}

/* Numbers of a row, for `hpc_sla_run`. */
INLINE int64_t matrix_weight(const hpc_sla_matrix *A)
{
    return A->rows ? 1 + A->entries / A->rows : 1;
}

/* Where the node of row i begins, so that parts of the rows are of whole nodes; the end stays. */
INLINE int64_t matrix_node(const hpc_sla_matrix *A, int64_t i)
{
    return i < A->rows ? i - i % A->block : i;
}

/* The run of rows that row i lies in; `near` is where the last one was found. Rows asked for in
 * ascending order are found at once, others by steps that double. */
INLINE int64_t matrix_run(const int32_t *starts, int64_t i, int64_t near)
{
    int64_t step = 1;
    for (; starts[near] > i; step *= 2)
        near = near > step ? near - step : 0;
    while (starts[near + 1] <= i)
        ++near;
    return near;
}

/* Where columns begin in MATRIX_SHORT and _SLICED: a base and 16 bits, or 32 bits. */
typedef struct {
    int32_t base;
    const uint16_t *near;
    const int32_t *far;
} hpc_sla_columns;

/* `skip` entries into a window. */
INLINE hpc_sla_columns matrix_window(const hpc_sla_matrix *A, int64_t window, int64_t skip)
{
    const int32_t place = ((const int32_t *)A->parts[3])[window];
    hpc_sla_columns found = {((const int32_t *)A->parts[2])[window], NULL, NULL};
    if (place >= 0)
        found.near = (const uint16_t *)A->parts[4] + place + skip;
    else
        found.far = (const int32_t *)A->parts[5] + ~place + skip;
    return found;
}

INLINE hpc_sla_columns matrix_columns(const hpc_sla_matrix *A, int64_t i)
{
    const int32_t *indptr = A->parts[0];
    const int64_t window = i / SHORT_ROWS;
    return matrix_window(A, window, indptr[i] - indptr[window * SHORT_ROWS]);
}

/* Row i of MATRIX_SLICED: how many entries, the first one, and the first one's column. */
INLINE int32_t matrix_sliced(const hpc_sla_matrix *A, int64_t i, int64_t *at,
                             hpc_sla_columns *columns)
{
    const int32_t *starts = A->parts[0];
    const int64_t window = i / SHORT_ROWS, place = ((const uint8_t *)A->parts[6])[i];
    *at = starts[window * SLICES + place / SLICE] + place % SLICE;
    *columns = matrix_window(A, window, *at - starts[window * SLICES]);
    return ((const uint8_t *)A->parts[7])[window * SHORT_ROWS + place];
}

/* The column of entry e of such a row. */
#define IN_SLICE(columns, e)                                                                     \
    ((columns).near ? (columns).base + (columns).near[(e) * SLICE] : (columns).far[(e) * SLICE])

/* Row i: how many entries, and where their columns (ascending) and values are. They may be written
 * to the caller's room, which must hold the longest row; `near` is the caller's too, 0 before the
 * first row, and makes the next rows quick to find. */
#define DEFINE_MATRIX_ROW(T, NAME)                                                               \
    /* Entry e of a row of MATRIX_SLICED whose first one is at `at`. */                          \
    INLINE T sliced_##NAME(const hpc_sla_matrix *A, int64_t at, int32_t e)                       \
    {                                                                                            \
        const T *d = A->parts[8];                                                                \
        at += e * SLICE;                                                                         \
        return A->form == MATRIX_SLICED     ? ((const T *)A->parts[1])[at]                       \
               : A->form == MATRIX_SLICED_8 ? d[((const uint8_t *)A->parts[1])[at]]              \
                                            : d[((const uint16_t *)A->parts[1])[at]];            \
    }                                                                                            \
                                                                                                 \
    INLINE int32_t matrix_row_##NAME(const hpc_sla_matrix *A, int64_t i, int64_t *near,          \
                                     int32_t *index_room, T *value_room, const int32_t **indices,\
                                     const T **values)                                           \
    {                                                                                            \
        if (A->form == MATRIX_ROWS || A->form == MATRIX_PATTERNS) {                              \
            const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];      \
            const int64_t b = A->block, r = b == 1 ? 0 : i % b, lanes = matrix_lanes(b);         \
            *near = matrix_run(starts, i, *near);                                                \
            const int32_t begin = ends[kinds[*near]], length = ends[kinds[*near] + 1] - begin;   \
            const int32_t *o = (const int32_t *)A->parts[3] + begin;                             \
            for (int32_t e = 0; e < length; ++e)                                                 \
                index_room[e] = (int32_t)(o[e] + i - r);                                         \
            *indices = index_room, *values = value_room;                                         \
            if (A->form == MATRIX_PATTERNS) {                                                    \
                *values = (const T *)A->parts[5] + ((const int32_t *)A->parts[4])[*near] +       \
                          (i - starts[*near]) * length;                                          \
                return length;                                                                   \
            }                                                                                    \
            const T *v = (const T *)A->parts[4] + begin * lanes + r;                             \
            for (int32_t e = 0; e < length; ++e)                                                 \
                value_room[e] = v[e * lanes];                                                    \
            return length;                                                                       \
        }                                                                                        \
        if (A->form >= MATRIX_SLICED && A->form <= MATRIX_SLICED_16) {                           \
            hpc_sla_columns c;                                                                   \
            int64_t at;                                                                          \
            const int32_t length = matrix_sliced(A, i, &at, &c);                                 \
            for (int32_t e = 0; e < length; ++e)                                                 \
                index_room[e] = IN_SLICE(c, e), value_room[e] = sliced_##NAME(A, at, e);         \
            *indices = index_room, *values = value_room;                                         \
            return length;                                                                       \
        }                                                                                        \
        const int32_t *indptr = A->parts[0];                                                     \
        if (A->form == MATRIX_NODES) {                                                           \
            const int64_t b = A->block, r = i % b, begin = indptr[i / b];                        \
            const int32_t there = (int32_t)(indptr[i / b + 1] - begin);                          \
            const int32_t *from = (const int32_t *)A->parts[1] + begin;                          \
            for (int32_t e = 0; e < there; ++e)                                                  \
                for (int64_t c = 0; c < b; ++c)                                                  \
                    index_room[e * b + c] = (int32_t)(from[e] * b + c);                          \
            *indices = index_room;                                                               \
            *values = (const T *)A->parts[2] + begin * b * b + r * there * b;                    \
            return (int32_t)(there * b);                                                         \
        }                                                                                        \
        const int32_t length = indptr[i + 1] - indptr[i];                                        \
        if (A->form == MATRIX_CSR) {                                                             \
            *indices = (const int32_t *)A->parts[1] + indptr[i];                                 \
            *values = (const T *)A->parts[2] + indptr[i];                                        \
            return length;                                                                       \
        }                                                                                        \
        const hpc_sla_columns columns = matrix_columns(A, i);                                    \
        for (int32_t e = 0; columns.near && e < length; ++e)                                     \
            index_room[e] = columns.base + columns.near[e];                                      \
        *indices = columns.near ? index_room : columns.far;                                      \
        *values = A->form == MATRIX_SHORT ? (const T *)A->parts[1] + indptr[i] : value_room;     \
        for (int32_t e = 0; A->form == MATRIX_CODED_8 && e < length; ++e)                        \
            value_room[e] =                                                                      \
                ((const T *)A->parts[6])[((const uint8_t *)A->parts[1])[indptr[i] + e]];         \
        for (int32_t e = 0; A->form == MATRIX_CODED_16 && e < length; ++e)                       \
            value_room[e] =                                                                      \
                ((const T *)A->parts[6])[((const uint16_t *)A->parts[1])[indptr[i] + e]];        \
        return length;                                                                           \
    }

DEFINE_MATRIX_ROW(double, float64)
DEFINE_MATRIX_ROW(float, float32)

#endif
