/* A sweep over vectors in pieces of rows that has a product in it: what the product reads is made on
 * the way, just ahead of it. `hpc_sla.kernels.sweep` lays these out. */
#ifndef HPC_SLA_SWEEP_H
#define HPC_SLA_SWEEP_H

#include "matrix.h"

/* What other ranks wait for; the product; what they sent; and with no product the update alone, and
 * the end of a cycle. */
enum { SWEEP_SEND, SWEEP_MAIN, SWEEP_RECEIVE, SWEEP_UPDATE, SWEEP_END };

typedef struct {
    int64_t rows, count, n_sent, n_boundary;
    /* How many pieces must be made before the product of each can be. */
    const int32_t *reach;
    /* Rows that other ranks are sent, and rows that get something from them. */
    const int32_t *sent, *boundary;
    const hpc_sla_matrix *matrix;
    void *basis, *z;
    const void *inverse;
    double *room;
} hpc_sla_sweep;

void hpc_sla_csr_matmul_float64(int64_t n, int64_t k, const int32_t *indptr, const int32_t *indices,
                                const double *values, const double *x, const int32_t *rows,
                                double *y, const double *w, double *dot, double *square);
void hpc_sla_csr_matmul_float32(int64_t n, int64_t k, const int32_t *indptr, const int32_t *indices,
                                const float *values, const float *x, const int32_t *rows, float *y,
                                const float *w, float *dot, float *square);

void hpc_sla_packed_rows_float64(const hpc_sla_matrix *A, int64_t *near, int64_t first,
                                 int64_t last, const double *x, double *y);
void hpc_sla_packed_rows_float32(const hpc_sla_matrix *A, int64_t *near, int64_t first,
                                 int64_t last, const float *x, float *y);

#endif
