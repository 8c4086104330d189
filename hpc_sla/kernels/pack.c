/* Set-up of the compressed forms of matrix.h: which rows are of one kind. */
#include <string.h>

#include "matrix.h"

INLINE uint64_t mix(uint64_t hash, uint64_t more)
{
    hash = (hash ^ more) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

#define DEFINE(T, NAME)                                                                          \
    INLINE uint64_t bits_##NAME(const T *value)                                                  \
    {                                                                                            \
        uint64_t bits = 0;                                                                       \
        memcpy(&bits, value, sizeof(T));                                                         \
        return bits;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* Whether the b rows from `at` on are those of the kind whose entries begin at `begin`. */  \
    INLINE int same_##NAME(int64_t b, int64_t lanes, int64_t first, const int32_t *at,           \
                           const int32_t *indices, const T *values, int32_t length,              \
                           const int32_t *offsets, const T *kept)                                \
    {                                                                                            \
        for (int64_t e = 0; e < length; ++e)                                                     \
            if (indices[at[0] + e] - first != offsets[e])                                        \
                return 0;                                                                        \
        for (int64_t r = 0; values && r < b; ++r)                                                \
            for (int64_t e = 0; e < length; ++e)                                                 \
                if (bits_##NAME(values + at[r] + e) != bits_##NAME(kept + e * lanes + r))        \
                    return 0;                                                                    \
        return 1;                                                                                \
    }                                                                                            \
                                                                                                 \
    /* Sort n rows, the first of them row `first` of the matrix, into runs of one kind: kinds    \
     * are of b rows with the same columns each, and of values too unless they are NULL.         \
     *                                                                                           \
     * counts: runs, kinds and entries of kinds, raised; limits: as many as there is room for.   \
     * table: [size], a power of two, of kinds by their hash, -1 where free. ends [kinds + 1]    \
     * begins with 0. Returns the rows that were sorted: fewer than n where there is no room,    \
     * where runs are shorter than 4 nodes on average, or where rows of a node differ. */        \
    int64_t hpc_sla_pack_##NAME(int64_t n, int64_t first, int64_t b, int64_t size,               \
                                const int32_t *indptr, const int32_t *indices, const T *values,  \
                                int64_t *counts, const int64_t *limits, int32_t *starts,         \
                                int32_t *kinds, int32_t *ends, int32_t *offsets, T *kept,        \
                                int32_t *table)                                                  \
    {                                                                                            \
        const int64_t lanes = matrix_lanes(b);                                                   \
        for (int64_t i = 0; i < n; i += b) {                                                     \
            const int64_t row = first + i;                                                       \
            const int32_t *at = indptr + i, length = at[1] - at[0];                              \
            for (int64_t r = 1; r < b; ++r)                                                      \
                if (i + r >= n || at[r + 1] - at[r] != length ||                                 \
                    memcmp(indices + at[0], indices + at[r], length * sizeof(int32_t)))          \
                    return i;                                                                    \
            if (counts[0]) {                                                                     \
                const int32_t kind = kinds[counts[0] - 1];                                       \
                if (ends[kind + 1] - ends[kind] == length &&                                     \
                    same_##NAME(b, lanes, row, at, indices, values, length,                      \
                                offsets + ends[kind], kept + ends[kind] * lanes))                \
                    continue;                                                                    \
            }                                                                                    \
            uint64_t hash = mix(0, length);                                                      \
            for (int32_t e = 0; e < length; ++e)                                                 \
                hash = mix(hash, (uint64_t)(indices[at[0] + e] - row));                          \
            for (int32_t e = at[0]; values && e < at[b]; ++e)                                    \
                hash = mix(hash, bits_##NAME(values + e));                                       \
            int64_t slot = hash & (size - 1);                                                    \
            for (;; slot = (slot + 1) & (size - 1)) {                                            \
                const int32_t kind = table[slot];                                                \
                if (kind < 0 ||                                                                  \
                    (ends[kind + 1] - ends[kind] == length &&                                    \
                     same_##NAME(b, lanes, row, at, indices, values, length,                     \
                                 offsets + ends[kind], kept + ends[kind] * lanes)))              \
                    break;                                                                       \
            }                                                                                    \
            if (counts[0] >= limits[0] || counts[0] * 4 * b > row + 1024 * b)                    \
                return i;                                                                        \
            if (table[slot] < 0) {                                                               \
                if (counts[1] >= limits[1] || counts[2] + length > limits[2])                    \
                    return i;                                                                    \
                for (int64_t e = 0; e < length; ++e)                                             \
                    offsets[counts[2] + e] = (int32_t)(indices[at[0] + e] - row);                \
                for (int64_t e = 0; values && e < length; ++e)                                   \
                    for (int64_t r = 0; r < lanes; ++r)                                          \
                        kept[(counts[2] + e) * lanes + r] = r < b ? values[at[r] + e] : 0;       \
                counts[2] += length;                                                             \
                table[slot] = (int32_t)counts[1]++;                                              \
                ends[counts[1]] = (int32_t)counts[2];                                            \
            }                                                                                    \
            starts[counts[0]] = (int32_t)row;                                                    \
            kinds[counts[0]++] = table[slot];                                                    \
        }                                                                                        \
        return n;                                                                                \
    }                                                                                            \
                                                                                                 \
    /* Values as places in `kept`, which takes at most `limit`: 0 where there are more. `codes` is  \
     * uint8 where `wide` is 0, else uint16; table as of pack. */                                \
    int64_t hpc_sla_pack_codes_##NAME(int64_t n, int64_t limit, int64_t size, int64_t wide,      \
                                      const T *values, void *codes, T *kept, int32_t *table)     \
    {                                                                                            \
        int64_t count = 0;                                                                       \
        for (int64_t e = 0; e < n; ++e) {                                                        \
            const uint64_t bits = bits_##NAME(values + e);                                       \
            int64_t slot = mix(0, bits) & (size - 1);                                            \
            while (table[slot] >= 0 && bits_##NAME(kept + table[slot]) != bits)                  \
                slot = (slot + 1) & (size - 1);                                                  \
            if (table[slot] < 0) {                                                               \
                if (count == limit)                                                              \
                    return 0;                                                                    \
                kept[count] = values[e];                                                         \
                table[slot] = (int32_t)count++;                                                  \
            }                                                                                    \
            if (wide)                                                                            \
                ((uint16_t *)codes)[e] = (uint16_t)table[slot];                                  \
            else                                                                                 \
                ((uint8_t *)codes)[e] = (uint8_t)table[slot];                                    \
        }                                                                                        \
        return count;                                                                            \
    }                                                                                            \
                                                                                                 \
    /* Whether the values, in the order of rows, are to the bit those of a MATRIX_ROWS. */       \
    int64_t hpc_sla_pack_same_##NAME(const hpc_sla_matrix *A, const T *values)                   \
    {                                                                                            \
        const int32_t *starts = A->parts[0], *kinds = A->parts[1], *ends = A->parts[2];          \
        const int64_t b = A->block, lanes = matrix_lanes(b);                                     \
        for (int64_t run = 0; starts[run] < A->rows; ++run) {                                    \
            const int32_t begin = ends[kinds[run]], length = ends[kinds[run] + 1] - begin;       \
            const T *kept = (const T *)A->parts[4] + begin * lanes;                              \
            uint64_t other = 0;                                                                  \
            for (int64_t i = starts[run]; i < starts[run + 1]; ++i, values += length) {          \
                const T *row = kept + i % b;                                                     \
                if (b == 1)                                                                      \
                    for (int32_t e = 0; e < length; ++e)                                         \
                        other |= bits_##NAME(values + e) ^ bits_##NAME(kept + e);                \
                else                                                                             \
                    for (int32_t e = 0; e < length; ++e)                                         \
                        other |= bits_##NAME(values + e) ^ bits_##NAME(row + e * lanes);         \
            }                                                                                    \
            if (other)                                                                           \
                return 0;                                                                        \
        }                                                                                        \
        return 1;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)

/* The parts of MATRIX_SHORT from the third on: bases and places by blocks of rows, near and far
 * columns. counts: how many of either. */
void hpc_sla_pack_short(int64_t n, const int32_t *indptr, const int32_t *indices, int32_t *bases,
                        int32_t *places, uint16_t *near, int32_t *far, int64_t *counts)
{
    for (int64_t first = 0, block = 0; first < n; first += SHORT_ROWS, ++block) {
        const int64_t last = first + SHORT_ROWS < n ? first + SHORT_ROWS : n;
        int32_t lowest = INT32_MAX, highest = 0;
        for (int32_t e = indptr[first]; e < indptr[last]; ++e) {
            lowest = indices[e] < lowest ? indices[e] : lowest;
            highest = indices[e] > highest ? indices[e] : highest;
        }
        bases[block] = lowest < highest ? lowest : highest;
        const int fits = highest - bases[block] <= UINT16_MAX;
        places[block] = (int32_t)(fits ? counts[0] : ~counts[1]);
        for (int32_t e = indptr[first]; e < indptr[last]; ++e)
            if (fits)
                near[counts[0]++] = (uint16_t)(indices[e] - bases[block]);
            else
                far[counts[1]++] = indices[e];
    }
}

/* Places, lengths and starts of MATRIX_SLICED, windows of rows one after another. Returns how many
 * entries there will be, or -1 where a row has more than a byte can say. */
int64_t hpc_sla_slice_rows(int64_t n, const int32_t *indptr, uint8_t *places, uint8_t *lengths,
                           int32_t *starts)
{
    int64_t entries = 0, slice = 0;
    for (int64_t first = 0; first < n; first += SHORT_ROWS) {
        const int64_t rows = n - first < SHORT_ROWS ? n - first : SHORT_ROWS;
        int32_t next[UINT8_MAX + 1] = {0};
        for (int64_t i = first; i < first + rows; ++i) {
            const int32_t length = indptr[i + 1] - indptr[i];
            if (length > UINT8_MAX)
                return -1;
            ++next[length];
        }
        for (int32_t length = UINT8_MAX, before = 0; length >= 0; --length) {
            const int32_t here = next[length];
            next[length] = before;
            before += here;
        }
        for (int64_t i = first; i < first + rows; ++i) {
            const int32_t length = indptr[i + 1] - indptr[i];
            places[i] = (uint8_t)next[length];
            lengths[first + next[length]++] = (uint8_t)length;
        }
        for (int64_t p = 0; p < rows; p += SLICE) {
            if (entries > INT32_MAX - SLICE * UINT8_MAX)
                return -1;
            starts[slice++] = (int32_t)entries;
            entries += SLICE * (int64_t)lengths[first + p];
        }
    }
    starts[slice] = (int32_t)entries;
    return entries;
}

/* Entry e of row i of MATRIX_SLICED is at slice_row(...) + e SLICE. */
INLINE int64_t slice_row(int64_t i, const uint8_t *places, const int32_t *starts)
{
    return starts[i / SHORT_ROWS * SLICES + places[i] / SLICE] + places[i] % SLICE;
}

/* The parts of MATRIX_SLICED from the third to the sixth; as hpc_sla_pack_short. */
void hpc_sla_slice_columns(int64_t n, const int32_t *indptr, const int32_t *indices,
                           const uint8_t *places, const int32_t *starts, int32_t *bases,
                           int32_t *windows, uint16_t *near, int32_t *far, int64_t *counts)
{
    for (int64_t first = 0, window = 0; first < n; first += SHORT_ROWS, ++window) {
        const int64_t last = first + SHORT_ROWS < n ? first + SHORT_ROWS : n;
        const int32_t *slices = starts + window * SLICES;
        const int32_t begin = slices[0], end = slices[(last - first + SLICE - 1) / SLICE];
        int32_t lowest = INT32_MAX, highest = 0;
        for (int32_t e = indptr[first]; e < indptr[last]; ++e) {
            lowest = indices[e] < lowest ? indices[e] : lowest;
            highest = indices[e] > highest ? indices[e] : highest;
        }
        const int32_t base = bases[window] = lowest < highest ? lowest : highest;
        const int fits = highest - base <= UINT16_MAX;
        windows[window] = (int32_t)(fits ? counts[0] : ~counts[1]);
        for (int32_t e = begin; e < end; ++e)
            if (fits)
                near[counts[0] + e - begin] = 0;
            else
                far[counts[1] + e - begin] = base;
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = slice_row(i, places, starts) - begin;
            const int32_t longest = slices[places[i] / SLICE + 1] - slices[places[i] / SLICE];
            const int32_t length = indptr[i + 1] - indptr[i];
            for (int32_t e = 0; length && e < longest / SLICE; ++e) {
                const int32_t column = indices[indptr[i] + (e < length ? e : length - 1)];
                if (fits)
                    near[counts[0] + at + e * SLICE] = (uint16_t)(column - base);
                else
                    far[counts[1] + at + e * SLICE] = column;
            }
        }
        counts[!fits] += end - begin;
    }
}

/* Entries of the rows, one after another, of 4 or 8 bytes each, to their places in slices, which
 * hold zeros; or whether they are what is there: 0 if not. */
int64_t hpc_sla_slice_entries(int64_t n, int64_t size, int64_t compare, const uint8_t *places,
                              const uint8_t *lengths, const int32_t *starts, const char *entries,
                              char *slices)
{
    for (int64_t i = 0; i < n; ++i) {
        char *to = slices + slice_row(i, places, starts) * size;
        const int32_t length = lengths[i - i % SHORT_ROWS + places[i]];
        for (int32_t e = 0; e < length; ++e, entries += size, to += SLICE * size)
            if (!compare && size == 8)
                memcpy(to, entries, 8);
            else if (!compare)
                memcpy(to, entries, 4);
            else if (memcmp(to, entries, size))
                return 0;
    }
    return 1;
}

/* Of nodes of b rows each with the same columns, full blocks of b x b: where each node begins among
 * the columns' nodes, and these. Returns 0 where the matrix is not like that. */
int64_t hpc_sla_pack_nodes(int64_t n, int64_t b, const int32_t *indptr, const int32_t *indices,
                           int32_t *starts, int32_t *nodes)
{
    int32_t count = starts[0] = 0;
    for (int64_t i = 0; i < n; i += b) {
        const int32_t length = indptr[i + 1] - indptr[i];
        const int32_t *columns = indices + indptr[i];
        if (length % b)
            return 0;
        for (int64_t r = 1; r < b; ++r)
            if (indptr[i + r + 1] - indptr[i + r] != length ||
                memcmp(columns, indices + indptr[i + r], length * sizeof(int32_t)))
                return 0;
        for (int32_t e = 0; e < length; e += (int32_t)b) {
            for (int64_t c = 0; c < b; ++c)
                if (columns[e] % b || columns[e + c] != columns[e] + c)
                    return 0;
            nodes[count++] = columns[e] / (int32_t)b;
        }
        starts[i / b + 1] = count;
    }
    return 1;
}
