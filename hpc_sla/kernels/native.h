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

/* Columns of a block of vectors done at a time, in registers. */
#define WIDTH 8

#endif
