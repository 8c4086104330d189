/* What set-up and checks ask of a matrix's entries, however it is stored, on one thread. The rooms
 * hold a row, where rows are not stored as such. See entries.py, which has the plain versions. */
#include <math.h>
#include <string.h>

#include "matrix.h"

#define ROW(NAME) matrix_row_##NAME(A, i, &near, index_room, value_room, &indices, &values)

/* The rows from row i on, the first of a node, that have the same entries relative to it, and so the
 * same answer: those of a run, where the form has them. near is as `matrix_row` left it. */
INLINE int64_t alike(const hpc_sla_matrix *A, int64_t i, int64_t near)
{
    return A->form == MATRIX_ROWS ? ((const int32_t *)A->parts[0])[near + 1] - i : 1;
}

/* Rows whose answers are found one by one before they repeat. */
INLINE int64_t found_of(const hpc_sla_matrix *A)
{
    return A->form == MATRIX_ROWS ? A->block : 1;
}

/* Writes the answers at to[0 .. b] to the `many` rows that begin with them, b by b. */
#define REPEAT(T, to, b, many)                                                                   \
    if ((b) == 1) {                                                                              \
        const T one = *(to);                                                                     \
        for (int64_t r = 1; r < (many); ++r)                                                     \
            (to)[r] = one;                                                                       \
    } else                                                                                       \
        for (int64_t r = (b); r < (many); ++r)                                                   \
            (to)[r] = (to)[r - (b)]

/* Where the values are one after the other, in whatever order; NULL where a form has them apart. */
INLINE const void *values_of(const hpc_sla_matrix *A)
{
    switch (A->form) {
    case MATRIX_CSR:
    case MATRIX_NODES:
        return A->parts[2];
    case MATRIX_PATTERNS:
        return A->parts[5];
    case MATRIX_SHORT:
        return A->parts[1];
    }
    return NULL;
}

/* The larger magnitude, NaN where there is one. */
INLINE double larger(double most, double value)
{
    const double size = fabs(value);
    return size > most || size != size ? size : most;
}

#define DEFINE(T, NAME, BITS)                                                                    \
    /* beside[i]: whether row i has a nonzero that is not on the diagonal. A NaN is one. */      \
    void hpc_sla_beside_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,          \
                               T *value_room, uint8_t *restrict beside)                          \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        const int64_t b = found_of(A);                                                           \
        int64_t near = 0, many;                                                                  \
        (void)k;                                                                                 \
        for (int64_t first = 0; first < A->rows; first += many) {                                \
            for (int64_t i = first; i < first + b; ++i) {                                        \
                const int32_t length = ROW(NAME);                                                \
                beside[i] = 0;                                                                   \
                for (int32_t e = 0; e < length && !beside[i]; ++e)                               \
                    beside[i] = values[e] != 0 && indices[e] != i;                               \
            }                                                                                    \
            many = alike(A, first, near);                                                        \
            REPEAT(uint8_t, beside + first, b, many);                                            \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* The largest of n magnitudes, NaN where there is one, 0 of nothing: as bits without their  \
     * sign they are in order, and these the compiler compares several at a time. */             \
    static CLONED double largest_of_##NAME(int64_t n, const T *restrict values)                  \
    {                                                                                            \
        BITS most = 0;                                                                           \
        for (int64_t e = 0; e < n; ++e) {                                                        \
            BITS bits;                                                                           \
            memcpy(&bits, values + e, sizeof bits);                                              \
            bits &= (BITS)-1 >> 1;                                                               \
            most = bits > most ? bits : most;                                                    \
        }                                                                                        \
        T found;                                                                                 \
        memcpy(&found, &most, sizeof found);                                                     \
        return found;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* The largest magnitude, NaN where there is one, 0 of nothing. */                           \
    void hpc_sla_largest_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,         \
                                T *value_room, double *largest)                                  \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values = values_of(A);                                                          \
        const int64_t b = found_of(A);                                                           \
        int64_t near = 0;                                                                        \
        double most = 0;                                                                         \
        (void)k;                                                                                 \
        if (values) {                                                                            \
            *largest = largest_of_##NAME(A->entries, values);                                    \
            return;                                                                              \
        }                                                                                        \
        for (int64_t first = 0; first < A->rows; first += alike(A, first, near))                 \
            for (int64_t i = first; i < first + b; ++i) {                                        \
                const int32_t length = ROW(NAME);                                                \
                for (int32_t e = 0; e < length; ++e)                                             \
                    most = larger(most, values[e]);                                              \
            }                                                                                    \
        *largest = most;                                                                         \
    }                                                                                            \
                                                                                                 \
    /* largest[i] is the largest magnitude in row i, NaN where there is one; with rows,          \
     * largest[rows[i]] is raised to that. */                                                    \
    void hpc_sla_row_largest_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,     \
                                    T *value_room, const int32_t *restrict rows,                 \
                                    double *restrict largest)                                    \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        const int64_t b = found_of(A);                                                           \
        int64_t near = 0, many;                                                                  \
        (void)k;                                                                                 \
        for (int64_t first = 0; first < A->rows; first += many) {                                \
            for (int64_t i = first; i < first + b; ++i) {                                        \
                const int32_t length = ROW(NAME);                                                \
                double *to = largest + (rows ? rows[i] : i);                                     \
                *to = rows ? *to : 0;                                                            \
                for (int32_t e = 0; e < length; ++e)                                             \
                    *to = larger(*to, values[e]);                                                \
            }                                                                                    \
            many = rows ? b : alike(A, first, near);                                             \
            REPEAT(double, largest + first, b, many);                                            \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* diagonal[i], 0 where none is stored. */                                                   \
    void hpc_sla_diagonal_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,        \
                                 T *value_room, T *restrict diagonal)                            \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        const int64_t b = found_of(A);                                                           \
        int64_t near = 0, many;                                                                  \
        (void)k;                                                                                 \
        for (int64_t first = 0; first < A->rows; first += many) {                                \
            for (int64_t i = first; i < first + b; ++i) {                                        \
                const int32_t length = ROW(NAME);                                                \
                diagonal[i] = 0;                                                                 \
                for (int32_t e = 0; e < length; ++e)                                             \
                    if (indices[e] == i)                                                         \
                        diagonal[i] = values[e];                                                 \
            }                                                                                    \
            many = alike(A, first, near);                                                        \
            REPEAT(T, diagonal + first, b, many);                                                \
        }                                                                                        \
    }

DEFINE(double, float64, uint64_t)
DEFINE(float, float32, uint32_t)
