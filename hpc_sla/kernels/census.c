/* What there is to see of a matrix, entry by entry, on one thread. See census.py, which calls these
 * and holds the plain versions they are tested against. Sums are of doubles.
 */
#include <math.h>
#include <string.h>

#include "matrix.h"

typedef struct {
    double worst, worst_rest;
    int64_t unmatched;
} asymmetry;

/* a at (i, j) and b at (j, i). */
INLINE void compare(asymmetry *found, double a, double b, int64_t i, int64_t j,
                    const double *restrict scale, const uint8_t *restrict aside)
{
    if (a == b)
        return;
    const double sum = fabs(a) + fabs(b), usual = scale[i] * scale[j];
    const double share = fabs(a - b) / (sum > usual ? sum : usual);
    found->unmatched += (a == 0) != (b == 0);
    if (share > found->worst)
        found->worst = share;
    if (share > found->worst_rest && !aside[i] && !aside[j])
        found->worst_rest = share;
}

INLINE int64_t root_of(int64_t *restrict label, int64_t i)
{
    while (label[i] != i) {
        label[i] = label[label[i]];
        i = label[i];
    }
    return i;
}

#define DEFINE(T, NAME)                                                                          \
    /* Entries that are not on the diagonal, where there is one, added up by rows and columns.   \
     * Row i is rows[i] in the sums, where rows is given. The columns' may be NULL. The rooms    \
     * hold a row, where rows are not stored as such. */                                         \
    void hpc_sla_census_##NAME(int64_t diagonal, const hpc_sla_matrix *A, int32_t *index_room,   \
                               T *value_room, const int32_t *restrict rows,                      \
                               double *restrict largest, double *restrict positive,              \
                               double *restrict negative, double *restrict column_positive,      \
                               double *restrict column_negative, double *restrict smallest)      \
    {                                                                                            \
        double least = *smallest;                                                                \
        int64_t near = 0;                                                                        \
        const int32_t *indices;                                                                  \
        const T *values;                                                                         \
        for (int64_t i = 0; i < A->rows; ++i) {                                                  \
            const int64_t row = rows ? rows[i] : i;                                              \
            const int32_t length =                                                               \
                matrix_row_##NAME(A, i, &near, index_room, value_room, &indices, &values);       \
            double most = largest[row], up = 0, down = 0;                                        \
            for (int32_t e = 0; e < length; ++e) {                                               \
                const double value = values[e], size = fabs(value);                              \
                const double above = value > 0 ? value : 0, below = value > 0 ? 0 : size;        \
                const int32_t j = indices[e];                                                    \
                if (size > 0 && size < least)                                                    \
                    least = size;                                                                \
                if (diagonal && j == i)                                                          \
                    continue;                                                                    \
                if (size > most)                                                                 \
                    most = size;                                                                 \
                up += above;                                                                     \
                down += below;                                                                   \
                if (column_positive) {                                                           \
                    column_positive[j] += above;                                                 \
                    column_negative[j] += below;                                                 \
                }                                                                                \
            }                                                                                    \
            largest[row] = most;                                                                 \
            positive[row] += up;                                                                 \
            negative[row] += down;                                                               \
        }                                                                                        \
        *smallest = least;                                                                       \
    }                                                                                            \
                                                                                                 \
    /* Lines of the matrix (rows or columns) that are kept, by what is on the diagonal and the   \
     * sums beside it; see Tally. */                                                             \
    void hpc_sla_tally_##NAME(int64_t n, int64_t k, const uint8_t *restrict keep,                \
                              const double *restrict diagonal, const double *restrict positive,  \
                              const double *restrict negative, const double *restrict largest,   \
                              const double *restrict small, uint8_t *restrict null,              \
                              double *restrict out)                                              \
    {                                                                                            \
        (void)k;                                                                                 \
        double lines = 0, plus = 0, minus = 0, dominant = 0, nulls = 0, wrong = 0, all = 0;      \
        double high = 0, low = INFINITY, dominance = 0;                                          \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            null[i] = 0;                                                                         \
            if (!keep[i])                                                                        \
                continue;                                                                        \
            const double on = fabs(diagonal[i]), beside = positive[i] + negative[i];             \
            const double sum = diagonal[i] + positive[i] - negative[i];                          \
            const double ratio = on > 0 ? beside / on : INFINITY;                                \
            null[i] = fabs(sum) <= *small * (on + beside);                                       \
            lines += 1;                                                                          \
            nulls += null[i];                                                                    \
            plus += diagonal[i] > 0;                                                             \
            minus += diagonal[i] < 0;                                                            \
            dominant += ratio <= 1 + *small;                                                     \
            dominance = ratio > dominance ? ratio : dominance;                                   \
            if (on > 0) {                                                                        \
                high = on > high ? on : high;                                                    \
                low = on < low ? on : low;                                                       \
                wrong += (diagonal[i] > 0 ? positive[i] : negative[i]) / largest[i];             \
                all += beside / largest[i];                                                      \
            }                                                                                    \
        }                                                                                        \
        const double found[] = {lines, plus, minus, dominant, nulls,                             \
                                wrong, all,  high,  low,      dominance};                        \
        for (int j = 0; j < 10; ++j)                                                             \
            out[j] = found[j];                                                                   \
    }                                                                                            \
                                                                                                 \
    /* Compares each entry with its mirror image, in one walk over the rows. cursor [n] is where \
     * row j stands: the entries before it are in columns of rows that have been walked. Returns \
     * how many nonzeros have no mirror image, or -1 where columns do not ascend in a row. */    \
    int64_t hpc_sla_mirror_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,          \
                                  const int32_t *restrict indices, const T *restrict values,     \
                                  const double *restrict scale, const uint8_t *restrict aside,   \
                                  int32_t *restrict cursor, double *restrict worst)              \
    {                                                                                            \
        (void)k;                                                                                 \
        asymmetry found = {0, 0, 0};                                                             \
        for (int64_t i = 0; i < n; ++i)                                                          \
            cursor[i] = indptr[i];                                                               \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const int32_t end = indptr[i + 1];                                                   \
            for (int32_t e = indptr[i] + 1; e < end; ++e)                                        \
                if (indices[e] <= indices[e - 1])                                                \
                    return -1;                                                                   \
            int32_t e = cursor[i];                                                               \
            for (; e < end && indices[e] < i; ++e)                                               \
                compare(&found, values[e], 0, i, indices[e], scale, aside);                      \
            if (e < end && indices[e] == i)                                                      \
                ++e;                                                                             \
            for (; e < end; ++e) {                                                               \
                const int32_t j = indices[e], stop = indptr[j + 1];                              \
                int32_t c = cursor[j];                                                           \
                for (; c < stop && indices[c] < i; ++c)                                          \
                    compare(&found, values[c], 0, j, indices[c], scale, aside);                  \
                const T image = c < stop && indices[c] == i ? values[c++] : 0;                   \
                cursor[j] = c;                                                                   \
                compare(&found, values[e], image, i, j, scale, aside);                           \
            }                                                                                    \
        }                                                                                        \
        worst[0] = found.worst;                                                                  \
        worst[1] = found.worst_rest;                                                             \
        return found.unmatched;                                                                  \
    }                                                                                            \
                                                                                                 \
    /* The same of MATRIX_SLICED, whose cursors count from the first entry of a row. */          \
    int64_t hpc_sla_mirror_slices_##NAME(int64_t k, const hpc_sla_matrix *A,                     \
                                         const double *restrict scale,                           \
                                         const uint8_t *restrict aside,                          \
                                         int32_t *restrict cursor, double *restrict worst)       \
    {                                                                                            \
        asymmetry found = {0, 0, 0};                                                             \
        (void)k;                                                                                 \
        memset(cursor, 0, A->rows * sizeof(int32_t));                                            \
        for (int64_t i = 0; i < A->rows; ++i) {                                                  \
            hpc_sla_columns here, there;                                                         \
            int64_t at, other;                                                                   \
            const int32_t end = matrix_sliced(A, i, &at, &here);                                 \
            for (int32_t e = 1; e < end; ++e)                                                    \
                if (IN_SLICE(here, e) <= IN_SLICE(here, e - 1))                                  \
                    return -1;                                                                   \
            int32_t e = cursor[i];                                                               \
            for (; e < end && IN_SLICE(here, e) < i; ++e)                                        \
                compare(&found, sliced_##NAME(A, at, e), 0, i, IN_SLICE(here, e), scale, aside); \
            if (e < end && IN_SLICE(here, e) == i)                                               \
                ++e;                                                                             \
            for (; e < end; ++e) {                                                               \
                const int32_t j = IN_SLICE(here, e), stop = matrix_sliced(A, j, &other, &there); \
                int32_t c = cursor[j];                                                           \
                for (; c < stop && IN_SLICE(there, c) < i; ++c)                                  \
                    compare(&found, sliced_##NAME(A, other, c), 0, j, IN_SLICE(there, c), scale, \
                            aside);                                                              \
                const int meets = c < stop && IN_SLICE(there, c) == i;                           \
                const T image = meets ? sliced_##NAME(A, other, c) : 0;                          \
                cursor[j] = c + meets;                                                           \
                compare(&found, sliced_##NAME(A, at, e), image, i, j, scale, aside);             \
            }                                                                                    \
        }                                                                                        \
        worst[0] = found.worst;                                                                  \
        worst[1] = found.worst_rest;                                                             \
        return found.unmatched;                                                                  \
    }                                                                                            \
                                                                                                 \
    /* The same of a dictionary of rows, a run of rows of one kind at a time: entry (i, j) of    \
     * their kind has one value, and its mirror image one in each run that rows j are of. */     \
    int64_t hpc_sla_mirror_kinds_##NAME(int64_t k, const hpc_sla_matrix *A,                      \
                                        const double *restrict scale,                            \
                                        const uint8_t *restrict aside, double *restrict worst)   \
    {                                                                                            \
        const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];          \
        const int32_t *offsets = A->parts[3];                                                    \
        const T *kept = A->parts[4];                                                             \
        const int64_t b = A->block, lanes = matrix_lanes(b);                                     \
        asymmetry found = {0, 0, 0};                                                             \
        (void)k;                                                                                 \
        for (int64_t run = 0, first = 0; first < A->rows; first = starts[++run]) {               \
            const int32_t begin = ends[kinds[run]], end = ends[kinds[run] + 1];                  \
            int64_t other = run;                                                                 \
            for (int32_t e = begin; e < end; ++e) {                                              \
                if (e > begin && offsets[e] <= offsets[e - 1])                                   \
                    return -1;                                                                   \
                /* Column offsets[e] of a node is row `part` of the node `shift` rows on. */     \
                const int64_t part = ((offsets[e] % b) + b) % b, shift = offsets[e] - part;      \
                const int64_t last = starts[run + 1] + shift;                                    \
                int64_t from = first + shift;                                                    \
                other = matrix_run(starts, from, other);                                         \
                for (int64_t there = other; from < last; ++there) {                              \
                    const int64_t to = starts[there + 1] < last ? starts[there + 1] : last;      \
                    const int32_t stop = ends[kinds[there] + 1];                                 \
                    int32_t at = ends[kinds[there]];                                             \
                    for (int64_t r = 0; r < b; ++r) {                                            \
                        while (at < stop && offsets[at] < r - shift)                             \
                            ++at;                                                                \
                        const int known = at < stop && offsets[at] == r - shift;                 \
                        const T value = kept[e * lanes + r];                                     \
                        const T image = known ? kept[at * lanes + part] : 0;                     \
                        /* Both are stored: seen once, from above. */                            \
                        if (value == image || (known && offsets[e] < r))                         \
                            continue;                                                            \
                        for (int64_t node = from; node < to; node += b)                          \
                            compare(&found, value, image, node - shift + r, node + part, scale,  \
                                    aside);                                                      \
                    }                                                                            \
                    from = to;                                                                   \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
        worst[0] = found.worst;                                                                  \
        worst[1] = found.worst_rest;                                                             \
        return found.unmatched;                                                                  \
    }                                                                                            \
                                                                                                 \
    /* The least row of each row's connected part, by the nonzeros. */                           \
    void hpc_sla_connected_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,          \
                                  const int32_t *restrict indices, const T *restrict values,     \
                                  int64_t *restrict label)                                       \
    {                                                                                            \
        (void)k;                                                                                 \
        for (int64_t i = 0; i < n; ++i)                                                          \
            label[i] = i;                                                                        \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e) {                                \
                if (values[e] == 0 || label[i] == label[indices[e]])                             \
                    continue;                                                                    \
                const int64_t one = root_of(label, i), other = root_of(label, indices[e]);       \
                if (one < other)                                                                 \
                    label[other] = one;                                                          \
                else                                                                             \
                    label[one] = other;                                                          \
            }                                                                                    \
        for (int64_t i = 0; i < n; ++i)                                                          \
            label[i] = label[label[i]];                                                          \
    }

DEFINE(double, float64)
DEFINE(float, float32)
