/* What set-up and checks ask of a matrix's entries, however it is stored, on one thread. The rooms
 * hold a row, where rows are not stored as such. See entries.py, which has the plain versions. */
#include <math.h>

#include "matrix.h"

#define ROW(NAME) matrix_row_##NAME(A, i, &near, index_room, value_room, &indices, &values)

#define DEFINE(T, NAME)                                                                          \
    /* beside[i]: whether row i has a nonzero that is not on the diagonal. A NaN is one. */      \
    void hpc_sla_beside_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,          \
                               T *value_room, uint8_t *restrict beside)                          \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        int64_t near = 0;                                                                        \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < A->rows; ++i) {                                                  \
            const int32_t length = ROW(NAME);                                                    \
            beside[i] = 0;                                                                       \
            for (int32_t e = 0; e < length && !beside[i]; ++e)                                   \
                beside[i] = values[e] != 0 && indices[e] != i;                                   \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* The largest magnitude, NaN where there is one, 0 of nothing. */                           \
    void hpc_sla_largest_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,         \
                                T *value_room, double *largest)                                  \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        int64_t near = 0;                                                                        \
        double most = 0;                                                                         \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < A->rows; ++i) {                                                  \
            const int32_t length = ROW(NAME);                                                    \
            for (int32_t e = 0; e < length; ++e) {                                               \
                const double size = fabs((double)values[e]);                                     \
                most = size > most || size != size ? size : most;                                \
            }                                                                                    \
        }                                                                                        \
        *largest = most;                                                                         \
    }                                                                                            \
                                                                                                 \
    /* diagonal[i], 0 where none is stored. */                                                   \
    void hpc_sla_diagonal_##NAME(int64_t k, const hpc_sla_matrix *A, int32_t *index_room,        \
                                 T *value_room, T *restrict diagonal)                            \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        int64_t near = 0;                                                                        \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < A->rows; ++i) {                                                  \
            const int32_t length = ROW(NAME);                                                    \
            diagonal[i] = 0;                                                                     \
            for (int32_t e = 0; e < length; ++e)                                                 \
                if (indices[e] == i)                                                             \
                    diagonal[i] = values[e];                                                     \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
