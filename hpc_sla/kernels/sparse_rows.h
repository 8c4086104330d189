/* Sparse rows as they are summed up, entry by entry: what loops that make matrices share. */
#ifndef HPC_SLA_SPARSE_ROWS_H
#define HPC_SLA_SPARSE_ROWS_H

#include "matrix.h"

/* Sorts `order` [count] by list[order[.]]. Rows are short, and long ones only few. */
static inline void sort_order(int32_t count, const int32_t *restrict list, int32_t *restrict order)
{
    int32_t gap = 1;
    while (gap < count / 9)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (int32_t i = gap; i < count; ++i) {
            const int32_t one = order[i], key = list[one];
            int32_t j = i;
            for (; j >= gap && list[order[j - gap]] > key; j -= gap)
                order[j] = order[j - gap];
            order[j] = one;
        }
}

/* Where `column` is in the sparse row (list, sum) of `count` entries of `size` numbers: a new one is
 * zero. A column that is there has its place in place[], which need not be cleared: list says so. */
INLINE int32_t place_of(int32_t column, int32_t *restrict place, int32_t *restrict list,
                        double *restrict sum, int32_t *restrict count, int64_t size)
{
    int32_t at = place[column];
    if (at >= *count || list[at] != column) {
        at = place[column] = (*count)++;
        list[at] = column;
        for (int64_t q = 0; q < size; ++q)
            sum[at * size + q] = 0;
    }
    return at;
}

#endif
