/* A rank-local matrix, however it is stored: what kernels take that serve every form. */
#ifndef HPC_SLA_MATRIX_H
#define HPC_SLA_MATRIX_H

#include "native.h"

enum { MATRIX_CSR = 0, MATRIX_TILED = 32 };

/* As `hpc_sla.kernels.matrix.Matrix` lays it out. */
typedef struct {
    int64_t form;
    int64_t rows, columns, entries;
    /* By form. MATRIX_CSR: indptr (int32), indices (int32), values.
     * MATRIX_TILED, for transfer.c alone: the same of dense tiles, and their size (int64 [2]): the
     * columns and rows of one, whose entries come column by column. */
    const void *parts[12];
} hpc_sla_matrix;

/* y = A x, or y[rows] += A x, and inner products: as csr_matmul in native.c. */
void hpc_sla_product_float64(int64_t k, const hpc_sla_matrix *A, const double *x,
                             const int32_t *rows, double *y, const double *w, double *dot,
                             double *square);
void hpc_sla_product_float32(int64_t k, const hpc_sla_matrix *A, const float *x,
                             const int32_t *rows, float *y, const float *w, float *dot,
                             float *square);

/* Row i: how many entries, and where their columns (ascending) and values are. They may be written
 * to the caller's room, which must hold the longest row; `near` is the caller's too, 0 before the
 * first row, and makes the next rows quick to find. */
#define DEFINE_MATRIX_ROW(T, NAME)                                                               \
    INLINE int32_t matrix_row_##NAME(const hpc_sla_matrix *A, int64_t i, int64_t *near,          \
                                     int32_t *index_room, T *value_room, const int32_t **indices,\
                                     const T **values)                                           \
    {                                                                                            \
        const int32_t *indptr = A->parts[0];                                                     \
        (void)near, (void)index_room, (void)value_room;                                          \
        *indices = (const int32_t *)A->parts[1] + indptr[i];                                     \
        *values = (const T *)A->parts[2] + indptr[i];                                            \
        return indptr[i + 1] - indptr[i];                                                        \
    }

DEFINE_MATRIX_ROW(double, float64)
DEFINE_MATRIX_ROW(float, float32)

#endif
