/* A matrix of this rank's rows, however it is stored, for kernels that take any form. */
#ifndef HPC_SLA_MATRIX_H
#define HPC_SLA_MATRIX_H

#include "native.h"

enum { MATRIX_CSR = 0, MATRIX_ROWS = 1, MATRIX_TILED = 32 };

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
     * MATRIX_TILED, for transfer.c alone: as MATRIX_CSR of dense tiles, and their size (int64 [2]):
     * the columns and rows of one, whose entries come column by column. */
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

/* Row i: how many entries, and where their columns (ascending) and values are. They may be written
 * to the caller's room, which must hold the longest row; `near` is the caller's too, 0 before the
 * first row, and makes the next rows quick to find. */
#define DEFINE_MATRIX_ROW(T, NAME)                                                               \
    INLINE int32_t matrix_row_##NAME(const hpc_sla_matrix *A, int64_t i, int64_t *near,          \
                                     int32_t *index_room, T *value_room, const int32_t **indices,\
                                     const T **values)                                           \
    {                                                                                            \
        if (A->form == MATRIX_ROWS) {                                                            \
            const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];      \
            const int64_t r = i % A->block, lanes = matrix_lanes(A->block);                      \
            *near = matrix_run(starts, i, *near);                                                \
            const int32_t begin = ends[kinds[*near]], length = ends[kinds[*near] + 1] - begin;   \
            const int32_t *o = (const int32_t *)A->parts[3] + begin;                             \
            const T *v = (const T *)A->parts[4] + begin * lanes + r;                             \
            for (int32_t e = 0; e < length; ++e)                                                 \
                index_room[e] = (int32_t)(o[e] + i - r), value_room[e] = v[e * lanes];           \
            *indices = index_room, *values = value_room;                                         \
            return length;                                                                       \
        }                                                                                        \
        const int32_t *indptr = A->parts[0];                                                     \
        *indices = (const int32_t *)A->parts[1] + indptr[i];                                     \
        *values = (const T *)A->parts[2] + indptr[i];                                            \
        return indptr[i + 1] - indptr[i];                                                        \
    }

DEFINE_MATRIX_ROW(double, float64)
DEFINE_MATRIX_ROW(float, float32)

#endif
