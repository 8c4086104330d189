/* Products with the compressed forms of matrix.h, for one thread. Each form says how to make a span
 * of consecutive rows of A x (forms.h); what is done with a span is written once for all. */
#include "forms.h"

/* Rows of a span: few enough that it stays in the first cache until it is used. */
#define SPAN 512

#define DEFINE(T, NAME)                                                                          \
    DEFINE_KINDS(T, NAME)                                                                        \
    DEFINE_SHORT(T, NAME)                                                                        \
    DEFINE_NODES(T, NAME)                                                                        \
    DEFINE_PATTERNS(T, NAME)                                                                     \
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
        else                                                                                     \
            span_short_##NAME(A, first, last, width, k, x, out, stride);                         \
    }                                                                                            \
                                                                                                 \
    /* As csr_matmul in native.c. */                                                             \
    CLONED void hpc_sla_packed_product_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,    \
                                              const int32_t *rows, T *y, const T *w, T *dot,     \
                                              T *square)                                         \
    {                                                                                            \
        const int64_t n = A->rows, size = SPAN - SPAN % A->block, stride = k > 1 ? WIDTH : 1;     \
        T room[SPAN * WIDTH];                                                                    \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            double dots[WIDTH] = {0}, squares[WIDTH] = {0};                                      \
            int64_t near = 0;                                                                    \
            for (int64_t first = 0; first < n; first += size) {                                  \
                const int64_t last = first + size < n ? first + size : n, m = last - first;      \
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
    }

DEFINE(double, float64)
DEFINE(float, float32)
