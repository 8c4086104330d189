/* Spans of rows of A x, for each of the compressed forms of matrix.h. */
#ifndef HPC_SLA_FORMS_H
#define HPC_SLA_FORMS_H

#include "matrix.h"

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

#define DEFINE_KINDS(T, NAME)                                                                          \
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
    }

/* A row of MATRIX_SHORT, whose columns are 16 bits or 32, whose values are plain or coded; and the
 * same times `width` columns of x [., k]. */
#define PLAIN_TERM(j) (code[k + (j)] * x[c[k + (j)]])
#define CODED_TERM(j) (d[code[k + (j)]] * x[c[k + (j)]])
#define PLAIN_VALUE(e) (code[e])
#define CODED_VALUE(e) (d[code[e]])
#define DEFINE_ROW(T, ROW, COLUMN, CODE, TERM, VALUE)                                            \
    INLINE T ROW(int32_t length, const COLUMN *restrict c, const CODE *restrict code,            \
                 const T *restrict d, const T *restrict x)                                       \
    {                                                                                            \
        FETCH_ENTRY(code + AHEAD);                                                               \
        FETCH_ENTRY(c + AHEAD);                                                                  \
        (void)d;                                                                                 \
        ROW_SUM(T, length, TERM);                                                                \
    }                                                                                            \
    INLINE void ROW##_wide(int32_t length, const COLUMN *restrict c, const CODE *restrict code,  \
                           const T *restrict d, int64_t width, int64_t k, const T *restrict x,   \
                           T *restrict out)                                                      \
    {                                                                                            \
        T sum[WIDTH] = {0};                                                                      \
        (void)d;                                                                                 \
        for (int32_t e = 0; e < length; ++e)                                                     \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] += VALUE(e) * x[(int64_t)c[e] * k + j];                                   \
        for (int64_t j = 0; j < width; ++j)                                                      \
            out[j] = sum[j];                                                                     \
    }

#define ALL_ROWS(ROW, CODE, COLUMNS, BASE)                                                       \
    for (; i < end; ++i) {                                                                       \
        const int32_t length = indptr[i + 1] - indptr[i];                                        \
        const CODE *code = (const CODE *)A->parts[1] + indptr[i];                                \
        if (k == 1)                                                                              \
            out[i - first] = ROW(length, (COLUMNS) + (indptr[i] - from), code, d, x + (BASE));   \
        else                                                                                     \
            ROW##_wide(length, (COLUMNS) + (indptr[i] - from), code, d, width, k,                \
                       x + (int64_t)(BASE)*k, out + (i - first) * stride);                       \
    }

#define DEFINE_SHORT(T, NAME)                                                                    \
    DEFINE_ROW(T, near_plain_##NAME, uint16_t, T, PLAIN_TERM, PLAIN_VALUE)                       \
    DEFINE_ROW(T, near_8_##NAME, uint16_t, uint8_t, CODED_TERM, CODED_VALUE)                     \
    DEFINE_ROW(T, near_16_##NAME, uint16_t, uint16_t, CODED_TERM, CODED_VALUE)                   \
    DEFINE_ROW(T, far_plain_##NAME, int32_t, T, PLAIN_TERM, PLAIN_VALUE)                         \
    DEFINE_ROW(T, far_8_##NAME, int32_t, uint8_t, CODED_TERM, CODED_VALUE)                       \
    DEFINE_ROW(T, far_16_##NAME, int32_t, uint16_t, CODED_TERM, CODED_VALUE)                     \
                                                                                                 \
    /* As span_rows. */                                                                          \
    INLINE void span_short_##NAME(const hpc_sla_matrix *A, int64_t first, int64_t last,          \
                                  int64_t width, int64_t k, const T *restrict x, T *restrict out, \
                                  int64_t stride)                                                \
    {                                                                                            \
        const int32_t *indptr = A->parts[0];                                                     \
        const T *d = A->parts[6];                                                                \
        for (int64_t i = first; i < last;) {                                                     \
            const int64_t next = i - i % SHORT_ROWS + SHORT_ROWS, end = next < last ? next : last; \
            const int32_t from = indptr[i];                                                      \
            const hpc_sla_columns c = matrix_columns(A, i);                                      \
            if (A->form == MATRIX_SHORT && c.near)                                               \
                ALL_ROWS(near_plain_##NAME, T, c.near, c.base)                                   \
            else if (A->form == MATRIX_SHORT)                                                    \
                ALL_ROWS(far_plain_##NAME, T, c.far, 0)                                          \
            else if (A->form == MATRIX_CODED_8 && c.near)                                        \
                ALL_ROWS(near_8_##NAME, uint8_t, c.near, c.base)                                 \
            else if (A->form == MATRIX_CODED_8)                                                  \
                ALL_ROWS(far_8_##NAME, uint8_t, c.far, 0)                                        \
            else if (c.near)                                                                     \
                ALL_ROWS(near_16_##NAME, uint16_t, c.near, c.base)                               \
            else                                                                                 \
                ALL_ROWS(far_16_##NAME, uint16_t, c.far, 0)                                      \
        }                                                                                        \
    }

/* The rows of one node, one after another: their columns come from memory once. */
#define DEFINE_NODES(T, NAME)                                                                    \
    INLINE T entry_##NAME(const int64_t b, const T *restrict v, const T *restrict x)             \
    {                                                                                            \
        T sum = v[0] * x[0];                                                                     \
        for (int64_t j = 1; j < b; ++j)                                                          \
            sum += v[j] * x[j];                                                                  \
        return sum;                                                                              \
    }                                                                                            \
                                                                                                 \
    INLINE void node_##NAME(const int64_t b, int32_t there, const int32_t *restrict c,           \
                            const T *restrict v, const T *restrict x, T *restrict out)           \
    {                                                                                            \
        for (int64_t r = 0; r < b; ++r) {                                                        \
            T sum = 0;                                                                           \
            int32_t e = 0;                                                                       \
            FETCH_ENTRY(v + AHEAD);                                                              \
            for (; e + 2 <= there; e += 2, v += 2 * b) {                                         \
                FETCH_ENTRY(v + AHEAD);                                                          \
                sum += entry_##NAME(b, v, x + c[e] * b) +                                        \
                       entry_##NAME(b, v + b, x + c[e + 1] * b);                                 \
            }                                                                                    \
            for (; e < there; ++e, v += b)                                                       \
                sum += entry_##NAME(b, v, x + c[e] * b);                                         \
            out[r] = sum;                                                                        \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void node_wide_##NAME(const int64_t b, int32_t there, const int32_t *restrict c,      \
                                 const T *restrict v, int64_t width, int64_t k,                  \
                                 const T *restrict x, T *restrict out, int64_t stride)           \
    {                                                                                            \
        for (int64_t r = 0; r < b; ++r, out += stride, v += there * b) {                         \
            T sum[WIDTH] = {0};                                                                  \
            for (int32_t e = 0; e < there; ++e)                                                  \
                for (int64_t j = 0; j < b; ++j)                                                  \
                    for (int64_t w = 0; w < width; ++w)                                          \
                        sum[w] += v[e * b + j] * x[(c[e] * b + j) * k + w];                      \
            for (int64_t w = 0; w < width; ++w)                                                  \
                out[w] = sum[w];                                                                 \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* As span_rows. */                                                                          \
    INLINE void span_nodes_##NAME(const hpc_sla_matrix *A, const int64_t b, int64_t first,       \
                                  int64_t last, int64_t width, int64_t k, const T *restrict x,   \
                                  T *restrict out, int64_t stride)                               \
    {                                                                                            \
        const int32_t *indptr = A->parts[0];                                                     \
        for (int64_t i = first; i < last; i += b, out += b * stride) {                           \
            const int32_t begin = indptr[i / b], there = indptr[i / b + 1] - begin;              \
            const int32_t *c = (const int32_t *)A->parts[1] + begin;                             \
            const T *v = (const T *)A->parts[2] + begin * b * b;                                 \
            FETCH_ENTRY(c + AHEAD);                                                              \
            if (k == 1)                                                                          \
                node_##NAME(b, there, c, v, x, out);                                             \
            else                                                                                 \
                node_wide_##NAME(b, there, c, v, width, k, x, out, stride);                      \
        }                                                                                        \
    }

/* Rows whose columns are of one kind, and whose values are their own. */
#define DEFINE_PATTERNS(T, NAME)                                                                 \
    INLINE T pattern_##NAME(int32_t length, const int32_t *restrict c, const T *restrict code,   \
                            const T *restrict x)                                                 \
    {                                                                                            \
        FETCH_ENTRY(code + AHEAD);                                                               \
        ROW_SUM(T, length, PLAIN_TERM);                                                          \
    }                                                                                            \
                                                                                                 \
    /* As span_rows. */                                                                          \
    INLINE void span_patterns_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first,      \
                                     int64_t last, int64_t width, int64_t k,                     \
                                     const T *restrict x, T *restrict out, int64_t stride)       \
    {                                                                                            \
        const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];          \
        for (int64_t i = first; i < last;) {                                                     \
            while (starts[*near + 1] <= i)                                                       \
                ++*near;                                                                         \
            const int64_t end = starts[*near + 1] < last ? starts[*near + 1] : last;             \
            const int32_t begin = ends[kinds[*near]];                                            \
            const int32_t length = ends[kinds[*near] + 1] - begin;                               \
            const int32_t *o = (const int32_t *)A->parts[3] + begin;                             \
            const T *v = (const T *)A->parts[5] + ((const int32_t *)A->parts[4])[*near] +        \
                         (i - starts[*near]) * length;                                           \
            T *to = out + (i - first) * stride;                                                  \
            for (; i < end; ++i, v += length, to += stride)                                      \
                if (k == 1)                                                                      \
                    *to = pattern_##NAME(length, o, v, x + i);                                   \
                else                                                                             \
                    across_##NAME(length, o, v, 1, width, k, x + i * k, to);                     \
        }                                                                                        \
    }

#endif
