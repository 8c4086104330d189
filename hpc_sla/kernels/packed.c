/* Products with the compressed forms of matrix.h. Each form says how to make a span of consecutive
 * rows of A x (forms.h); what is done with a span is written once for all. */
#include <stdlib.h>

#include "forms.h"
#include "threads.h"

/* Rows of a span: few enough that it stays in the first cache until it is used. */
#define SPAN 512

#define DEFINE(T, NAME)                                                                          \
    DEFINE_KINDS(T, NAME)                                                                        \
    DEFINE_SHORT(T, NAME)                                                                        \
    DEFINE_NODES(T, NAME)                                                                        \
    DEFINE_PATTERNS(T, NAME)                                                                     \
    void hpc_sla_span_slices_##NAME(const hpc_sla_matrix *A, int64_t first, int64_t last,        \
                                    int64_t width, int64_t k, const T *x, T *out,                \
                                    int64_t stride);                                             \
                                                                                                 \
    INLINE void span_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first, int64_t last, \
                            int64_t width, int64_t k, const T *restrict x, T *restrict out,      \
                            int64_t stride)                                                      \
    {                                                                                            \
        const int64_t b = A->block;                                                              \
        if (A->form == MATRIX_ROWS)                                                              \
            span_rows_##NAME(A, near, first, last, width, k, x, out, stride);                    \
        else if (A->form == MATRIX_PATTERNS)                                                     \
            span_patterns_##NAME(A, near, first, last, width, k, x, out, stride);                \
        else if (A->form == MATRIX_NODES && b == 2)                                              \
            span_nodes_##NAME(A, 2, first, last, width, k, x, out, stride);                      \
        else if (A->form == MATRIX_NODES && b == 3)                                              \
            span_nodes_##NAME(A, 3, first, last, width, k, x, out, stride);                      \
        else if (A->form == MATRIX_NODES && b == 4)                                              \
            span_nodes_##NAME(A, 4, first, last, width, k, x, out, stride);                      \
        else if (A->form == MATRIX_NODES)                                                        \
            span_nodes_##NAME(A, b, first, last, width, k, x, out, stride);                      \
        else if (A->form >= MATRIX_SLICED && A->form <= MATRIX_SLICED_16)                        \
            hpc_sla_span_slices_##NAME(A, first, last, width, k, x, out, stride);                \
        else                                                                                     \
            span_short_##NAME(A, first, last, width, k, x, out, stride);                         \
    }                                                                                            \
                                                                                                 \
    /* y[first .. last] = A x, of the same rows; `near` as of matrix_row. */                     \
    CLONED void hpc_sla_packed_rows_##NAME(const hpc_sla_matrix *A, int64_t *near,               \
                                           int64_t first, int64_t last, const T *x, T *y)        \
    {                                                                                            \
        span_##NAME(A, near, first, last, 1, 1, x, y + first, 1);                                \
    }                                                                                            \
                                                                                                 \
    /* Of rows begin to end, whose runs are looked for from the first. */                        \
    static CLONED void product_##NAME(int64_t k, const hpc_sla_matrix *A, int64_t begin,         \
                                      int64_t end, const T *x, const int32_t *rows, T *y,        \
                                      const T *w, T *dot, T *square)                             \
    {                                                                                            \
        const int64_t size = SPAN - SPAN % A->block, stride = k > 1 ? WIDTH : 1;                 \
        T room[SPAN * WIDTH];                                                                    \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            double dots[WIDTH] = {0}, squares[WIDTH] = {0};                                      \
            int64_t near = 0;                                                                    \
            for (int64_t first = begin; first < end; first += size) {                            \
                const int64_t last = first + size < end ? first + size : end, m = last - first;  \
                if (k == 1 && !rows) {                                                           \
                    T *restrict to = y + first;                                                  \
                    span_##NAME(A, &near, first, last, 1, 1, x, to, 1);                          \
                    double sums[8] = {0};                                                        \
                    int64_t i = 0;                                                               \
                    if (w)                                                                       \
                        for (; i + 4 <= m; i += 4)                                               \
                            for (int j = 0; j < 4; ++j)                                          \
                                sums[j] += (double)w[first + i + j] * to[i + j];                 \
                    for (; w && i < m; ++i)                                                      \
                        sums[0] += (double)w[first + i] * to[i];                                 \
                    i = 0;                                                                       \
                    if (square)                                                                  \
                        for (; i + 4 <= m; i += 4)                                               \
                            for (int j = 0; j < 4; ++j)                                          \
                                sums[4 + j] += (double)to[i + j] * to[i + j];                    \
                    for (; square && i < m; ++i)                                                 \
                        sums[4] += (double)to[i] * to[i];                                        \
                    dots[0] += (sums[0] + sums[1]) + (sums[2] + sums[3]);                        \
                    squares[0] += (sums[4] + sums[5]) + (sums[6] + sums[7]);                     \
                    continue;                                                                    \
                }                                                                                \
                span_##NAME(A, &near, first, last, width, k, x + c, room, stride);               \
                for (int64_t i = 0; i < m; ++i) {                                                \
                    const int64_t row = (rows ? rows[first + i] : first + i) * k + c;            \
                    for (int64_t j = 0; j < width; ++j) {                                        \
                        const T sum = room[i * stride + j];                                      \
                        const T before = rows ? y[row + j] : 0, after = before + sum;            \
                        y[row + j] = after;                                                      \
                        if (w)                                                                   \
                            dots[j] += (double)w[row + j] * sum;                                 \
                        if (square)                                                              \
                            squares[j] += (double)sum * (before + after);                        \
                    }                                                                            \
                }                                                                                \
            }                                                                                    \
            for (int64_t j = 0; j < width; ++j) {                                                \
                if (w)                                                                           \
                    dot[c + j] += (T)dots[j];                                                    \
                if (square)                                                                      \
                    square[c + j] += (T)squares[j];                                              \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* A span, for loops of other files. */                                                      \
    CLONED void hpc_sla_span_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first,       \
                                    int64_t last, int64_t width, int64_t k, const T *x, T *out,  \
                                    int64_t stride)                                              \
    {                                                                                            \
        span_##NAME(A, near, first, last, width, k, x, out, stride);                             \
    }                                                                                            \
                                                                                                 \
    static void product_part_##NAME(const void *const *a, int64_t first, int64_t last,           \
                                    void *sums)                                                  \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const hpc_sla_matrix *A = a[1];                                                          \
        /* Nodes stay whole. */                                                                  \
        const int64_t begin = matrix_node(A, first), end = matrix_node(A, last);                 \
        T *dot = a[5] ? sums : NULL, *square = a[6] ? (T *)sums + k : NULL;                      \
        product_##NAME(k, A, begin, end, a[2], a[3], (T *)a[4], a[5], dot, square);              \
    }                                                                                            \
                                                                                                 \
    /* As csr_matmul in native.c. */                                                             \
    void hpc_sla_packed_product_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,           \
                                       const int32_t *rows, T *y, const T *w, T *dot, T *square) \
    {                                                                                            \
        T few[4 * WIDTH] = {0}, *sums = k <= 2 * WIDTH ? few : calloc(2 * k, sizeof(T));         \
        if (hpc_sla_parts(A->rows, k) == 1 || !sums) {                                           \
            product_##NAME(k, A, 0, A->rows, x, rows, y, w, dot, square);                        \
            if (sums != few)                                                                     \
                free(sums);                                                                      \
            return;                                                                              \
        }                                                                                        \
        const void *a[] = {&k, A, x, rows, y, w, square};                                        \
        hpc_sla_run(A->rows, k, NULL, product_part_##NAME, a, 2 * k, sizeof(T), sums);           \
        for (int64_t j = 0; j < k; ++j) {                                                        \
            if (w)                                                                               \
                dot[j] += sums[j];                                                               \
            if (square)                                                                          \
                square[j] += sums[k + j];                                                        \
        }                                                                                        \
        if (sums != few)                                                                         \
            free(sums);                                                                          \
    }

DEFINE(double, float64)
DEFINE(float, float32)
