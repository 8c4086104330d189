/* The Galerkin product P^T A P of one rank, by rows of (P^T A) P.
 *
 * P is in tiles: `high` rows by `wide` columns, dense, row by row; P^T has the same tiles, as they
 * are in P. Rows and columns of tiles are called nodes here, fine and coarse. A has single entries.
 * A row of P^T A is made and at once multiplied by P: there is never more than one of them. */
#include <string.h>

#include "waiting.h"

/* Rows ahead of the one in use to fetch. */
#define AHEAD_ROWS 8

/* What a product is made of: see hpc_sla_triple. */
typedef struct {
    const hpc_sla_matrix *A, *there, *R, *P, *P_there, *more;
    int64_t owned, fine, readable;
    const int32_t *runs;
} factors;

/* Two rows of tiles, of P^T A and of the product, and room for a row of A. */
typedef struct {
    row_sum left, total;
    int32_t *order, *index_room;
    void *value_room;
} work_space;

/* The two parts of the product, or what is known of them. */
typedef struct {
    int64_t used[2];
    int32_t *indptr[2], *indices[2];
    void *values[2];
} two_parts;

#define ROWS(P_NAME, A_NAME, HIGH, WIDE)                                                         \
    if (high == HIGH && wide == WIDE)                                                            \
        return rows_##P_NAME##_##A_NAME(begin, end, capacity, known, HIGH, WIDE, f, w, out);

/* Two dtypes: A's and the product's, and P's. */
#define DEFINE(T, NAME, S, OF_P)                                                                 \
    /* Adds to a row of P^T A some rows of A in the same columns, times a tile of P^T. */        \
    INLINE void add_rows_##OF_P##_##NAME(                                                        \
        int32_t length, const int32_t *restrict indices, int32_t shift,                          \
        const T *restrict values, int64_t to_row, int64_t to_entry, int64_t rows, int64_t high,  \
        int64_t wide, const S *restrict tile, row_sum *left)                                     \
    {                                                                                            \
        int32_t last = -1;                                                                       \
        uint32_t at = 0;                                                                         \
        row_reach(left, length);                                                                 \
        for (int32_t e = 0; e < length; ++e) {                                                   \
            const int32_t j = (indices[e] + shift) / (int32_t)high;                              \
            const int64_t s = indices[e] + shift - j * high;                                     \
            if (high == 1 || j != last)                                                          \
                at = row_place(left, last = j);                                                  \
            double *restrict to = left->sum + (at * high + s) * wide;                            \
            for (int64_t p = 0; p < wide; ++p) {                                                 \
                double sum = to[p];                                                              \
                for (int64_t r = 0; r < rows; ++r)                                               \
                    sum += (double)values[r * to_row + e * to_entry] * tile[r * wide + p];       \
                to[p] = sum;                                                                     \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* A row of P^T A in single entries. */                                                      \
    INLINE void left_of_one_##OF_P##_##NAME(int64_t row, const factors *f, work_space *w,        \
                                            waiting *to, row_sum *left)                          \
    {                                                                                            \
        const hpc_sla_matrix *A = f->A, *there = f->there;                                       \
        const int32_t *restrict r_indptr = f->R->parts[0], *restrict r_indices = f->R->parts[1]; \
        const S *restrict r_values = f->R->parts[2];                                             \
        int64_t count = 0;                                                                       \
        for (int32_t e = r_indptr[row]; e < r_indptr[row + 1]; ++e) {                            \
            const int32_t i = r_indices[e], *indices;                                            \
            if (A->form == MATRIX_CSR && e + AHEAD_ROWS < r_indptr[row + 1]) {                   \
                const int64_t next = ((const int32_t *)A->parts[0])[r_indices[e + AHEAD_ROWS]];  \
                __builtin_prefetch((const int32_t *)A->parts[1] + next);                         \
                __builtin_prefetch((const T *)A->parts[2] + next);                               \
            }                                                                                    \
            const double by = r_values[e];                                                       \
            const T *values;                                                                     \
            int64_t near = f->runs ? f->runs[i / RUN_ROWS] : 0;                                  \
            if (A->form == MATRIX_ROWS && A->block == 1) {                                       \
                near = matrix_run(A->parts[0], i, near);                                         \
                const int32_t *ends = (const int32_t *)A->parts[2] +                             \
                                      ((const int32_t *)A->parts[1])[near];                      \
                count = wait_##NAME(ends[1] - ends[0], f->readable - ends[0],                    \
                                    (const int32_t *)A->parts[3] + ends[0], i,                   \
                                    (const T *)A->parts[4] + ends[0], by, count, to, left);      \
            } else if (A->form == MATRIX_CSR) {                                                  \
                const int32_t *indptr = (const int32_t *)A->parts[0] + i;                        \
                const int32_t length = indptr[1] - indptr[0];                                    \
                const int32_t *from = (const int32_t *)A->parts[1] + indptr[0];                  \
                const T *numbers = (const T *)A->parts[2] + indptr[0];                           \
                if (length >= LONG)                                                              \
                    sum_long_##NAME(length, from, numbers, by, left);                            \
                else                                                                             \
                    count = wait_##NAME(length, f->readable - indptr[0], from, 0, numbers, by,   \
                                        count, to, left);                                        \
            } else {                                                                             \
                const int32_t length = matrix_row_##NAME(A, i, &near, w->index_room,             \
                                                         w->value_room, &indices, &values);      \
                count = wait_##NAME(length, 0, indices, 0, values, by, count, to, left);         \
            }                                                                                    \
            if (!there)                                                                          \
                continue;                                                                        \
            const int32_t *t_indptr = (const int32_t *)there->parts[0] + i;                      \
            if (t_indptr[0] < t_indptr[1])                                                       \
                count = wait_##NAME(t_indptr[1] - t_indptr[0], there->entries - t_indptr[0],     \
                                    (const int32_t *)there->parts[1] + t_indptr[0],              \
                                    (int32_t)f->fine, (const T *)there->parts[2] + t_indptr[0],  \
                                    by, count, to, left);                                        \
        }                                                                                        \
        sum_up(count, to, left);                                                                 \
    }                                                                                            \
                                                                                                 \
    /* A row of P^T A. */                                                                        \
    INLINE void left_row_##OF_P##_##NAME(int64_t row, int64_t high, int64_t wide,                \
                                         const factors *f, work_space *w, waiting *to,           \
                                         row_sum *left)                                          \
    {                                                                                            \
        if (high * wide == 1) {                                                                  \
            left_of_one_##OF_P##_##NAME(row, f, w, to, left);                                    \
            return;                                                                              \
        }                                                                                        \
        const hpc_sla_matrix *A = f->A, *there = f->there;                                       \
        const int32_t *restrict r_indptr = f->R->parts[0], *restrict r_indices = f->R->parts[1]; \
        for (int32_t e = r_indptr[row]; e < r_indptr[row + 1]; ++e) {                            \
            const S *tile = (const S *)f->R->parts[2] + e * high * wide;                         \
            const int64_t first = r_indices[e] * high;                                           \
            int64_t near = f->runs ? f->runs[first / RUN_ROWS] : 0;                              \
            if (A->form == MATRIX_ROWS && A->block == high) {                                    \
                near = matrix_run(A->parts[0], first, near);                                     \
                const int32_t *ends = (const int32_t *)A->parts[2] +                             \
                                      ((const int32_t *)A->parts[1])[near];                      \
                const int64_t lanes = matrix_lanes(high);                                        \
                add_rows_##OF_P##_##NAME(                                                        \
                    ends[1] - ends[0], (const int32_t *)A->parts[3] + ends[0], (int32_t)first,   \
                    (const T *)A->parts[4] + ends[0] * lanes, 1, lanes, high, high, wide, tile,  \
                    left);                                                                       \
            } else {                                                                             \
                const int32_t *indices;                                                          \
                const T *values;                                                                 \
                int32_t length = 0;                                                              \
                int64_t same = 0;                                                                \
                /* As many rows at once as have their entries in the same columns. */            \
                if (A->form == MATRIX_CSR) {                                                     \
                    const int32_t *indptr = (const int32_t *)A->parts[0] + first;                \
                    indices = (const int32_t *)A->parts[1] + indptr[0];                          \
                    values = (const T *)A->parts[2] + indptr[0];                                 \
                    length = indptr[1] - indptr[0];                                              \
                    for (same = 1; same < high; ++same)                                          \
                        if (indptr[same + 1] - indptr[same] != length ||                         \
                            memcmp(indices, indices + same * length, length * sizeof *indices))  \
                            break;                                                               \
                }                                                                                \
                if (same == high)                                                                \
                    add_rows_##OF_P##_##NAME(length, indices, 0, values, length, 1, high, high,  \
                                             wide, tile, left);                                  \
                else                                                                             \
                    for (int64_t r = 0; r < high; ++r) {                                         \
                        length = matrix_row_##NAME(A, first + r, &near, w->index_room,           \
                                                   w->value_room, &indices, &values);            \
                        add_rows_##OF_P##_##NAME(length, indices, 0, values, 0, 1, 1, high, wide,\
                                                 tile + r * wide, left);                         \
                    }                                                                            \
            }                                                                                    \
            if (!there)                                                                          \
                continue;                                                                        \
            /* Halo columns come behind those owned, each with a tile of which it has a row. */  \
            const int32_t *restrict t_indptr = there->parts[0];                                  \
            const int32_t *restrict t_indices = there->parts[1];                                 \
            const T *restrict t_values = there->parts[2];                                        \
            for (int64_t r = 0; r < high; ++r)                                                   \
                for (int32_t g = t_indptr[first + r]; g < t_indptr[first + r + 1]; ++g) {        \
                    row_reach(left, 1);                                                          \
                    const int64_t at = row_place(left, (int32_t)f->fine + t_indices[g]);         \
                    for (int64_t p = 0; p < wide; ++p)                                           \
                        left->sum[at * high * wide + p] +=                                       \
                            (double)t_values[g] * tile[r * wide + p];                            \
                }                                                                                \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* A row of P^T A P, of one of P^T A, in single entries. */                                  \
    INLINE void total_of_one_##OF_P##_##NAME(const factors *f, const row_sum *left,              \
                                             waiting *to, row_sum *total)                        \
    {                                                                                            \
        int64_t count = 0;                                                                       \
        for (int32_t t = 0; t < left->count; ++t) {                                              \
            const int32_t j = left->list[t];                                                     \
            const hpc_sla_matrix *P = j < f->fine ? f->P : f->P_there;                           \
            const int32_t *indptr =                                                              \
                (const int32_t *)P->parts[0] + (j < f->fine ? j : j - f->fine);                  \
            const double by = left->sum[t];                                                      \
            if (t + AHEAD_ROWS < left->count && left->list[t + AHEAD_ROWS] < f->fine) {          \
                const int32_t *starts = f->P->parts[0];                                          \
                const int64_t next = starts[left->list[t + AHEAD_ROWS]];                         \
                __builtin_prefetch((const int32_t *)f->P->parts[1] + next);                      \
                __builtin_prefetch((const S *)f->P->parts[2] + next);                            \
            }                                                                                    \
            left->sum[t] = 0;                                                                    \
            count = wait_##OF_P(indptr[1] - indptr[0], P->entries - indptr[0],                   \
                        (const int32_t *)P->parts[1] + indptr[0], 0,                             \
                        (const S *)P->parts[2] + indptr[0], by, count, to, total);               \
        }                                                                                        \
        sum_up(count, to, total);                                                                \
    }                                                                                            \
                                                                                                 \
    /* The same in tiles, those of the halo of one row each. */                                  \
    INLINE void add_tiles_##OF_P##_##NAME(int64_t row, const hpc_sla_matrix *P, int64_t high,    \
                                          int64_t wide, const double *restrict left,             \
                                          row_sum *total)                                        \
    {                                                                                            \
        const int32_t *restrict indptr = P->parts[0], *restrict indices = P->parts[1];           \
        row_reach(total, indptr[row + 1] - indptr[row]);                                         \
        for (int32_t e = indptr[row]; e < indptr[row + 1]; ++e) {                                \
            const S *restrict right = (const S *)P->parts[2] + e * high * wide;                  \
            double *restrict to = total->sum + row_place(total, indices[e]) * wide * wide;       \
            for (int64_t p = 0; p < wide; ++p)                                                   \
                for (int64_t q = 0; q < wide; ++q) {                                             \
                    double sum = to[p * wide + q];                                               \
                    for (int64_t s = 0; s < high; ++s)                                           \
                        sum += left[s * wide + p] * right[s * wide + q];                         \
                    to[p * wide + q] = sum;                                                      \
                }                                                                                \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void total_row_##OF_P##_##NAME(int64_t row, int64_t high, int64_t wide,               \
                                          const factors *f, const row_sum *left, waiting *to,    \
                                          row_sum *total)                                        \
    {                                                                                            \
        const int64_t size = high * wide, square = wide * wide;                                  \
        if (size == 1)                                                                           \
            total_of_one_##OF_P##_##NAME(f, left, to, total);                                    \
        else                                                                                     \
            for (int32_t t = 0; t < left->count; ++t) {                                          \
                const int64_t j = left->list[t];                                                 \
                if (j < f->fine)                                                                 \
                    add_tiles_##OF_P##_##NAME(j, f->P, high, wide, left->sum + t * size, total); \
                else                                                                             \
                    add_tiles_##OF_P##_##NAME(j - f->fine, f->P_there, 1, wide,                  \
                                              left->sum + t * size, total);                      \
                for (int64_t q = 0; q < size; ++q)                                               \
                    left->sum[t * size + q] = 0;                                                 \
            }                                                                                    \
        if (!f->more)                                                                            \
            return;                                                                              \
        const int32_t *restrict m_indptr = f->more->parts[0];                                    \
        const int32_t *restrict m_indices = f->more->parts[1];                                   \
        const double *restrict m_values = f->more->parts[2];                                     \
        for (int64_t p = 0; p < wide; ++p)                                                       \
            for (int32_t e = m_indptr[row * wide + p]; e < m_indptr[row * wide + p + 1]; ++e) {  \
                const int32_t node = m_indices[e] / (int32_t)wide;                               \
                row_reach(total, 1);                                                             \
                const int64_t to = row_place(total, node);                                       \
                total->sum[to * square + p * wide + m_indices[e] - node * wide] += m_values[e];  \
            }                                                                                    \
    }                                                                                            \
                                                                                                 \
    /* A row of the product where its entries are known. A column that has no sum is one that    \
     * this time no rank had anything for. */                                                    \
    INLINE void fill_##OF_P##_##NAME(int64_t row, int64_t wide, const row_sum *total,            \
                                     const two_parts *out)                                       \
    {                                                                                            \
        for (int64_t p = 0; p < wide; ++p)                                                       \
            for (int part = 0; part < 2; ++part) {                                               \
                const int32_t *restrict indptr = out->indptr[part] + row * wide + p;             \
                for (int32_t e = indptr[0]; e < indptr[1]; ++e) {                                \
                    const int32_t column = out->indices[part][e], node = column / (int32_t)wide; \
                    const int64_t q = column - node * wide, at = total->place[node];             \
                    T *value = (T *)out->values[part] + e;                                       \
                    *value = 0;                                                                  \
                    if (at >= total->from)                                                       \
                        *value = (T)total->sum[((at - total->from) * wide + p) * wide + q];      \
                }                                                                                \
            }                                                                                    \
    }                                                                                            \
                                                                                                 \
    /* A row of the product behind those before it. */                                           \
    INLINE void append_##OF_P##_##NAME(int64_t row, int64_t wide, int64_t owned,                 \
                                       const row_sum *total, int32_t *order, two_parts *out)     \
    {                                                                                            \
        rank_order(total->count, total->list, order);                                            \
        for (int64_t p = 0; p < wide; ++p) {                                                     \
            int32_t e = 0;                                                                       \
            for (int part = 0; part < 2; ++part) {                                               \
                int64_t used = out->used[part];                                                  \
                int32_t *restrict indices = out->indices[part];                                  \
                T *restrict values = out->values[part];                                          \
                for (; e < total->count && (part || total->list[order[e]] < owned); ++e) {       \
                    const double *from = total->sum + (order[e] * wide + p) * wide;              \
                    for (int64_t q = 0; q < wide; ++q) {                                         \
                        indices[used] = (int32_t)(total->list[order[e]] * wide + q);             \
                        values[used++] = (T)from[q];                                             \
                    }                                                                            \
                }                                                                                \
                out->indptr[part][row * wide + p + 1] = (int32_t)(out->used[part] = used);       \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE int64_t rows_##OF_P##_##NAME(int64_t begin, int64_t end, int64_t capacity,            \
                                        int64_t known, int64_t high, int64_t wide,               \
                                        const factors *f, work_space *w, two_parts *out)         \
    {                                                                                            \
        row_sum left = w->left, total = w->total;                                                \
        waiting to;                                                                              \
        int64_t row = begin;                                                                     \
        for (; row < end; ++row) {                                                               \
            left_row_##OF_P##_##NAME(row, high, wide, f, w, &to, &left);                         \
            total_row_##OF_P##_##NAME(row, high, wide, f, &left, &to, &total);                   \
            const int64_t numbers = total.count * wide * wide;                                   \
            const int fits = known || (out->used[0] + numbers <= capacity &&                     \
                                       out->used[1] + numbers <= capacity);                      \
            if (known)                                                                           \
                fill_##OF_P##_##NAME(row, wide, &total, out);                                    \
            else if (fits)                                                                       \
                append_##OF_P##_##NAME(row, wide, f->owned, &total, w->order, out);              \
            for (int64_t q = 0; q < numbers; ++q)                                                \
                total.sum[q] = 0;                                                                \
            row_end(&left);                                                                      \
            row_end(&total);                                                                     \
            if (!fits)                                                                           \
                break;                                                                           \
        }                                                                                        \
        w->left = left, w->total = total;                                                        \
        return row;                                                                              \
    }                                                                                            \
                                                                                                 \
    static CLONED int64_t sized_##OF_P##_##NAME(int64_t begin, int64_t end, int64_t capacity,    \
                                                int64_t known, int64_t high, int64_t wide,       \
                                                const factors *f, work_space *w, two_parts *out) \
    {                                                                                            \
        ROWS(OF_P, NAME, 1, 1)                                                                   \
        ROWS(OF_P, NAME, 3, 6)                                                                   \
        ROWS(OF_P, NAME, 6, 6)                                                                   \
        ROWS(OF_P, NAME, 2, 3)                                                                   \
        ROWS(OF_P, NAME, 3, 3)                                                                   \
        return rows_##OF_P##_##NAME(begin, end, capacity, known, high, wide, f, w, out);         \
    }                                                                                            \
                                                                                                 \
    /* Rows `begin` to `end` of nodes of P^T A P. A = [A | there] in owned and halo columns, the \
     * latter with all rows; P and P_there P's rows at these, P_there in tiles of one row; R is  \
     * P^T; `more` what is to be added, in single entries of float64. there, P_there and more may\
     * be NULL. Columns of nodes below `owned` of `columns` go to the first output, others to the\
     * second, each with indptr of all rows; or with `known` values go to where the two say.     \
     * Returns the first row for which `capacity` entries of either did not suffice.             \
     * Work: places are 0 at the first call and then left alone, see row_sum; runs is of        \
     * A->rows / RUN_ROWS + 1, NULL where A has no runs. */                                      \
    int64_t hpc_sla_triple_##OF_P##_##NAME(                                                      \
        int64_t end, int64_t k, int64_t begin, int64_t capacity, int64_t owned, int64_t columns, \
        int64_t high, int64_t wide, int64_t known, int64_t readable, const hpc_sla_matrix *A,    \
        const hpc_sla_matrix *there, const hpc_sla_matrix *R, const hpc_sla_matrix *P,           \
        const hpc_sla_matrix *P_there, const hpc_sla_matrix *more, uint32_t *left_place,         \
        int32_t *left_list, double *left_sum, uint32_t *place, int32_t *list, double *sum,       \
        int32_t *order, int32_t *runs, int32_t *index_room, T *value_room, int32_t *o_indptr,    \
        int32_t *o_indices, T *o_values, int32_t *h_indptr, int32_t *h_indices, T *h_values)     \
    {                                                                                            \
        const int64_t fine = A->columns / high;                                                  \
        factors f = {A, there, R, P, P_there, more, owned, fine, readable, runs};                \
        const int64_t all = fine + (there ? there->columns : 0);                                 \
        work_space w = {row_begin(left_place, left_list, left_sum, all, high * wide),            \
                        row_begin(place, list, sum, columns, wide * wide), order, index_room,    \
                        value_room};                                                             \
        two_parts out = {{o_indptr[begin * wide], h_indptr[begin * wide]},                       \
                         {o_indptr, h_indptr},                                                   \
                         {o_indices, h_indices},                                                 \
                         {o_values, h_values}};                                                  \
        (void)k;                                                                                 \
        if (runs)                                                                                \
            find_runs(A, runs);                                                                  \
        const int64_t done = sized_##OF_P##_##NAME(begin, end, capacity, known, high, wide, &f,  \
                                                   &w, &out);                                    \
        left_place[w.left.columns] = w.left.from, place[columns] = w.total.from;                 \
        return done;                                                                             \
    }

DEFINE(double, float64, double, float64)
DEFINE(double, float64, float, float32)
DEFINE(float, float32, double, float64)
DEFINE(float, float32, float, float32)
