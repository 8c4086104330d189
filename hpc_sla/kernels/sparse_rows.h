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

/* A sparse row of tiles of `size` numbers as it is summed up. A column that is there has `from` and
 * where it is in `list` in place[], others less: so a row that ends need not clear its places.
 * `place` has `columns` numbers and behind them where to go on, all of them 0 at the first. Tiles
 * from `count` to `clear` are 0. */
typedef struct {
    uint32_t from;
    int32_t count;
    int64_t columns, size, clear;
    uint32_t *place;
    int32_t *list;
    double *sum;
} row_sum;

INLINE row_sum row_begin(uint32_t *place, int32_t *list, double *sum, int64_t columns, int64_t size)
{
    row_sum made = {place[columns] ? place[columns] : 1, 0, columns, size, 0, place, list, sum};
    return made;
}

/* Room for so many more columns. */
INLINE void row_reach(row_sum *row, int64_t more)
{
    const int64_t wanted = row->count + more;
    const int64_t end = wanted < row->columns ? wanted : row->columns;
    if (end <= row->clear)
        return;
    for (int64_t q = row->clear * row->size; q < end * row->size; ++q)
        row->sum[q] = 0;
    row->clear = end;
}

/* Where `column` is in a row that has room, without a branch: whether it is new can rarely be
 * foreseen. */
INLINE uint32_t row_place(row_sum *row, int32_t column)
{
    const uint32_t seen = row->place[column] - row->from, next = (uint32_t)row->count;
    const uint32_t at = seen < next ? seen : next;
    row->place[column] = row->from + at;
    row->list[at] = column;
    row->count += at == next;
    return at;
}

/* The row ends, and another begins; its tiles are the caller's to clear. */
INLINE void row_end(row_sum *row)
{
    row->from += (uint32_t)row->count;
    row->count = 0;
    if (row->from > INT32_MAX) {
        for (int64_t j = 0; j < row->columns; ++j)
            row->place[j] = 0;
        row->from = 1;
    }
}

/* Entries above which `order` is sorted by comparing not all of them. */
#define FEW 256

/* Fills `order` so that list[order[.]] ascends. Of few entries each one's rank is how many are less:
 * the fastest, as nothing has to be foreseen. */
INLINE void rank_order(int32_t count, const int32_t *restrict list, int32_t *restrict order)
{
    if (count > FEW) {
        for (int32_t e = 0; e < count; ++e)
            order[e] = e;
        sort_order(count, list, order);
        return;
    }
    int32_t keys[FEW], rank[FEW];
    const int32_t padded = (count + 7) / 8 * 8;
    for (int32_t e = 0; e < padded; ++e) {
        keys[e] = e < count ? list[e] : INT32_MAX;
        rank[e] = 0;
    }
    for (int32_t e = 0; e < count; ++e) {
        const int32_t key = keys[e];
        for (int32_t block = 0; block < padded; block += 8)
            for (int32_t q = block; q < block + 8; ++q)
                rank[q] += key < keys[q];
    }
    for (int32_t e = 0; e < count; ++e)
        order[rank[e]] = e;
}

/* The runs of MATRIX_ROWS and MATRIX_PATTERNS by rows: runs[i] is that of row i RUN_ROWS, of
 * rows / RUN_ROWS + 1. From there matrix_run is quick. */
#define RUN_ROWS 64

static inline void find_runs(const hpc_sla_matrix *A, int32_t *runs)
{
    const int32_t *starts = A->parts[0];
    int32_t run = 0;
    for (int64_t i = 0; i < A->rows; i += RUN_ROWS) {
        while (starts[run + 1] <= i)
            ++run;
        runs[i / RUN_ROWS] = run;
    }
}

#endif
