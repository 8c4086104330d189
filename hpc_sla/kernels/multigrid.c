/* Rank-local loops of a multigrid set-up: aggregates, a smoothed prolongator, a triple product.
 * Sequential by nature: they serve whatever the number of threads. */
#include "native.h"

#define DEFINE(T, NAME)                                                                          \
    /* Whether entry k of row i is a strong connection to another node. d is sqrt |a_ii|. */     \
    INLINE int strong_##NAME(int64_t i, int32_t j, T value, const T *restrict d, T threshold)    \
    {                                                                                            \
        return j != i && value != 0 && (value < 0 ? -value : value) > threshold * d[i] * d[j];   \
    }                                                                                            \
                                                                                                 \
    /* Aggregates of n nodes: group [n] is filled with their numbers, -1 for a node without a    \
     * strong neighbour. Returns how many. Vanek, Mandel and Brezina, Computing 56 (1996),       \
     * algorithm 5.1; in its second step a node goes to its strongest neighbour's aggregate. */  \
    int64_t hpc_sla_aggregate_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,       \
                                     const int32_t *restrict indices, const T *restrict values,  \
                                     const T *restrict d, const T *restrict threshold,           \
                                     int32_t *restrict group)                                    \
    {                                                                                            \
        enum { OPEN = -2, ALONE = -1 };                                                          \
        const T theta = threshold[0];                                                            \
        int64_t count = 0;                                                                       \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < n; ++i)                                                          \
            group[i] = OPEN;                                                                     \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            int alone = 1, free_around = 1;                                                      \
            for (int32_t e = indptr[i]; e < indptr[i + 1] && free_around; ++e)                   \
                if (strong_##NAME(i, indices[e], values[e], d, theta)) {                         \
                    alone = 0;                                                                   \
                    free_around = group[indices[e]] == OPEN;                                     \
                }                                                                                \
            if (alone)                                                                           \
                group[i] = ALONE;                                                                \
            else if (free_around) {                                                              \
                group[i] = (int32_t)count;                                                       \
                for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e)                              \
                    if (strong_##NAME(i, indices[e], values[e], d, theta))                       \
                        group[indices[e]] = (int32_t)count;                                      \
                ++count;                                                                         \
            }                                                                                    \
        }                                                                                        \
        /* Guests are written as -3 - group: they are no hosts. */                               \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            T best = 0;                                                                          \
            for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e) {                                \
                const int32_t j = indices[e];                                                    \
                const T size = values[e] < 0 ? -values[e] : values[e];                           \
                if (group[j] >= 0 && size > best && strong_##NAME(i, j, values[e], d, theta)) {  \
                    best = size;                                                                 \
                    group[i] = -3 - group[j];                                                    \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] <= -3)                                                                  \
                group[i] = -3 - group[i];                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            group[i] = (int32_t)count;                                                           \
            for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e)                                  \
                if (group[indices[e]] == OPEN &&                                                 \
                    strong_##NAME(i, indices[e], values[e], d, theta))                           \
                    group[indices[e]] = (int32_t)count;                                          \
            ++count;                                                                             \
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* Row `row` of M times (I - damping D^-1 A) T for a T of one entry q a row, in column c (-1: \
     * none): adds weight times the part of T in the columns of one row of A. */                 \
    INLINE int32_t gather_##NAME(int32_t begin, int32_t end, const int32_t *restrict indices,    \
                                 const T *restrict values, T weight, const int32_t *restrict c,  \
                                 const T *restrict q, int32_t *restrict place, int32_t first,    \
                                 int32_t used, int32_t *restrict out_indices,                    \
                                 T *restrict out_values)                                         \
    {                                                                                            \
        for (int32_t e = begin; e < end; ++e) {                                                  \
            const int32_t j = indices[e], column = c[j];                                         \
            if (column < 0)                                                                      \
                continue;                                                                        \
            int32_t at = place[column];                                                          \
            if (at < first) {                                                                    \
                at = place[column] = used++;                                                     \
                out_indices[at] = column;                                                        \
                out_values[at] = 0;                                                              \
            }                                                                                    \
            out_values[at] += weight * values[e] * q[j];                                         \
        }                                                                                        \
        return used;                                                                             \
    }                                                                                            \
                                                                                                 \
    INLINE void sort_row_##NAME(int32_t begin, int32_t end, int32_t *restrict indices,           \
                                T *restrict values)                                              \
    {                                                                                            \
        for (int32_t i = begin + 1; i < end; ++i) {                                              \
            const int32_t index = indices[i];                                                    \
            const T value = values[i];                                                           \
            int32_t j = i;                                                                       \
            for (; j > begin && indices[j - 1] > index; --j) {                                   \
                indices[j] = indices[j - 1];                                                     \
                values[j] = values[j - 1];                                                       \
            }                                                                                    \
            indices[j] = index;                                                                  \
            values[j] = value;                                                                   \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* P = (I - diag(damped) A) T, A = [owned | halo] (there_indptr has all n rows). Entries     \
     * below `small` times the largest of their row are dropped, and what remains scaled to the  \
     * row's old sum. place [columns of P] is -1 throughout. Returns the entries. */             \
    int64_t hpc_sla_prolongator_##NAME(                                                          \
        int64_t n, int64_t k, const int32_t *restrict indptr, const int32_t *restrict indices,   \
        const T *restrict values, const int32_t *restrict there_indptr,                          \
        const int32_t *restrict there_indices, const T *restrict there_values,                   \
        const T *restrict damped, const T *restrict small, const int32_t *restrict c,            \
        const T *restrict q, const int32_t *restrict there_c, const T *restrict there_q,         \
        int32_t *restrict place, int32_t *restrict out_indptr, int32_t *restrict out_indices,    \
        T *restrict out_values)                                                                  \
    {                                                                                            \
        int32_t used = 0;                                                                        \
        (void)k;                                                                                 \
        out_indptr[0] = 0;                                                                       \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const int32_t first = used;                                                          \
            if (c[i] >= 0) {                                                                     \
                place[c[i]] = used;                                                              \
                out_indices[used] = c[i];                                                        \
                out_values[used++] = q[i];                                                       \
            }                                                                                    \
            used = gather_##NAME(indptr[i], indptr[i + 1], indices, values, -damped[i], c, q,    \
                                 place, first, used, out_indices, out_values);                   \
            used = gather_##NAME(there_indptr[i], there_indptr[i + 1], there_indices,            \
                                 there_values, -damped[i], there_c, there_q, place, first, used, \
                                 out_indices, out_values);                                       \
            T largest = 0, sum = 0, kept = 0;                                                    \
            for (int32_t e = first; e < used; ++e) {                                             \
                const T size = out_values[e] < 0 ? -out_values[e] : out_values[e];               \
                largest = size > largest ? size : largest;                                       \
                sum += out_values[e];                                                            \
            }                                                                                    \
            int32_t end = first;                                                                 \
            for (int32_t e = first; e < used; ++e) {                                             \
                const T size = out_values[e] < 0 ? -out_values[e] : out_values[e];               \
                place[out_indices[e]] = -1;                                                      \
                if (size < small[0] * largest)                                                   \
                    continue;                                                                    \
                kept += out_values[e];                                                           \
                out_indices[end] = out_indices[e];                                               \
                out_values[end++] = out_values[e];                                               \
            }                                                                                    \
            if (end < used && kept != 0)                                                         \
                for (int32_t e = first; e < end; ++e)                                            \
                    out_values[e] *= sum / kept;                                                 \
            sort_row_##NAME(first, end, out_indices, out_values);                                \
            out_indptr[i + 1] = used = end;                                                      \
        }                                                                                        \
        return used;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* weight times a row of A, added to the sparse row (list, sum) of `count` entries. A column \
     * that is there has its place in place[], which need not be cleared: list says if it is so. */\
    INLINE int32_t add_row_##NAME(int32_t begin, int32_t end, const int32_t *restrict indices,   \
                                  const T *restrict values, T weight, int32_t offset,            \
                                  int32_t *restrict place, int32_t *restrict list,               \
                                  T *restrict sum, int32_t count)                                \
    {                                                                                            \
        for (int32_t e = begin; e < end; ++e) {                                                  \
            const int32_t column = indices[e] + offset;                                          \
            int32_t at = place[column];                                                          \
            if (at >= count || list[at] != column) {                                             \
                at = place[column] = count++;                                                    \
                list[at] = column;                                                               \
                sum[at] = 0;                                                                     \
            }                                                                                    \
            sum[at] += weight * values[e];                                                       \
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* A row of P^T A as (list, sum): rows of A, in its two parts, by the weights of a row of P^T. */\
    INLINE int32_t left_row_##NAME(                                                              \
        int32_t begin, int32_t end, const int32_t *restrict r_indices, const T *restrict r_values,\
        int64_t m, const int32_t *restrict indptr, const int32_t *restrict indices,              \
        const T *restrict values, const int32_t *restrict there_indptr,                          \
        const int32_t *restrict there_indices, const T *restrict there_values,                   \
        int32_t *restrict fine, int32_t *restrict list, T *restrict sum)                         \
    {                                                                                            \
        int32_t count = 0;                                                                       \
        for (int32_t e = begin; e < end; ++e) {                                                  \
            const int32_t i = r_indices[e];                                                      \
            count = add_row_##NAME(indptr[i], indptr[i + 1], indices, values, r_values[e], 0, fine,\
                                   list, sum, count);                                            \
            count = add_row_##NAME(there_indptr[i], there_indptr[i + 1], there_indices,          \
                                   there_values, r_values[e], (int32_t)m, fine, list, sum, count);\
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* Rows of P^T A P from `begin` on, by rows of (P^T A) P. The columns of A are in two parts as\
     * above, m of them in the first, and `there_p` are P's rows that belong to the second.      \
     * fine [columns of A] and place [columns of P] hold numbers from 0 up; place is below       \
     * out_indptr[begin] throughout. list and sum have room for a row of P^T A. Returns the first\
     * row for which `capacity` entries did not suffice. */                                      \
    int64_t hpc_sla_triple_##NAME(                                                               \
        int64_t n, int64_t k, int64_t begin, int64_t capacity, int64_t m,                        \
        const int32_t *restrict r_indptr, const int32_t *restrict r_indices,                     \
        const T *restrict r_values, const int32_t *restrict indptr,                              \
        const int32_t *restrict indices, const T *restrict values,                               \
        const int32_t *restrict there_indptr, const int32_t *restrict there_indices,             \
        const T *restrict there_values, const int32_t *restrict p_indptr,                        \
        const int32_t *restrict p_indices, const T *restrict p_values,                           \
        const int32_t *restrict there_p_indptr, const int32_t *restrict there_p_indices,         \
        const T *restrict there_p_values, int32_t *restrict fine, int32_t *restrict list,        \
        T *restrict sum, int32_t *restrict place, int32_t *restrict out_indptr,                  \
        int32_t *restrict out_indices, T *restrict out_values)                                   \
    {                                                                                            \
        int64_t used = out_indptr[begin];                                                        \
        (void)k;                                                                                 \
        for (int64_t row = begin; row < n; ++row) {                                              \
            const int32_t first = (int32_t)used;                                                 \
            const int32_t count = left_row_##NAME(                                               \
                r_indptr[row], r_indptr[row + 1], r_indices, r_values, m, indptr, indices, values,\
                there_indptr, there_indices, there_values, fine, list, sum);                     \
            for (int32_t e = 0; e < count; ++e) {                                                \
                const int here = list[e] < m;                                                    \
                const int64_t i = here ? list[e] : list[e] - m;                                  \
                const int32_t *restrict columns = here ? p_indices : there_p_indices;            \
                const T *restrict entries = here ? p_values : there_p_values;                    \
                const int32_t start = here ? p_indptr[i] : there_p_indptr[i];                    \
                const int32_t end = here ? p_indptr[i + 1] : there_p_indptr[i + 1];              \
                if (used + (end - start) > capacity)                                             \
                    return row;                                                                  \
                for (int32_t f = start; f < end; ++f) {                                          \
                    int32_t at = place[columns[f]];                                              \
                    if (at < first) {                                                            \
                        at = place[columns[f]] = (int32_t)used++;                                \
                        out_indices[at] = columns[f];                                            \
                        out_values[at] = 0;                                                      \
                    }                                                                            \
                    out_values[at] += sum[e] * entries[f];                                       \
                }                                                                                \
            }                                                                                    \
            sort_row_##NAME(first, (int32_t)used, out_indices, out_values);                      \
            out_indptr[row + 1] = (int32_t)used;                                                 \
        }                                                                                        \
        return n;                                                                                \
    }                                                                                            \
                                                                                                 \
    /* The values of P^T A P where its entries are known: `o` those in owned columns, in CSR;    \
     * `h` the others, whose h_columns are P's, and whose values follow those of `o`. All that   \
     * the product can have must be there. Otherwise as above. */                                \
    int64_t hpc_sla_triple_values_##NAME(                                                        \
        int64_t n, int64_t k, int64_t m, const int32_t *restrict r_indptr,                       \
        const int32_t *restrict r_indices, const T *restrict r_values,                           \
        const int32_t *restrict indptr, const int32_t *restrict indices,                         \
        const T *restrict values, const int32_t *restrict there_indptr,                          \
        const int32_t *restrict there_indices, const T *restrict there_values,                   \
        const int32_t *restrict p_indptr, const int32_t *restrict p_indices,                     \
        const T *restrict p_values, const int32_t *restrict there_p_indptr,                      \
        const int32_t *restrict there_p_indices, const T *restrict there_p_values,               \
        int32_t *restrict fine, int32_t *restrict list, T *restrict sum,                         \
        int32_t *restrict place, const int32_t *restrict o_indptr,                               \
        const int32_t *restrict o_columns, const int32_t *restrict h_indptr,                     \
        const int32_t *restrict h_columns, T *restrict out)                                      \
    {                                                                                            \
        const int32_t in_owned = o_indptr[n];                                                    \
        (void)k;                                                                                 \
        for (int64_t row = 0; row < n; ++row) {                                                  \
            for (int32_t e = o_indptr[row]; e < o_indptr[row + 1]; ++e) {                        \
                place[o_columns[e]] = e;                                                         \
                out[e] = 0;                                                                      \
            }                                                                                    \
            for (int32_t e = h_indptr[row]; e < h_indptr[row + 1]; ++e) {                        \
                place[h_columns[e]] = in_owned + e;                                              \
                out[in_owned + e] = 0;                                                           \
            }                                                                                    \
            const int32_t count = left_row_##NAME(                                               \
                r_indptr[row], r_indptr[row + 1], r_indices, r_values, m, indptr, indices, values,\
                there_indptr, there_indices, there_values, fine, list, sum);                     \
            for (int32_t e = 0; e < count; ++e) {                                                \
                const int here = list[e] < m;                                                    \
                const int64_t i = here ? list[e] : list[e] - m;                                  \
                const int32_t *restrict columns = here ? p_indices : there_p_indices;            \
                const T *restrict entries = here ? p_values : there_p_values;                    \
                const int32_t start = here ? p_indptr[i] : there_p_indptr[i];                    \
                const int32_t end = here ? p_indptr[i + 1] : there_p_indptr[i + 1];              \
                for (int32_t f = start; f < end; ++f)                                            \
                    out[place[columns[f]]] += sum[e] * entries[f];                               \
            }                                                                                    \
        }                                                                                        \
        return n;                                                                                \
    }                                                                                            \
                                                                                                 \
    /* A matrix in columns [m owned | others] as two: entries of the first m columns in rows of  \
     * their own, and of the rows that have others, those, with columns from 0 on, the rows'     \
     * numbers in `boundary`. there_indptr has room for n + 1. Returns the boundary's length. */ \
    int64_t hpc_sla_split_##NAME(int64_t n, int64_t k, int64_t m, const int32_t *restrict indptr,\
                                 const int32_t *restrict indices, const T *restrict values,      \
                                 int32_t *restrict owned_indptr, int32_t *restrict owned_indices,\
                                 T *restrict owned_values, int32_t *restrict boundary,           \
                                 int32_t *restrict there_indptr, int32_t *restrict there_indices,\
                                 T *restrict there_values)                                       \
    {                                                                                            \
        int32_t owned = 0, there = 0, rows = 0;                                                  \
        (void)k;                                                                                 \
        owned_indptr[0] = there_indptr[0] = 0;                                                   \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const int32_t before = there;                                                        \
            for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e)                                  \
                if (indices[e] < m) {                                                            \
                    owned_indices[owned] = indices[e];                                           \
                    owned_values[owned++] = values[e];                                           \
                } else {                                                                         \
                    there_indices[there] = indices[e] - (int32_t)m;                              \
                    there_values[there++] = values[e];                                           \
                }                                                                                \
            owned_indptr[i + 1] = owned;                                                         \
            if (there > before) {                                                                \
                boundary[rows++] = (int32_t)i;                                                   \
                there_indptr[rows] = there;                                                      \
            }                                                                                    \
        }                                                                                        \
        return rows;                                                                             \
    }                                                                                            \

DEFINE(double, float64)
DEFINE(float, float32)
