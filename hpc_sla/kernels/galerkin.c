/* The Galerkin product P^T A P of one rank, by rows of P^T (A P).
 *
 * P is in tiles: `high` rows by `wide` columns, dense, row by row; P^T has the same tiles, as they are
 * in P. Rows and columns of tiles are called nodes here, fine and coarse. A has single entries. Rows
 * of A P are kept in a ring of the latest, as the rows of P^T that need one are near each other: each
 * is made about once, and not all of A P is ever there. */
#include "sparse_rows.h"

/* What is worked in. All but `slot` (0: no row) and the two places (any numbers from 0 up) may be
 * uninitialised. Entries of the ring have a column and a tile; a row is led by one that has its
 * length. head counts all that was written: what lies further back than `room` is gone. */
typedef struct {
    int64_t room, head;
    uint32_t *slot;
    int32_t *ring_list;
    double *ring_sum;
    int32_t *place, *list, *order, *far_place, *far_list;
    double *sum, *far_sum;
    void *index_room, *value_room;
} work_space;

#define ROWS(P_NAME, A_NAME, HIGH, WIDE)                                                         \
    if (high == HIGH && wide == WIDE)                                                            \
        return rows_##P_NAME##_##A_NAME(begin, end, capacity, owned, HIGH, WIDE, A, there, R, P, \
                                        P_there, more, &w, (int32_t)known, o_indptr, o_indices,  \
                                        o_values, h_indptr, h_indices, h_values);

/* Two dtypes: A's and the product's, and P's. */
#define DEFINE(T, NAME, S, OF_P)                                                                 \
    /* Row `node` of A P, as (far_list, far_sum); how many tiles. */                             \
    INLINE int32_t ap_row_##OF_P##_##NAME(int64_t node, int64_t high, int64_t wide,              \
                                          const hpc_sla_matrix *A, const hpc_sla_matrix *there,  \
                                          const hpc_sla_matrix *P, const hpc_sla_matrix *P_there,\
                                          int64_t *near, const work_space *w)                    \
    {                                                                                            \
        const int32_t *restrict p_indptr = P->parts[0], *restrict p_indices = P->parts[1];       \
        const S *restrict p_values = P->parts[2];                                                \
        const int64_t size = high * wide;                                                        \
        int32_t count = 0;                                                                       \
        for (int64_t r = 0; r < high; ++r) {                                                     \
            const int64_t i = node * high + r;                                                   \
            const int32_t *indices;                                                              \
            const T *values;                                                                     \
            const int32_t length = matrix_row_##NAME(A, i, near, w->index_room, w->value_room,   \
                                                     &indices, &values);                         \
            for (int32_t e = 0; e < length; ++e) {                                               \
                const int64_t j = indices[e] / high, s = indices[e] - j * high;                  \
                const double a = values[e];                                                      \
                for (int32_t f = p_indptr[j]; f < p_indptr[j + 1]; ++f) {                        \
                    const int32_t at = place_of(p_indices[f], w->far_place, w->far_list,         \
                                                w->far_sum, &count, size);                       \
                    const S *restrict from = p_values + (f * high + s) * wide;                   \
                    double *restrict to = w->far_sum + at * size + r * wide;                     \
                    for (int64_t q = 0; q < wide; ++q)                                           \
                        to[q] += a * from[q];                                                    \
                }                                                                                \
            }                                                                                    \
            if (!there)                                                                          \
                continue;                                                                        \
            const int32_t *restrict t_indptr = there->parts[0], *restrict t_indices = there->parts[1]; \
            const T *restrict t_values = there->parts[2];                                        \
            const int32_t *restrict h_indptr = P_there->parts[0];                                \
            const int32_t *restrict h_indices = P_there->parts[1];                               \
            const S *restrict h_values = P_there->parts[2];                                      \
            for (int32_t e = t_indptr[i]; e < t_indptr[i + 1]; ++e) {                            \
                const double a = t_values[e];                                                    \
                for (int32_t f = h_indptr[t_indices[e]]; f < h_indptr[t_indices[e] + 1]; ++f) {  \
                    const int32_t at = place_of(h_indices[f], w->far_place, w->far_list,         \
                                                w->far_sum, &count, size);                       \
                    double *restrict to = w->far_sum + at * size + r * wide;                     \
                    for (int64_t q = 0; q < wide; ++q)                                           \
                        to[q] += a * h_values[f * wide + q];                                     \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* The same, from the ring where it is there: its first entry. */                            \
    INLINE int64_t ring_row_##OF_P##_##NAME(int64_t node, int64_t high, int64_t wide,            \
                                            const hpc_sla_matrix *A, const hpc_sla_matrix *there,\
                                            const hpc_sla_matrix *P,                             \
                                            const hpc_sla_matrix *P_there, int64_t nodes,        \
                                            int64_t *near, work_space *w)                        \
    {                                                                                            \
        const int64_t size = high * wide;                                                        \
        if (w->slot[node] && w->head - w->slot[node] <= w->room)                                 \
            return w->slot[node] % w->room;                                                      \
        const int32_t count = ap_row_##OF_P##_##NAME(node, high, wide, A, there, P, P_there,     \
                                                     near, w);                                   \
        if (w->head > INT32_MAX) { /* slots have 32 bits: begin again */                         \
            for (int64_t i = 0; i < nodes; ++i)                                                  \
                w->slot[i] = 0;                                                                  \
            w->head = w->room;                                                                   \
        }                                                                                        \
        int64_t at = w->head % w->room;                                                          \
        if (at + 1 + count > w->room) {                                                          \
            w->head += w->room - at;                                                             \
            at = 0;                                                                              \
        }                                                                                        \
        w->slot[node] = (uint32_t)w->head;                                                       \
        w->head += 1 + count;                                                                    \
        w->ring_list[at] = count;                                                                \
        for (int32_t e = 0; e < count; ++e)                                                      \
            w->ring_list[at + 1 + e] = w->far_list[e];                                           \
        double *restrict to = w->ring_sum + (at + 1) * size;                                     \
        for (int64_t q = 0; q < count * size; ++q)                                               \
            to[q] = w->far_sum[q];                                                               \
        return at;                                                                               \
    }                                                                                            \
                                                                                                 \
    INLINE int64_t rows_##OF_P##_##NAME(                                                         \
        int64_t begin, int64_t end, int64_t capacity, int64_t owned, int64_t high, int64_t wide, \
        const hpc_sla_matrix *A, const hpc_sla_matrix *there, const hpc_sla_matrix *R,           \
        const hpc_sla_matrix *P, const hpc_sla_matrix *P_there, const hpc_sla_matrix *more,      \
        work_space *w, int32_t known, int32_t *o_indptr, int32_t *o_indices, T *o_values,        \
        int32_t *h_indptr, int32_t *h_indices, T *h_values)                                      \
    {                                                                                            \
        const int32_t *restrict r_indptr = R->parts[0], *restrict r_indices = R->parts[1];       \
        const S *restrict r_values = R->parts[2];                                                \
        const int64_t size = high * wide, square = wide * wide;                                  \
        int64_t near = 0, o_used = o_indptr[begin * wide], h_used = h_indptr[begin * wide];      \
        for (int64_t row = begin; row < end; ++row) {                                            \
            int32_t count = 0;                                                                   \
            for (int32_t e = r_indptr[row]; e < r_indptr[row + 1]; ++e) {                        \
                const S *restrict left = r_values + e * size;                                    \
                const int64_t at = ring_row_##OF_P##_##NAME(r_indices[e], high, wide, A, there, P, \
                                                            P_there, A->rows / high, &near, w);  \
                const int32_t tiles = w->ring_list[at];                                          \
                for (int32_t t = 0; t < tiles; ++t) {                                            \
                    const int32_t to = place_of(w->ring_list[at + 1 + t], w->place, w->list,     \
                                                w->sum, &count, square);                         \
                    const double *restrict right = w->ring_sum + (at + 1 + t) * size;            \
                    double *restrict sum = w->sum + to * square;                                 \
                    for (int64_t r = 0; r < high; ++r)                                           \
                        for (int64_t p = 0; p < wide; ++p)                                       \
                            for (int64_t q = 0; q < wide; ++q)                                   \
                                sum[p * wide + q] += left[r * wide + p] * right[r * wide + q];   \
                }                                                                                \
            }                                                                                    \
            if (more) {                                                                          \
                const int32_t *restrict m_indptr = more->parts[0], *restrict m_indices = more->parts[1]; \
                const double *restrict m_values = more->parts[2];                                \
                for (int64_t p = 0; p < wide; ++p)                                               \
                    for (int32_t e = m_indptr[row * wide + p]; e < m_indptr[row * wide + p + 1]; ++e) { \
                        const int32_t node = m_indices[e] / wide;                                \
                        const int32_t to = place_of(node, w->place, w->list, w->sum, &count, square); \
                        w->sum[to * square + p * wide + m_indices[e] - node * wide] += m_values[e]; \
                    }                                                                            \
            }                                                                                    \
            if (known) {                                                                         \
                /* The same for both parts: a column that has no sum is one that this time no    \
                 * rank had anything for. */                                                     \
                for (int64_t p = 0; p < wide; ++p) {                                             \
                    const int64_t i = row * wide + p;                                            \
                    for (int part = 0; part < 2; ++part) {                                       \
                        const int32_t *restrict indptr = part ? h_indptr : o_indptr;             \
                        const int32_t *restrict indices = part ? h_indices : o_indices;          \
                        T *restrict values = part ? h_values : o_values;                         \
                        for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e) {                    \
                            const int32_t node = indices[e] / wide, at = w->place[node];         \
                            const int there_is = at < count && w->list[at] == node;              \
                            const int64_t q = indices[e] - node * wide;                          \
                            values[e] = there_is ? (T)w->sum[at * square + p * wide + q] : 0;    \
                        }                                                                        \
                    }                                                                            \
                }                                                                                \
                continue;                                                                        \
            }                                                                                    \
            if (o_used + count * square > capacity || h_used + count * square > capacity)        \
                return row;                                                                      \
            for (int32_t e = 0; e < count; ++e)                                                  \
                w->order[e] = e;                                                                 \
            sort_order(count, w->list, w->order);                                                \
            for (int64_t p = 0; p < wide; ++p) {                                                 \
                for (int32_t e = 0; e < count; ++e) {                                            \
                    const int32_t at = w->order[e], node = w->list[at];                          \
                    const double *restrict from = w->sum + at * square + p * wide;               \
                    if (node < owned)                                                            \
                        for (int64_t q = 0; q < wide; ++q) {                                     \
                            o_indices[o_used] = (int32_t)(node * wide + q);                      \
                            o_values[o_used++] = (T)from[q];                                     \
                        }                                                                        \
                    else                                                                         \
                        for (int64_t q = 0; q < wide; ++q) {                                     \
                            h_indices[h_used] = (int32_t)(node * wide + q);                      \
                            h_values[h_used++] = (T)from[q];                                     \
                        }                                                                        \
                }                                                                                \
                o_indptr[row * wide + p + 1] = (int32_t)o_used;                                  \
                h_indptr[row * wide + p + 1] = (int32_t)h_used;                                  \
            }                                                                                    \
        }                                                                                        \
        return end;                                                                              \
    }                                                                                            \
                                                                                                 \
    /* Rows `begin` to `end` of nodes of P^T A P. A = [A | there] in owned and halo columns, the \
     * latter with all rows; P and P_there P's rows at these, P_there in tiles of one row; R is  \
     * P^T; `more` what is to be added, in single entries of float64. there, P_there and more may\
     * be NULL. Columns of nodes below `owned` go to the first output, others to the second, each\
     * with indptr of all rows; or with `known` values go to where the two say. Returns the first\
     * row for which `capacity` entries of either did not suffice. */                            \
    CLONED int64_t hpc_sla_triple_##OF_P##_##NAME(                                               \
        int64_t end, int64_t k, int64_t begin, int64_t capacity, int64_t owned, int64_t high,    \
        int64_t wide, int64_t known, int64_t room, const hpc_sla_matrix *A,                      \
        const hpc_sla_matrix *there, const hpc_sla_matrix *R, const hpc_sla_matrix *P,           \
        const hpc_sla_matrix *P_there, const hpc_sla_matrix *more, uint32_t *slot,               \
        int32_t *ring_list, double *ring_sum, int32_t *place, int32_t *list, int32_t *order,     \
        double *sum, int32_t *far_place, int32_t *far_list, double *far_sum, int32_t *index_room,\
        T *value_room, int32_t *o_indptr, int32_t *o_indices, T *o_values, int32_t *h_indptr,    \
        int32_t *h_indices, T *h_values)                                                         \
    {                                                                                            \
        work_space w = {room, room, slot,      ring_list, ring_sum, place,      list,            \
                        order, far_place, far_list, sum,  far_sum,  index_room, value_room};     \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < A->rows / high; ++i)                                             \
            slot[i] = 0;                                                                         \
        ROWS(OF_P, NAME, 1, 1)                                                                   \
        ROWS(OF_P, NAME, 3, 6)                                                                   \
        ROWS(OF_P, NAME, 6, 6)                                                                   \
        ROWS(OF_P, NAME, 2, 3)                                                                   \
        ROWS(OF_P, NAME, 3, 3)                                                                   \
        return rows_##OF_P##_##NAME(begin, end, capacity, owned, high, wide, A, there, R, P,     \
                                    P_there, more, &w, (int32_t)known, o_indptr, o_indices,      \
                                    o_values, h_indptr, h_indices, h_values);                    \
    }

DEFINE(double, float64, double, float64)
DEFINE(double, float64, float, float32)
DEFINE(float, float32, double, float64)
DEFINE(float, float32, float, float32)
