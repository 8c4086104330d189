/* What is done with a rank-local matrix, however it is stored. */
#include "matrix.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *indices, const T *values, const T *x,          \
                                   const int32_t *rows, T *y, const T *w, T *dot, T *square);    \
    void hpc_sla_csr_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,               \
                                   const int32_t *rows, const T *b, const T *scale, T *out);     \
    void hpc_sla_csr_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here, \
                                  const int32_t *rows, const T *b, const T *d,                   \
                                  const T *coefficients, const T *before, T *after, T *out);     \
                                                                                                 \
    void hpc_sla_product_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,                  \
                                const int32_t *rows, T *y, const T *w, T *dot, T *square)        \
    {                                                                                            \
        hpc_sla_csr_matmul_##NAME(A->rows, k, A->parts[0], A->parts[1], A->parts[2], x, rows, y, \
                                  w, dot, square);                                               \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,                   \
                               const int32_t *rows, const T *b, const T *scale, T *out)          \
    {                                                                                            \
        hpc_sla_csr_affine_##NAME(k, A, x, rows, b, scale, out);                                 \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here,     \
                              const int32_t *rows, const T *b, const T *d,                       \
                              const T *coefficients, const T *before, T *after, T *out)          \
    {                                                                                            \
        hpc_sla_csr_relax_##NAME(k, A, x, here, rows, b, d, coefficients, before, after, out);   \
    }

DEFINE(double, float64)
DEFINE(float, float32)
