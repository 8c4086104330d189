/* What the C sources share. */
#ifndef HPC_SLA_NATIVE_H
#define HPC_SLA_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* A second copy of a function for processors with AVX2 and FMA, chosen when the library is loaded:
 * it is compiled where the package is installed, which need not be the oldest machine it runs on. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define CLONED __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONED
#endif

#define INLINE static inline __attribute__((always_inline))

/* Entries ahead of the one in use to fetch. The processor's own prefetcher does not see far enough
 * in a loop that waits on x. Matrix entries are used once a product, so they should not push the
 * vectors out of the cache: locality 0. An address past the end is not an error in a prefetch. */
#define AHEAD 512
#define FETCH_ENTRY(p) __builtin_prefetch((p), 0, 0)

/* Columns of a block of vectors done at a time, in registers. */
#define WIDTH 8

#define TERM(j) (values[k + (j)] * x[indices[k + (j)]])

/* A row of a sparse matrix times a vector, and times `width` columns of a block [., k]. */
#define DEFINE_ROWS(T, NAME)                                                                     \
    /* One row of a product. Rows are short, and left to itself the compiler vectorises the loop \
     * with a prologue that costs more than such a row: so the common lengths are written out. */\
    INLINE T row_##NAME(int32_t begin, int32_t end, const int32_t *restrict indices,             \
                        const T *restrict values, const T *restrict x)                           \
    {                                                                                            \
        T sum = 0;                                                                               \
        int32_t k = begin;                                                                       \
        FETCH_ENTRY(values + k + AHEAD);                                                         \
        FETCH_ENTRY(indices + k + AHEAD);                                                        \
        switch (end - begin) {                                                                   \
        case 3:                                                                                  \
            return TERM(0) + TERM(1) + TERM(2);                                                  \
        case 4:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3));                                    \
        case 5:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3)) + TERM(4);                          \
        case 7:                                                                                  \
            return (TERM(0) + TERM(1)) + (TERM(2) + TERM(3)) + (TERM(4) + TERM(5)) + TERM(6);    \
        case 9:                                                                                  \
            return ((TERM(0) + TERM(1)) + (TERM(2) + TERM(3))) +                                 \
                   ((TERM(4) + TERM(5)) + (TERM(6) + TERM(7))) + TERM(8);                        \
        }                                                                                        \
        for (; k + 8 <= end; k += 8) {                                                           \
            FETCH_ENTRY(values + k + 8 + AHEAD);                                                 \
            FETCH_ENTRY(indices + k + 8 + AHEAD);                                                \
            sum += ((TERM(0) + TERM(1)) + (TERM(2) + TERM(3))) +                                 \
                   ((TERM(4) + TERM(5)) + (TERM(6) + TERM(7)));                                  \
        }                                                                                        \
        for (; k + 2 <= end; k += 2)                                                             \
            sum += TERM(0) + TERM(1);                                                            \
        return k < end ? sum + TERM(0) : sum;                                                    \
    }                                                                                            \
                                                                                                 \
    INLINE void row_wide_##NAME(int32_t begin, int32_t end, int64_t width, int64_t k,     \
                                       const int32_t *restrict indices,                          \
                                       const T *restrict values, const T *restrict x, T *sum)    \
    {                                                                                            \
        for (int j = 0; j < WIDTH; ++j)                                                          \
            sum[j] = 0;                                                                          \
        if (width == WIDTH)                                                                      \
            for (int32_t e = begin; e < end; ++e) {                                              \
                const T value = values[e];                                                       \
                const T *from = x + indices[e] * k;                                              \
                for (int j = 0; j < WIDTH; ++j)                                                  \
                    sum[j] += value * from[j];                                                   \
            }                                                                                    \
        else                                                                                     \
            for (int32_t e = begin; e < end; ++e) {                                              \
                const T value = values[e];                                                       \
                const T *from = x + indices[e] * k;                                              \
                for (int64_t j = 0; j < width; ++j)                                              \
                    sum[j] += value * from[j];                                                   \
            }                                                                                    \
    }

DEFINE_ROWS(double, float64)
DEFINE_ROWS(float, float32)

#endif
