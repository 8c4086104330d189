/* Sparse rows that are summed up from many short ones. */
#ifndef HPC_SLA_WAITING_H
#define HPC_SLA_WAITING_H

#include <string.h>

#include "sparse_rows.h"

/* Entries that wait to be summed up, and how many are laid there at once. */
#define WAITING 1024
#define AT_ONCE 4
/* Entries of a row of A from which it is summed up without waiting. */
#define LONG 16

/* Entries of single rows, times a number each, one row's behind another's: they wait to be summed
 * up in one loop over all, as a loop over each short row mostly ends unforeseen. */
typedef struct {
    int32_t columns[WAITING + AT_ONCE];
    double terms[WAITING + AT_ONCE];
} waiting;

static CLONED void sum_up(int64_t count, const waiting *from, row_sum *row)
{
    row_reach(row, count);
    row_sum sum = *row;
    for (int64_t q = 0; q < count; ++q) {
        const uint32_t at = row_place(&sum, from->columns[q]);
        sum.sum[at] += from->terms[q];
    }
    row->count = sum.count;
}

typedef int32_t four_columns __attribute__((vector_size(16)));
typedef double four_float64 __attribute__((vector_size(32)));
typedef float four_float32 __attribute__((vector_size(16)));

#define DEFINE_WAIT(T, NAME)                                                                     \
    static CLONED void sum_long_##NAME(int64_t count, const int32_t *indices, const T *values,   \
                                       double by, row_sum *row)                                  \
    {                                                                                            \
        row_reach(row, count);                                                                   \
        row_sum sum = *row;                                                                      \
        for (int64_t q = 0; q < count; ++q) {                                                    \
            const uint32_t at = row_place(&sum, indices[q]);                                     \
            sum.sum[at] += by * values[q];                                                       \
        }                                                                                        \
        row->count = sum.count;                                                                  \
    }                                                                                            \
                                                                                                 \
    /* A row's entries, of which `safe` can be read, be they the row's or not, join `count` that \
     * wait; how many wait then. */                                                              \
    INLINE int64_t wait_##NAME(int32_t length, int64_t safe, const int32_t *indices,             \
                               int32_t shift, const T *values, double by, int64_t count,         \
                               waiting *to, row_sum *row)                                        \
    {                                                                                            \
        for (int32_t e = 0; e < length; e += AT_ONCE) {                                          \
            const int32_t rest = length - e, here = rest < AT_ONCE ? rest : AT_ONCE;             \
            int32_t *columns = to->columns + count;                                              \
            double *terms = to->terms + count;                                                   \
            if (e + AT_ONCE <= safe)                                                             \
                for (int q = 0; q < AT_ONCE; q += 4) {                                           \
                    four_columns some;                                                           \
                    four_##NAME numbers;                                                         \
                    memcpy(&some, indices + e + q, sizeof some);                                 \
                    memcpy(&numbers, values + e + q, sizeof numbers);                            \
                    some += shift;                                                               \
                    const four_float64 all = __builtin_convertvector(numbers, four_float64) * by;\
                    memcpy(columns + q, &some, sizeof some);                                     \
                    memcpy(terms + q, &all, sizeof all);                                         \
                }                                                                                \
            else                                                                                 \
                for (int32_t q = 0; q < here; ++q) {                                             \
                    columns[q] = indices[e + q] + shift;                                         \
                    terms[q] = by * values[e + q];                                               \
                }                                                                                \
            count += here;                                                                       \
            if (count >= WAITING) {                                                              \
                sum_up(count, to, row);                                                          \
                count = 0;                                                                       \
            }                                                                                    \
        }                                                                                        \
        return count;                                                                            \
    }

DEFINE_WAIT(double, float64)
DEFINE_WAIT(float, float32)

#endif
