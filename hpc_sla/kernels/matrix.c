/* What is done with a rank-local matrix, however it is stored. */
#include <string.h>

#include "matrix.h"
#include "threads.h"

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
                                      const int32_t *rows, const T *b, const T *scale, T *out,   \
                                      int64_t begin, int64_t end);                               \
    void hpc_sla_packed_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,             \
                                     const T *here, const int32_t *rows, const T *b, const T *d, \
                                     const T *coefficients, const T *before, T *after, T *out,   \
                                     int64_t begin, int64_t end);                                \
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
     * values, one row after another. Rooms of a row. */                                         \
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
    /* Rows first to last of a plain matrix, as a matrix. */                                     \
    INLINE hpc_sla_matrix slice_##NAME(const hpc_sla_matrix *A, int64_t first, int64_t last)     \
    {                                                                                            \
        hpc_sla_matrix some = *A;                                                                \
        some.rows = last - first;                                                                \
        some.parts[0] = (const int32_t *)A->parts[0] + first;                                    \
        return some;                                                                             \
    }                                                                                            \
                                                                                                 \
    static void affine_part_##NAME(const void *const *a, int64_t first, int64_t last, void *none)\
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const hpc_sla_matrix *A = a[1];                                                          \
        const int32_t *rows = a[3];                                                              \
        const int64_t at = rows ? 0 : first * k;                                                 \
        (void)none;                                                                              \
        if (A->form == MATRIX_CSR) {                                                             \
            const hpc_sla_matrix some = slice_##NAME(A, first, last);                            \
            hpc_sla_csr_affine_##NAME(k, &some, a[2], SHIFT(const int32_t, 3, first),            \
                                      SHIFT(const T, 4, at), a[5], SHIFT(T, 6, at));             \
        } else                                                                                   \
            hpc_sla_packed_affine_##NAME(k, A, a[2], rows, a[4], a[5], (T *)a[6],                \
                                         matrix_node(A, first), matrix_node(A, last));           \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,                   \
                               const int32_t *rows, const T *b, const T *scale, T *out)          \
    {                                                                                            \
        const int32_t *indptr = A->form == MATRIX_CSR ? A->parts[0] : NULL;                      \
        const void *a[] = {&k, A, x, rows, b, scale, out};                                       \
        hpc_sla_run(A->rows, k * matrix_weight(A), indptr, affine_part_##NAME, a, 0, 0, NULL);   \
    }                                                                                            \
                                                                                                 \
    static void relax_part_##NAME(const void *const *a, int64_t first, int64_t last, void *none) \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const hpc_sla_matrix *A = a[1];                                                          \
        const int32_t *rows = a[4];                                                              \
        const int64_t at = rows ? 0 : first * k;                                                 \
        (void)none;                                                                              \
        if (A->form == MATRIX_CSR) {                                                             \
            const hpc_sla_matrix some = slice_##NAME(A, first, last);                            \
            hpc_sla_csr_relax_##NAME(k, &some, a[2], SHIFT(const T, 3, at),                      \
                                     SHIFT(const int32_t, 4, first), SHIFT(const T, 5, at),      \
                                     SHIFT(const T, 6, rows ? 0 : first), a[7],                  \
                                     SHIFT(const T, 8, at), SHIFT(T, 9, at), SHIFT(T, 10, at));  \
        } else                                                                                   \
            hpc_sla_packed_relax_##NAME(k, A, a[2], a[3], rows, a[5], a[6], a[7], a[8],          \
                                        (T *)a[9], (T *)a[10], matrix_node(A, first),            \
                                        matrix_node(A, last));                                   \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x, const T *here,     \
                              const int32_t *rows, const T *b, const T *d,                       \
                              const T *coefficients, const T *before, T *after, T *out)          \
    {                                                                                            \
        const int32_t *indptr = A->form == MATRIX_CSR ? A->parts[0] : NULL;                      \
        const void *a[] = {&k, A, x, here, rows, b, d, coefficients, before, after, out};        \
        hpc_sla_run(A->rows, k * matrix_weight(A), indptr, relax_part_##NAME, a, 0, 0, NULL);    \
    }

DEFINE(double, float64)
DEFINE(float, float32)
