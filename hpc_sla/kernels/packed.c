/* Products with the compressed forms of matrix.h. Each form says how to make a span
 * of consecutive rows of A x; what is done with a span is written once for all. */
#include <stdlib.h>

#include "matrix.h"
#include "threads.h"

/* Rows of a span: few enough that it stays in the first cache until it is used. */
#define SPAN 512
/* Rows (or nodes) done side by side where the entries are those of a kind. */
#define BESIDE 8

/* A row's sum, in the order of additions of row_* in native.h: `TERM(j)` is entry k + j. */
#define ROW_SUM(T, LENGTH, TERM)                                                                 \
    do {                                                                                         \
        int32_t k = 0;                                                                           \
        T sum = 0;                                                                               \
        switch (LENGTH) {                                                                        \
        case 3:                                                                                  \
            return TERM(0) + TERM(1) + TERM(2);                                                  \
        case 4:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3));                                    \
        case 5:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3)) + TERM(4);                          \
        case 7:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3)) + (TERM(4) + TERM(5)) + TERM(6);    \
        case 9:                                                                                  \
            return ((TERM(0) + TERM(1)) + (TERM(2) + TERM(3))) +                                 \
                   ((TERM(4) + TERM(5)) + (TERM(6) + TERM(7))) + TERM(8);                        \
        }                                                                                        \
        for (; k + 8 <= (LENGTH); k += 8)                                                        \
            sum += ((TERM(0) + TERM(1)) + (TERM(2) + TERM(3))) +                                 \
                   ((TERM(4) + TERM(5)) + (TERM(6) + TERM(7)));                                  \
        for (; k + 2 <= (LENGTH); k += 2)                                                        \
            sum += TERM(0) + TERM(1);                                                            \
        return k < (LENGTH) ? sum + TERM(0) : sum;                                               \
    } while (0)

/* The terms of many rows of one kind: coefficients stay in registers. */
#define HOLD(T, j) const T v##j = v[j], *restrict x##j = x + o[j];
#define HELD(j) (v##j * x##j[i])
#define ALONG(EXPRESSION)                                                                        \
    _Pragma("GCC ivdep") for (int64_t i = 0; i < n; ++i) out[i] = (EXPRESSION);
#define HOLD3(T) HOLD(T, 0) HOLD(T, 1) HOLD(T, 2)
#define HOLD5(T) HOLD3(T) HOLD(T, 3) HOLD(T, 4)
#define HOLD8(T) HOLD5(T) HOLD(T, 5) HOLD(T, 6) HOLD(T, 7)
#define TREE8                                                                                    \
    (((HELD(0) + HELD(1)) + (HELD(2) + HELD(3))) + ((HELD(4) + HELD(5)) + (HELD(6) + HELD(7))))

#define DEFINE(T, NAME)                                                                          \
    /* out[i] = sum over j of v[j] x[i + o[j]]: n rows of one kind of `length` entries. */       \
    INLINE void along_##NAME(int64_t n, int32_t length, const int32_t *restrict o,               \
                             const T *restrict v, const T *restrict x, T *restrict out)          \
    {                                                                                            \
        switch (length) {                                                                        \
        case 3: {                                                                                \
            HOLD3(T)                                                                             \
            ALONG(HELD(0) + HELD(1) + HELD(2))                                                   \
            return;                                                                              \
        }                                                                                        \
        case 4: {                                                                                \
            HOLD3(T) HOLD(T, 3)                                                                  \
            ALONG((HELD(0) + HELD(1)) + (HELD(2) + HELD(3)))                                     \
            return;                                                                              \
        }                                                                                        \
        case 5: {                                                                                \
            HOLD5(T)                                                                             \
            ALONG((HELD(0) + HELD(1)) + (HELD(2) + HELD(3)) + HELD(4))                           \
            return;                                                                              \
        }                                                                                        \
        case 7: {                                                                                \
            HOLD5(T) HOLD(T, 5) HOLD(T, 6)                                                       \
            ALONG((HELD(0) + HELD(1)) + (HELD(2) + HELD(3)) + (HELD(4) + HELD(5)) + HELD(6))     \
            return;                                                                              \
        }                                                                                        \
        case 9: {                                                                                \
            HOLD8(T) HOLD(T, 8)                                                                  \
            ALONG(TREE8 + HELD(8))                                                               \
            return;                                                                              \
        }                                                                                        \
        }                                                                                        \
        for (int64_t i = 0; i < n; ++i)                                                          \
            out[i] = 0;                                                                          \
        for (; length >= 8; length -= 8, o += 8, v += 8) {                                       \
            HOLD8(T)                                                                             \
            ALONG(out[i] + TREE8)                                                                \
        }                                                                                        \
        for (; length >= 2; length -= 2, o += 2, v += 2) {                                       \
            HOLD(T, 0) HOLD(T, 1)                                                                \
            ALONG(out[i] + (HELD(0) + HELD(1)))                                                  \
        }                                                                                        \
        if (length) {                                                                            \
            HOLD(T, 0)                                                                           \
            ALONG(out[i] + HELD(0))                                                              \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* One row of one kind times `width` columns of x [., k]. */                                 \
    INLINE void across_##NAME(int32_t length, const int32_t *restrict o, const T *restrict v,    \
                              int64_t lanes, int64_t width, int64_t k, const T *restrict x,      \
                              T *restrict out)                                                   \
    {                                                                                            \
        T sum[WIDTH] = {0};                                                                      \
        for (int32_t e = 0; e < length; ++e)                                                     \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] += v[e * lanes] * x[o[e] * k + j];                                        \
        for (int64_t j = 0; j < width; ++j)                                                      \
            out[j] = sum[j];                                                                     \
    }                                                                                            \
                                                                                                 \
    typedef T lanes_##NAME                                                                       \
        __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));              \
                                                                                                 \
    /* n nodes of `b` rows each: an entry of a kind is a column of the node's rows, in 4 or 8    \
     * lanes, of which b are used. */                                                            \
    INLINE void nodes_##NAME(int64_t n, const int64_t b, int32_t length,                         \
                             const int32_t *restrict o, const T *restrict v,                     \
                             const T *restrict x, T *restrict out)                               \
    {                                                                                            \
        const int parts = b > 4 ? 2 : 1;                                                         \
        int64_t first = 0;                                                                       \
        for (; first + BESIDE / parts <= n; first += BESIDE / parts) {                           \
            lanes_##NAME sum[BESIDE] = {0};                                                      \
            const T *from = x + first * b;                                                       \
            for (int32_t e = 0; e < length; ++e)                                                 \
                for (int part = 0; part < parts; ++part) {                                       \
                    const lanes_##NAME column =                                                  \
                        *(const lanes_##NAME *)(v + (e * parts + part) * 4);                     \
                    for (int a = 0; a < BESIDE / parts; ++a)                                     \
                        sum[a * parts + part] += column * from[o[e] + a * b];                    \
                }                                                                                \
            for (int a = 0; a < BESIDE / parts; ++a)                                             \
                for (int r = 0; r < b; ++r)                                                      \
                    out[(first + a) * b + r] = sum[a * parts + r / 4][r % 4];                    \
        }                                                                                        \
        for (; first < n; ++first) {                                                             \
            lanes_##NAME sum[2] = {0};                                                           \
            for (int32_t e = 0; e < length; ++e)                                                 \
                for (int part = 0; part < parts; ++part)                                         \
                    sum[part] += *(const lanes_##NAME *)(v + (e * parts + part) * 4) *           \
                                 x[first * b + o[e]];                                            \
            for (int r = 0; r < b; ++r)                                                          \
                out[first * b + r] = sum[r / 4][r % 4];                                          \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* Rows first to last of A x for `width` columns of x [., k]: out [last - first, stride].    \
     * Of rows in nodes of A->block, both are multiples of it. */                                \
    INLINE void span_rows_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first,          \
                                 int64_t last, int64_t width, int64_t k, const T *restrict x,    \
                                 T *restrict out, int64_t stride)                                \
    {                                                                                            \
        const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];          \
        const int64_t b = A->block, lanes = matrix_lanes(b);                                     \
        for (int64_t i = first; i < last;) {                                                     \
            while (starts[*near + 1] <= i)                                                       \
                ++*near;                                                                         \
            const int64_t end = starts[*near + 1] < last ? starts[*near + 1] : last;             \
            const int32_t begin = ends[kinds[*near]];                                            \
            const int32_t length = ends[kinds[*near] + 1] - begin;                               \
            const int32_t *o = (const int32_t *)A->parts[3] + begin;                             \
            const T *v = (const T *)A->parts[4] + begin * lanes;                                 \
            T *to = out + (i - first) * stride;                                                  \
            if (k > 1)                                                                           \
                for (; i < end; ++i, to += stride)                                               \
                    across_##NAME(length, o, v + i % b, lanes, width, k, x + (i - i % b) * k,    \
                                  to);                                                           \
            else if (b == 1)                                                                     \
                along_##NAME(end - i, length, o, v, x + i, to);                                  \
            else if (b == 2)                                                                     \
                nodes_##NAME((end - i) / 2, 2, length, o, v, x + i, to);                         \
            else if (b == 3)                                                                     \
                nodes_##NAME((end - i) / 3, 3, length, o, v, x + i, to);                         \
            else                                                                                 \
                nodes_##NAME((end - i) / b, b, length, o, v, x + i, to);                         \
            i = end;                                                                             \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void span_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first, int64_t last, \
                            int64_t width, int64_t k, const T *restrict x, T *restrict out,      \
                            int64_t stride)                                                      \
    {                                                                                            \
        span_rows_##NAME(A, near, first, last, width, k, x, out, stride);                        \
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
