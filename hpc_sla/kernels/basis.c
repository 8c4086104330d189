/* CPU loops over a basis of vectors, for one thread: the inner products and the combinations of
 * Gram-Schmidt for two vectors at once, in pieces that stay in the cache, so that the basis is read
 * once for both. Conventions as in native.c. A basis is [m, n] or [m, n, k], contiguous. */
#include <stdint.h>

#define PIECE 1024
#define LANES 8

#define DEFINE(T, NAME)                                                                          \
    /* a . b of [rows, k] by columns, added to out [k]. */                                       \
    static void dot_##NAME(int64_t rows, int64_t k, const T *restrict a, const T *restrict b,    \
                           double *restrict out)                                                 \
    {                                                                                            \
        T sum[LANES] = {0};                                                                      \
        if (k == 1) {                                                                            \
            int64_t i = 0;                                                                       \
            for (; i + LANES <= rows; i += LANES)                                                \
                for (int l = 0; l < LANES; ++l)                                                  \
                    sum[l] += a[i + l] * b[i + l];                                               \
            for (; i < rows; ++i)                                                                \
                sum[0] += a[i] * b[i];                                                           \
            out[0] += ((sum[0] + sum[4]) + (sum[1] + sum[5])) +                                  \
                      ((sum[2] + sum[6]) + (sum[3] + sum[7]));                                   \
            return;                                                                              \
        }                                                                                        \
        for (int64_t i = 0; i < rows; ++i)                                                       \
            for (int64_t j = 0; j < k; ++j)                                                      \
                out[j] += (double)a[i * k + j] * b[i * k + j];                                   \
    }                                                                                            \
                                                                                                 \
    /* out [targets, count, k] = basis[i] . basis[first + t] for i < count. */                   \
    void hpc_sla_basis_dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,           \
                                   int64_t targets, const T *restrict basis,                     \
                                   double *restrict out)                                         \
    {                                                                                            \
        for (int64_t i = 0; i < targets * count * k; ++i)                                        \
            out[i] = 0;                                                                          \
        for (int64_t row = 0; row < n; row += PIECE) {                                           \
            const int64_t rows = n - row < PIECE ? n - row : PIECE;                              \
            for (int64_t i = 0; i < count; ++i)                                                  \
                for (int64_t t = 0; t < targets; ++t)                                            \
                    dot_##NAME(rows, k, basis + (i * n + row) * k,                               \
                               basis + ((first + t) * n + row) * k, out + (t * count + i) * k);  \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* With u = basis[j] and w = basis[j + 1], by columns:                                       \
     * u = (u - sum_i s_i basis[i]) inverse;  w = (w - sum_i c_i basis[i] - last u) inverse. */  \
    void hpc_sla_basis_update_##NAME(int64_t n, int64_t k, int64_t j, T *restrict basis,         \
                                     const T *restrict s, const T *restrict c,                   \
                                     const T *restrict last, const T *restrict inverse)          \
    {                                                                                            \
        for (int64_t row = 0; row < n; row += PIECE) {                                           \
            const int64_t rows = n - row < PIECE ? n - row : PIECE;                              \
            T *restrict u = basis + (j * n + row) * k;                                           \
            T *restrict w = basis + ((j + 1) * n + row) * k;                                     \
            for (int64_t i = 0; i < j; ++i) {                                                    \
                const T *restrict v = basis + (i * n + row) * k;                                 \
                if (k == 1) {                                                                    \
                    const T a = s[i], b = c[i];                                                  \
                    for (int64_t e = 0; e < rows; ++e) {                                         \
                        u[e] -= a * v[e];                                                        \
                        w[e] -= b * v[e];                                                        \
                    }                                                                            \
                } else                                                                           \
                    for (int64_t e = 0; e < rows * k; e += k)                                    \
                        for (int64_t f = 0; f < k; ++f) {                                        \
                            u[e + f] -= s[i * k + f] * v[e + f];                                 \
                            w[e + f] -= c[i * k + f] * v[e + f];                                 \
                        }                                                                        \
            }                                                                                    \
            for (int64_t e = 0; e < rows * k; e += k)                                            \
                for (int64_t f = 0; f < k; ++f) {                                                \
                    u[e + f] *= inverse[f];                                                      \
                    w[e + f] = (w[e + f] - last[f] * u[e + f]) * inverse[f];                     \
                }                                                                                \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
