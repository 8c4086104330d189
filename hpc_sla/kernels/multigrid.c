/* Rank-local loops of a multigrid set-up: a vector to start an estimate of eigenvalues from, nodes,
 * their aggregates, a smoothed prolongator.
 * Sequential by nature but for the first: they serve whatever the number of threads. */
#include <math.h>

#include "sparse_rows.h"
#include "threads.h"

/* A number in [-1, 1) that is a function of `index` alone: hashing.noise with seed 0. */
INLINE double noise(uint64_t index)
{
    uint64_t z = index * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-52 - 1;
}

/* What a node may be while aggregates are made. */
enum { ALONE = -1, OPEN = -2, ONCE = -3, TWICE = -4 };
/* Neighbours of a node on the face of a grid in space, and of one inside a grid of four dimensions:
 * in a plane there are fewer. */
#define FEWEST_RING 5
#define MOST_RING 8

#define DEFINE(T, NAME)                                                                          \
    static CLONED void lanczos_start_##NAME(int64_t n, int64_t first, const int64_t *numbers,    \
                                            const T *restrict inverse, T *restrict u,            \
                                            T *restrict z, double *restrict sum)                 \
    {                                                                                            \
        double total = 0;                                                                        \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const T size = inverse[i] < 0 ? -inverse[i] : inverse[i];                            \
            const T one = (T)noise((uint64_t)(numbers ? numbers[i] : first + i) + 1);            \
            u[i] = size > 0 ? one * (1 / (T)sqrt(size)) : 0;                                     \
            z[i] = u[i] * inverse[i];                                                            \
            total += (double)u[i] * z[i];                                                        \
        }                                                                                        \
        *sum += total;                                                                           \
    }                                                                                            \
                                                                                                 \
    static void lanczos_start_part_##NAME(const void *const *a, int64_t first, int64_t last,     \
                                          void *sums)                                            \
    {                                                                                            \
        lanczos_start_##NAME(last - first, *(const int64_t *)a[0] + first,                       \
                             SHIFT(const int64_t, 1, first), SHIFT(const T, 2, first),           \
                             SHIFT(T, 3, first), SHIFT(T, 4, first), sums);                      \
    }                                                                                            \
                                                                                                 \
    /* u = noise / sqrt |inverse|, 0 where inverse is;  z = inverse u;  sum = u . z. Row i is    \
     * numbers[i] of the user's, or first + i. */                                                \
    void hpc_sla_lanczos_start_##NAME(int64_t n, int64_t k, int64_t first,                       \
                                      const int64_t *numbers, const T *inverse, T *u, T *z,      \
                                      double *sum)                                               \
    {                                                                                            \
        const void *a[] = {&first, numbers, inverse, u, z};                                      \
        *sum = 0;                                                                                \
        hpc_sla_run(n, k, NULL, lanczos_start_part_##NAME, a, 1, sizeof(double), sum);           \
    }                                                                                            \
                                                                                                 \
    /* Whether entry k of row i is a strong connection to another node. d is sqrt |a_ii|. */     \
    INLINE int strong_##NAME(int64_t i, int32_t j, T value, const T *restrict d, T threshold)    \
    {                                                                                            \
        return j != i && value != 0 && (value < 0 ? -value : value) > threshold * d[i] * d[j];   \
    }                                                                                            \
                                                                                                 \
    /* Adds to aggregate `one`, a root and its ring of `size` neighbours, the open nodes with two\
     * strong connections to these: the edges of a cube of which the ring is the faces. But not  \
     * where some of the ring are connected: then there are no holes in it. */                   \
    INLINE void widen_##NAME(int32_t one, int64_t root, int32_t size, const int32_t *ring,       \
                             const hpc_sla_matrix *A, const T *restrict d, T theta,              \
                             int64_t *near, int32_t *index_room, T *value_room,                  \
                             int32_t *restrict group)                                            \
    {                                                                                            \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        int connected = 0;                                                                       \
        for (int again = 0; again < 2; ++again)                                                  \
            for (int32_t r = 0; r < size; ++r) {                                                 \
                const int32_t length = matrix_row_##NAME(A, ring[r], near, index_room,           \
                                                         value_room, &indices, &values);         \
                for (int32_t e = 0; e < length; ++e) {                                           \
                    const int32_t j = indices[e];                                                \
                    if (j == root || !strong_##NAME(ring[r], j, values[e], d, theta))            \
                        continue;                                                                \
                    if (again && group[j] <= ONCE)                                               \
                        group[j] = group[j] == TWICE && !connected ? one : OPEN;                 \
                    else if (!again && (group[j] == OPEN || group[j] == ONCE))                   \
                        group[j] = group[j] == OPEN ? ONCE : TWICE;                              \
                    else if (!again)                                                             \
                        connected |= group[j] == one;                                            \
                }                                                                                \
            }                                                                                    \
    }                                                                                            \
                                                                                                 \
    /* Aggregates of n nodes: group [n] is filled with their numbers, -1 for a node without a    \
     * strong neighbour. Returns how many. Vanek, Mandel and Brezina, Computing 56 (1996),       \
     * algorithm 5.1; in its second step a node goes to its strongest neighbour's aggregate. On a\
     * grid in space, a node and its six neighbours are too few: the next level's rows have four \
     * times as many entries, which most of the time would go to. */                             \
    int64_t hpc_sla_aggregate_##NAME(int64_t n, int64_t k, const hpc_sla_matrix *A,              \
                                     const T *restrict d, const T *restrict threshold,           \
                                     int32_t *index_room, T *value_room,                         \
                                     int32_t *restrict group)                                    \
    {                                                                                            \
        const T theta = threshold[0];                                                            \
        int64_t count = 0, near = 0;                                                             \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < n; ++i)                                                          \
            group[i] = OPEN;                                                                     \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            const int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room,        \
                                                     &indices, &values);                         \
            int32_t ring[MOST_RING], size = 0;                                                   \
            int alone = 1, free_around = 1;                                                      \
            for (int32_t e = 0; e < length && free_around; ++e)                                  \
                if (strong_##NAME(i, indices[e], values[e], d, theta)) {                         \
                    alone = 0;                                                                   \
                    free_around = group[indices[e]] == OPEN;                                     \
                    if (size++ < MOST_RING)                                                      \
                        ring[size - 1] = indices[e];                                             \
                }                                                                                \
            if (alone)                                                                           \
                group[i] = ALONE;                                                                \
            else if (free_around) {                                                              \
                group[i] = (int32_t)count;                                                       \
                for (int32_t e = 0; e < length; ++e)                                             \
                    if (strong_##NAME(i, indices[e], values[e], d, theta))                       \
                        group[indices[e]] = (int32_t)count;                                      \
                if (size >= FEWEST_RING && size <= MOST_RING)                                    \
                    widen_##NAME((int32_t)count, i, size, ring, A, d, theta, &near, index_room,  \
                                 value_room, group);                                             \
                ++count;                                                                         \
            }                                                                                    \
        }                                                                                        \
        near = 0;                                                                                \
        /* Guests are written as -3 - group: they are no hosts. */                               \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            const int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room,        \
                                                     &indices, &values);                         \
            T best = 0;                                                                          \
            for (int32_t e = 0; e < length; ++e) {                                               \
                const int32_t j = indices[e];                                                    \
                const T size = values[e] < 0 ? -values[e] : values[e];                           \
                if (group[j] >= 0 && size > best && strong_##NAME(i, j, values[e], d, theta)) {  \
                    best = size;                                                                 \
                    group[i] = -3 - group[j];                                                    \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
        near = 0;                                                                                \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (group[i] <= -3)                                                                  \
                group[i] = -3 - group[i];                                                        \
            if (group[i] != OPEN)                                                                \
                continue;                                                                        \
            const int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room,        \
                                                     &indices, &values);                         \
            group[i] = (int32_t)count;                                                           \
            for (int32_t e = 0; e < length; ++e)                                                 \
                if (group[indices[e]] == OPEN &&                                                 \
                    strong_##NAME(i, indices[e], values[e], d, theta))                           \
                    group[indices[e]] = (int32_t)count;                                          \
            ++count;                                                                             \
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* The connections between nodes of `high` rows: the Frobenius norms of their blocks. place  \
     * [nodes] has any numbers from 0 up. Returns the first node for which `capacity` entries did\
     * not suffice. */                                                                           \
    int64_t hpc_sla_condense_##NAME(int64_t end, int64_t k, int64_t begin, int64_t capacity,     \
                                    int64_t high, const hpc_sla_matrix *A,                       \
                                    int32_t *restrict place, int32_t *restrict list,             \
                                    int32_t *restrict order, double *restrict sum,               \
                                    int32_t *index_room, T *value_room,                          \
                                    int32_t *restrict out_indptr, int32_t *restrict out_indices, \
                                    T *restrict out_values)                                      \
    {                                                                                            \
        int64_t near = 0, used = out_indptr[begin];                                              \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        (void)k;                                                                                 \
        for (int64_t node = begin; node < end; ++node) {                                         \
            int32_t count = 0;                                                                   \
            for (int64_t i = node * high; i < (node + 1) * high; ++i) {                          \
                const int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room,    \
                                                         &indices, &values);                     \
                for (int32_t e = 0; e < length; ++e) {                                           \
                    const int32_t column = (int32_t)(indices[e] / high);                         \
                    const int32_t at = place_of(column, place, list, sum, &count, 1);            \
                    sum[at] += (double)values[e] * values[e];                                    \
                }                                                                                \
            }                                                                                    \
            if (used + count > capacity)                                                         \
                return node;                                                                     \
            for (int32_t e = 0; e < count; ++e)                                                  \
                order[e] = e;                                                                    \
            sort_order(count, list, order);                                                      \
            for (int32_t e = 0; e < count; ++e) {                                                \
                out_indices[used] = list[order[e]];                                              \
                out_values[used++] = (T)sqrt(sum[order[e]]);                                     \
            }                                                                                    \
            out_indptr[node + 1] = (int32_t)used;                                                \
        }                                                                                        \
        return end;                                                                              \
    }                                                                                            \
                                                                                                 \
    /* Sums over the entries of rows first to first + n, by component c = column % high, of a_ij \
     * and of a_ij (x_j - x_i), and of the sizes of these: sums and sizes are [n, high, 1 + d].  \
     * Of A = [A | there] with points [., d]; component is that of each column of `there`, which \
     * has all rows, or is NULL. */                                                              \
    void hpc_sla_moments_##NAME(int64_t n, int64_t k, int64_t first, int64_t high, int64_t d,    \
                                const hpc_sla_matrix *A, const hpc_sla_matrix *there,            \
                                const double *restrict points, const double *restrict far_points,\
                                const int32_t *restrict component, int32_t *index_room,          \
                                T *value_room, double *restrict sums, double *restrict sizes)    \
    {                                                                                            \
        int64_t near = 0;                                                                        \
        (void)k;                                                                                 \
        for (int64_t e = 0; e < n * high * (1 + d); ++e)                                         \
            sums[e] = sizes[e] = 0;                                                              \
        for (int64_t row = 0; row < n; ++row) {                                                  \
            const int64_t i = first + row;                                                       \
            const int32_t *indices;                                                              \
            const T *values;                                                                     \
            int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room, &indices,    \
                                               &values);                                         \
            const double *restrict x = points;                                                   \
            for (int part = 0; part < 2; ++part) {                                               \
                for (int32_t e = 0; e < length; ++e) {                                           \
                    const int64_t j = indices[e], c = part ? component[j] : j % high;            \
                    double *restrict sum = sums + (row * high + c) * (1 + d);                    \
                    double *restrict size = sizes + (row * high + c) * (1 + d);                  \
                    sum[0] += values[e];                                                         \
                    size[0] += fabs((double)values[e]);                                          \
                    for (int64_t p = 0; p < d; ++p) {                                            \
                        const double term = values[e] * (x[j * d + p] - points[i * d + p]);      \
                        sum[1 + p] += term;                                                      \
                        size[1 + p] += fabs(term);                                               \
                    }                                                                            \
                }                                                                                \
                if (!there)                                                                      \
                    break;                                                                       \
                const int32_t *t_indptr = there->parts[0];                                       \
                indices = (const int32_t *)there->parts[1] + t_indptr[i];                        \
                values = (const T *)there->parts[2] + t_indptr[i];                               \
                length = t_indptr[i + 1] - t_indptr[i];                                          \
                x = far_points;                                                                  \
            }                                                                                    \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)

#define SMOOTHED(P_NAME, A_NAME, HIGH, WIDE)                                                     \
    if (high == HIGH && wide == WIDE)                                                            \
        return smoothed_##P_NAME##_##A_NAME(begin, end, capacity, HIGH, WIDE, A, there, inverse, \
                                            numbers, c, q, there_c, there_q, place, list, order, \
                                            sum, index_room, value_room, out_indptr,             \
                                            out_indices, out_values);

#define DEFINE_PROLONGATOR(T, NAME, S, OF_P)                                                     \
    /* Drops what is below `small` times the largest of a row, and scales the rest to the row's  \
     * old sum. Returns how many stay. */                                                        \
    INLINE int32_t truncated_##OF_P##_##NAME(double small, int32_t count, int32_t *restrict list,\
                                             double *restrict sum)                               \
    {                                                                                            \
        double largest = 0, all = 0, kept = 0;                                                   \
        for (int32_t e = 0; e < count; ++e) {                                                    \
            const double size = sum[e] < 0 ? -sum[e] : sum[e];                                   \
            largest = size > largest ? size : largest;                                           \
            all += sum[e];                                                                       \
        }                                                                                        \
        int32_t end = 0;                                                                         \
        for (int32_t e = 0; e < count; ++e) {                                                    \
            if ((sum[e] < 0 ? -sum[e] : sum[e]) < small * largest)                               \
                continue;                                                                        \
            kept += sum[e];                                                                      \
            list[end] = list[e];                                                                 \
            sum[end++] = sum[e];                                                                 \
        }                                                                                        \
        if (end < count && kept != 0)                                                            \
            for (int32_t e = 0; e < end; ++e)                                                    \
                sum[e] *= all / kept;                                                            \
        return end;                                                                              \
    }                                                                                            \
                                                                                                 \
    INLINE int64_t smoothed_##OF_P##_##NAME(                                                     \
        int64_t begin, int64_t end, int64_t capacity, int64_t high, int64_t wide,                \
        const hpc_sla_matrix *A, const hpc_sla_matrix *there, const T *restrict inverse,         \
        const double *restrict numbers, const int32_t *restrict c, const double *restrict q,     \
        const int32_t *restrict there_c, const double *restrict there_q, int32_t *place,         \
        int32_t *list, int32_t *order, double *sum, int32_t *index_room, T *value_room,          \
        int32_t *restrict out_indptr, int32_t *restrict out_indices, S *restrict out_values)     \
    {                                                                                            \
        const int64_t size = high * wide;                                                        \
        int64_t near = 0, used = out_indptr[begin];                                              \
        for (int64_t node = begin; node < end; ++node) {                                         \
            int32_t count = 0;                                                                   \
            for (int64_t r = 0; r < high; ++r) {                                                 \
                const int64_t i = node * high + r;                                               \
                const double damped = -numbers[0] * inverse[i];                                  \
                if (c[i] >= 0) {                                                                 \
                    double *to = sum + r * wide +                                                \
                                 place_of(c[i], place, list, sum, &count, size) * size;          \
                    for (int64_t p = 0; p < wide; ++p)                                           \
                        to[p] += q ? q[i * wide + p] : 1;                                        \
                }                                                                                \
                const int32_t *indices;                                                          \
                const T *values;                                                                 \
                int32_t length = matrix_row_##NAME(A, i, &near, index_room, value_room, &indices,\
                                                   &values);                                     \
                const int32_t *restrict columns = c;                                             \
                const double *restrict entries = q;                                              \
                for (int part = 0; part < 2; ++part) {                                           \
                    for (int32_t e = 0; e < length; ++e) {                                       \
                        const int32_t j = indices[e];                                            \
                        if (columns[j] < 0)                                                      \
                            continue;                                                            \
                        const double weight = damped * values[e];                                \
                        double *to = sum + r * wide +                                            \
                                     place_of(columns[j], place, list, sum, &count, size) * size;\
                        for (int64_t p = 0; p < wide; ++p)                                       \
                            to[p] += entries ? weight * entries[j * wide + p] : weight;          \
                    }                                                                            \
                    if (!there)                                                                  \
                        break;                                                                   \
                    const int32_t *t_indptr = there->parts[0];                                   \
                    indices = (const int32_t *)there->parts[1] + t_indptr[i];                    \
                    values = (const T *)there->parts[2] + t_indptr[i];                           \
                    length = t_indptr[i + 1] - t_indptr[i];                                      \
                    columns = there_c;                                                           \
                    entries = there_q;                                                           \
                }                                                                                \
            }                                                                                    \
            if (used + count > capacity)                                                         \
                return node;                                                                     \
            if (wide == 1)                                                                       \
                count = truncated_##OF_P##_##NAME(numbers[1], count, list, sum);                 \
            for (int32_t e = 0; e < count; ++e)                                                  \
                order[e] = e;                                                                    \
            sort_order(count, list, order);                                                      \
            for (int32_t e = 0; e < count; ++e) {                                                \
                out_indices[used] = list[order[e]];                                              \
                for (int64_t p = 0; p < size; ++p)                                               \
                    out_values[used * size + p] = (S)sum[order[e] * size + p];                   \
                ++used;                                                                          \
            }                                                                                    \
            out_indptr[node + 1] = (int32_t)used;                                                \
        }                                                                                        \
        return end;                                                                              \
    }                                                                                            \
                                                                                                 \
    /* P = (I - damping D^-1 A) T, in tiles of `high` rows by `wide` columns, for a T of `wide`  \
     * entries q a row, ones where q is NULL, in column c of tiles (-1: none). A = [A | there] in\
     * owned and halo columns, the latter with all rows, or NULL. numbers: damping, and what part\
     * of a row's largest entry is too small to keep, where tiles have one column (and one row). \
     * place [columns] has any numbers from 0 up. Returns the first row of tiles for which       \
     * `capacity` tiles did not suffice. */                                                      \
    CLONED int64_t hpc_sla_prolongator_##OF_P##_##NAME(                                          \
        int64_t end, int64_t k, int64_t begin, int64_t capacity, int64_t high, int64_t wide,     \
        const hpc_sla_matrix *A, const hpc_sla_matrix *there, const T *inverse,                  \
        const double *numbers, const int32_t *c, const double *q, const int32_t *there_c,        \
        const double *there_q, int32_t *place, int32_t *list, int32_t *order, double *sum,       \
        int32_t *index_room, T *value_room, int32_t *out_indptr, int32_t *out_indices,           \
        S *out_values)                                                                           \
    {                                                                                            \
        (void)k;                                                                                 \
        SMOOTHED(OF_P, NAME, 1, 1)                                                               \
        SMOOTHED(OF_P, NAME, 3, 6)                                                               \
        SMOOTHED(OF_P, NAME, 6, 6)                                                               \
        return smoothed_##OF_P##_##NAME(begin, end, capacity, high, wide, A, there, inverse,     \
                                        numbers, c, q, there_c, there_q, place, list, order, sum,\
                                        index_room, value_room, out_indptr, out_indices,         \
                                        out_values);                                             \
    }

DEFINE_PROLONGATOR(double, float64, double, float64)
DEFINE_PROLONGATOR(double, float64, float, float32)
DEFINE_PROLONGATOR(float, float32, double, float64)
DEFINE_PROLONGATOR(float, float32, float, float32)
