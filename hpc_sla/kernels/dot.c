/* The inner product of two vectors, [n] or [n, k] by rows, for one thread. */
#include "native.h"

#define DEFINE(T, NAME)                                                                          \
    /* out = this rank's x . y, by columns, summed in doubles. */                                \
    CLONED void hpc_sla_dot_##NAME(int64_t n, int64_t k, const T *restrict x,                    \
                                   const T *restrict y, T *restrict out)                         \
    {                                                                                            \
        if (k == 1) {                                                                            \
            double sums[8] = {0};                                                                \
            int64_t i = 0;                                                                       \
            for (; i + 8 <= n; i += 8)                                                           \
                for (int j = 0; j < 8; ++j)                                                      \
                    sums[j] += (double)x[i + j] * y[i + j];                                      \
            for (; i < n; ++i)                                                                   \
                sums[0] += (double)x[i] * y[i];                                                  \
            out[0] = (T)(((sums[0] + sums[1]) + (sums[2] + sums[3])) +                           \
                         ((sums[4] + sums[5]) + (sums[6] + sums[7])));                           \
            return;                                                                              \
        }                                                                                        \
        for (int64_t first = 0; first < k; first += WIDTH) {                                     \
            const int64_t width = k - first < WIDTH ? k - first : WIDTH;                         \
            double sums[WIDTH] = {0};                                                            \
            for (int64_t i = 0; i < n; ++i)                                                      \
                for (int64_t j = 0, at = i * k + first; j < width; ++j)                          \
                    sums[j] += (double)x[at + j] * y[at + j];                                    \
            for (int64_t j = 0; j < width; ++j)                                                  \
                out[first + j] = (T)sums[j];                                                     \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
