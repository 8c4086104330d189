/* Spans of rows of A x for MATRIX_SLICED of matrix.h: rows side by side, so that no addition waits
 * for the one before, and no branch for the length of a row. */
#include "matrix.h"

/* Bytes ahead of an entry's value and column: nearer than where rows are done one by one, which get
 * through fewer entries in the same time. */
#define SLICE_AHEAD 2048
#define COLUMN_AHEAD 1024

#define PLAIN_VALUE(e) (code[e])
#define CODED_VALUE(e) (d[code[e]])

/* The sums of the rows of a slice [SLICE]; and one row times `width` columns of x [., k]. */
#define DEFINE_SLICE(T, SUMS, COLUMN, CODE, VALUE)                                               \
    INLINE void SUMS(int32_t entries, const COLUMN *restrict c, const CODE *restrict code,       \
                     const T *restrict d, const T *restrict x, T *restrict out)                  \
    {                                                                                            \
        T sum[SLICE] = {0};                                                                      \
        (void)d;                                                                                 \
        for (int32_t e = 0; e < entries; e += SLICE, c += SLICE, code += SLICE) {                \
            FETCH_ENTRY((const char *)code + SLICE_AHEAD);                                       \
            FETCH_ENTRY((const char *)c + COLUMN_AHEAD);                                         \
            for (int r = 0; r < SLICE; ++r)                                                      \
                sum[r] += VALUE(r) * x[c[r]];                                                    \
        }                                                                                        \
        for (int r = 0; r < SLICE; ++r)                                                          \
            out[r] = sum[r];                                                                     \
    }                                                                                            \
    INLINE void SUMS##_wide(int32_t length, const COLUMN *restrict c, const CODE *restrict code, \
                            const T *restrict d, int64_t width, int64_t k, const T *restrict x,  \
                            T *restrict out)                                                     \
    {                                                                                            \
        T sum[WIDTH] = {0};                                                                      \
        (void)d;                                                                                 \
        for (int64_t e = 0; e < (int64_t)length * SLICE; e += SLICE)                             \
            for (int64_t j = 0; j < width; ++j)                                                  \
                sum[j] += VALUE(e) * x[(int64_t)c[e] * k + j];                                   \
        for (int64_t j = 0; j < width; ++j)                                                      \
            out[j] = sum[j];                                                                     \
    }

#define ALL_SLICES(SUMS, CODE, PART, BASE)                                                       \
    for (int64_t s = 0; s * SLICE < rows; ++s)                                                   \
        SUMS(starts[s + 1] - starts[s], (PART) + (starts[s] - starts[0]),                        \
             (const CODE *)A->parts[1] + starts[s], d, x + (BASE), sums + s * SLICE);
#define A_ROW(SUMS, CODE, PART, BASE)                                                            \
    SUMS##_wide(length, PART, (const CODE *)A->parts[1] + at, d, width, k,                       \
                x + (int64_t)(BASE)*k, out + (i - first) * stride);
#define BY_FORM(EACH, NAME, c)                                                                   \
    do {                                                                                         \
        if (A->form == MATRIX_SLICED && c.near) {                                                \
            EACH(slice_near_##NAME, VALUES_##NAME, c.near, c.base)                               \
        } else if (A->form == MATRIX_SLICED) {                                                   \
            EACH(slice_far_##NAME, VALUES_##NAME, c.far, 0)                                      \
        } else if (A->form == MATRIX_SLICED_8 && c.near) {                                       \
            EACH(slice_near_8_##NAME, uint8_t, c.near, c.base)                                   \
        } else if (A->form == MATRIX_SLICED_8) {                                                 \
            EACH(slice_far_8_##NAME, uint8_t, c.far, 0)                                          \
        } else if (c.near) {                                                                     \
            EACH(slice_near_16_##NAME, uint16_t, c.near, c.base)                                 \
        } else {                                                                                 \
            EACH(slice_far_16_##NAME, uint16_t, c.far, 0)                                        \
        }                                                                                        \
    } while (0)
#define VALUES_float64 double
#define VALUES_float32 float

#define DEFINE(T, NAME)                                                                          \
    DEFINE_SLICE(T, slice_near_##NAME, uint16_t, T, PLAIN_VALUE)                                 \
    DEFINE_SLICE(T, slice_near_8_##NAME, uint16_t, uint8_t, CODED_VALUE)                         \
    DEFINE_SLICE(T, slice_near_16_##NAME, uint16_t, uint16_t, CODED_VALUE)                       \
    DEFINE_SLICE(T, slice_far_##NAME, int32_t, T, PLAIN_VALUE)                                   \
    DEFINE_SLICE(T, slice_far_8_##NAME, int32_t, uint8_t, CODED_VALUE)                           \
    DEFINE_SLICE(T, slice_far_16_##NAME, int32_t, uint16_t, CODED_VALUE)                         \
                                                                                                 \
    /* Rows first to last of A x for `width` columns of x [., k]: out [last - first, stride].    \
     * Windows that are not wanted whole are made whole all the same. */                         \
    CLONED void hpc_sla_span_slices_##NAME(const hpc_sla_matrix *A, int64_t first, int64_t last, \
                                           int64_t width, int64_t k, const T *restrict x,        \
                                           T *restrict out, int64_t stride)                      \
    {                                                                                            \
        const uint8_t *places = A->parts[6];                                                     \
        const T *d = A->parts[8];                                                                \
        T sums[SHORT_ROWS];                                                                      \
        for (int64_t i = first; k > 1 && i < last; ++i) {                                        \
            hpc_sla_columns c;                                                                   \
            int64_t at;                                                                          \
            const int32_t length = matrix_sliced(A, i, &at, &c);                                 \
            BY_FORM(A_ROW, NAME, c);                                                             \
        }                                                                                        \
        for (int64_t i = first; k == 1 && i < last;) {                                           \
            const int64_t window = i / SHORT_ROWS, begin = window * SHORT_ROWS;                  \
            const int64_t left = A->rows - begin, rows = left < SHORT_ROWS ? left : SHORT_ROWS;  \
            const int64_t end = begin + rows < last ? begin + rows : last;                       \
            const int32_t *starts = (const int32_t *)A->parts[0] + window * SLICES;              \
            const uint8_t *lengths = (const uint8_t *)A->parts[7] + begin;                       \
            const hpc_sla_columns c = matrix_window(A, window, 0);                               \
            BY_FORM(ALL_SLICES, NAME, c);                                                        \
            /* Rows without entries have a column of others. */                                  \
            for (int64_t p = rows; p > 0 && !lengths[p - 1]; --p)                                \
                sums[p - 1] = 0;                                                                 \
            for (; i < end; ++i)                                                                 \
                out[i - first] = sums[places[i]];                                                \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
