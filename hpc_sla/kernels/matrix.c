/* What is done with a rank-local matrix, however it is stored. */
#include <string.h>

#include "matrix.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *indices, const T *values, const T *x,          \
                                   const int32_t *rows, T *y, const T *w, T *dot, T *square);    \
    void hpc_sla_packed_product_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,           \
                                       const int32_t *rows, T *y, const T *w, T *dot,            \
                                       T *square);                                               \
    void hpc_sla_csr_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,               \
                                   const int32_t *rows, const T *b, const T *scale, T *out);     \
    void hpc_sla_csr_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here, \
                                  const int32_t *rows, const T *b, const T *d,                   \
                                  const T *coefficients, const T *before, T *after, T *out);     \
    void hpc_sla_packed_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,            \
                                      const int32_t *rows, const T *b, const T *scale, T *out);  \
    void hpc_sla_packed_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,             \
                                     const T *here, const int32_t *rows, const T *b, const T *d, \
                                     const T *coefficients, const T *before, T *after, T *out);  \
                                                                                                 \
    void hpc_sla_product_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,                  \
                                const int32_t *rows, T *y, const T *w, T *dot, T *square)        \
    {                                                                                            \
        if (A->form == MATRIX_CSR)                                                               \
            hpc_sla_csr_matmul_##NAME(A->rows, k, A->parts[0], A->parts[1], A->parts[2], x,      \
                                      rows, y, w, dot, square);                                  \
        else                                                                                     \
            hpc_sla_packed_product_##NAME(k, A, x, rows, y, w, dot, square);                     \
    }                                                                                            \
                                                                                                 \
    /* Rows first to first + n as CSR: lengths [n] alone where indices is NULL; else indices and \
     * values, one row after another. Rooms of a row. */                                          \
    int64_t hpc_sla_matrix_rows_##NAME(int64_t first, int64_t n,                                 \
                                       const hpc_sla_matrix *A, int64_t *lengths,                \
                                       int32_t *indices, T *values, int32_t *index_room,         \
                                       T *value_room)                                            \
    {                                                                                            \
        int64_t near = 0, at = 0;                                                                \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const int32_t *from;                                                                 \
            const T *numbers;                                                                    \
            const int32_t length = matrix_row_##NAME(A, first + i, &near, index_room,            \
                                                     value_room, &from, &numbers);               \
            if (lengths)                                                                         \
                lengths[i] = length;                                                             \
            if (indices)                                                                         \
                memcpy(indices + at, from, length * sizeof(int32_t));                            \
            if (values)                                                                          \
                memcpy(values + at, numbers, length * sizeof(T));                                \
            at += length;                                                                        \
        }                                                                                        \
        return at;                                                                               \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,                   \
                               const int32_t *rows, const T *b, const T *scale, T *out)          \
    {                                                                                            \
        if (A->form == MATRIX_CSR)                                                               \
            hpc_sla_csr_affine_##NAME(k, A, x, rows, b, scale, out);                             \
        else                                                                                     \
            hpc_sla_packed_affine_##NAME(k, A, x, rows, b, scale, out);                          \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here,     \
                              const int32_t *rows, const T *b, const T *d,                       \
                              const T *coefficients, const T *before, T *after, T *out)          \
    {                                                                                            \
        if (A->form == MATRIX_CSR)                                                               \
            hpc_sla_csr_relax_##NAME(k, A, x, here, rows, b, d, coefficients, before, after,     \
                                     out);                                                       \
        else                                                                                     \
            hpc_sla_packed_relax_##NAME(k, A, x, here, rows, b, d, coefficients, before, after,  \
                                        out);                                                    \
    }

DEFINE(double, float64)
DEFINE(float, float32)
