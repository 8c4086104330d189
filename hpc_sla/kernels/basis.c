/* CPU loops over a basis of vectors, for one thread: the inner products and the combinations of
 * Gram-Schmidt for two vectors at once, in pieces that stay in the cache, so that the basis is read
 * once for both. Conventions as in native.c. A basis is [m, n] or [m, n, k], contiguous. */
#include "native.h"

/* Rows of a piece: long enough for the processor to see streams, short enough for the cache. */
#define PIECE 2048

/* A piece of each vector is a stream that has just begun: fetch ahead of the processor's guess. */
#define FETCH(p) __builtin_prefetch((p) + 64, 0, 3)

#define DEFINE(T, NAME)                                                                          \
    typedef T vector_##NAME __attribute__((vector_size(32), aligned(sizeof(T))));                \
    enum { LANES_##NAME = 32 / sizeof(T) };                                                      \
                                                                                                 \
    /* One piece of one column: out = a . u, a . w, b . u, b . w. */                             \
    INLINE void four_##NAME(int64_t rows, const T *a, const T *b, const T *u, const T *w,        \
                            double *restrict out)                                                \
    {                                                                                            \
        vector_##NAME au = {0}, aw = {0}, bu = {0}, bw = {0};                                    \
        vector_##NAME au2 = {0}, aw2 = {0}, bu2 = {0}, bw2 = {0};                                \
        int64_t e = 0;                                                                           \
        for (; e + 2 * LANES_##NAME <= rows; e += 2 * LANES_##NAME) {                                          \
            const vector_##NAME a1 = *(const vector_##NAME *)(a + e);                            \
            const vector_##NAME b1 = *(const vector_##NAME *)(b + e);                            \
            const vector_##NAME u1 = *(const vector_##NAME *)(u + e);                            \
            const vector_##NAME w1 = *(const vector_##NAME *)(w + e);                            \
            const vector_##NAME a2 = *(const vector_##NAME *)(a + e + LANES_##NAME);                    \
            const vector_##NAME b2 = *(const vector_##NAME *)(b + e + LANES_##NAME);                    \
            const vector_##NAME u2 = *(const vector_##NAME *)(u + e + LANES_##NAME);                    \
            const vector_##NAME w2 = *(const vector_##NAME *)(w + e + LANES_##NAME);                    \
            FETCH(a + e), FETCH(b + e);                                                          \
            au += a1 * u1, aw += a1 * w1, bu += b1 * u1, bw += b1 * w1;                          \
            au2 += a2 * u2, aw2 += a2 * w2, bu2 += b2 * u2, bw2 += b2 * w2;                      \
        }                                                                                        \
        au += au2, aw += aw2, bu += bu2, bw += bw2;                                              \
        double sums[4] = {0, 0, 0, 0};                                                           \
        for (; e < rows; ++e) {                                                                  \
            sums[0] += (double)a[e] * u[e], sums[1] += (double)a[e] * w[e];                      \
            sums[2] += (double)b[e] * u[e], sums[3] += (double)b[e] * w[e];                      \
        }                                                                                        \
        for (int l = 0; l < LANES_##NAME; ++l)                                                          \
            sums[0] += au[l], sums[1] += aw[l], sums[2] += bu[l], sums[3] += bw[l];              \
        for (int s = 0; s < 4; ++s)                                                              \
            out[s] += sums[s];                                                                   \
    }                                                                                            \
                                                                                                 \
    /* The same by columns of [rows, k]: added to four rows of out [., k]. */                    \
    INLINE void by_columns_##NAME(int64_t rows, int64_t k, const T *a, const T *u,               \
                                  double *restrict out)                                          \
    {                                                                                            \
        for (int64_t i = 0; i < rows; ++i)                                                       \
            for (int64_t j = 0; j < k; ++j)                                                      \
                out[j] += (double)a[i * k + j] * u[i * k + j];                                   \
    }                                                                                            \
                                                                                                 \
    /* out [targets, count, k] = basis[i] . basis[first + t] for i < count; targets is 1 or 2. */ \
    CLONED void hpc_sla_basis_dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,    \
                                          int64_t targets, const T *basis, double *restrict out) \
    {                                                                                            \
        for (int64_t i = 0; i < targets * count * k; ++i)                                        \
            out[i] = 0;                                                                          \
        for (int64_t row = 0; row < n; row += PIECE) {                                           \
            const int64_t rows = n - row < PIECE ? n - row : PIECE;                              \
            const T *u = basis + (first * n + row) * k;                                          \
            const T *w = u + (targets - 1) * n * k;                                              \
            if (k > 1) {                                                                         \
                for (int64_t i = 0; i < count; ++i)                                              \
                    for (int64_t t = 0; t < targets; ++t)                                        \
                        by_columns_##NAME(rows, k, basis + (i * n + row) * k, t ? w : u,         \
                                          out + (t * count + i) * k);                            \
                continue;                                                                        \
            }                                                                                    \
            for (int64_t i = 0; i < count; i += 2) {                                             \
                const int64_t next = i + 1 < count ? i + 1 : i;                                  \
                double four[4] = {0, 0, 0, 0};                                                   \
                four_##NAME(rows, basis + i * n + row, basis + next * n + row, u, w, four);      \
                out[i] += four[0];                                                               \
                if (targets == 2)                                                                \
                    out[count + i] += four[1];                                                   \
                if (next > i) {                                                                  \
                    out[next] += four[2];                                                        \
                    if (targets == 2)                                                            \
                        out[count + next] += four[3];                                            \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void update_##NAME(int64_t n, int64_t k, int64_t j, T *basis, const T *restrict s,    \
                              const T *restrict c, const T *restrict last,                       \
                              const T *restrict inverse)                                         \
    {                                                                                            \
        for (int64_t row = 0; row < n; row += PIECE) {                                           \
            const int64_t rows = n - row < PIECE ? n - row : PIECE;                              \
            T *restrict u = basis + (j * n + row) * k;                                           \
            T *restrict w = basis + ((j + 1) * n + row) * k;                                     \
            int64_t i = 0;                                                                       \
            for (; k == 1 && i + 2 <= j; i += 2) {                                               \
                const T *restrict v = basis + i * n + row;                                       \
                const T *restrict v2 = v + n;                                                    \
                const T a = s[i], b = c[i], a2 = s[i + 1], b2 = c[i + 1];                        \
                int64_t e = 0;                                                                   \
                for (; e + LANES_##NAME <= rows; e += LANES_##NAME) {                            \
                    FETCH(v + e), FETCH(v2 + e);                                                 \
                    const vector_##NAME first = *(const vector_##NAME *)(v + e);                 \
                    const vector_##NAME second = *(const vector_##NAME *)(v2 + e);               \
                    *(vector_##NAME *)(u + e) -= a * first + a2 * second;                        \
                    *(vector_##NAME *)(w + e) -= b * first + b2 * second;                        \
                }                                                                                \
                for (; e < rows; ++e) {                                                          \
                    u[e] -= a * v[e] + a2 * v2[e];                                               \
                    w[e] -= b * v[e] + b2 * v2[e];                                               \
                }                                                                                \
            }                                                                                    \
            for (; i < j; ++i) {                                                                 \
                const T *restrict v = basis + (i * n + row) * k;                                 \
                for (int64_t e = 0; e < rows * k; e += k)                                        \
                    for (int64_t f = 0; f < k; ++f) {                                            \
                        u[e + f] -= s[i * k + f] * v[e + f];                                     \
                        w[e + f] -= c[i * k + f] * v[e + f];                                     \
                    }                                                                            \
            }                                                                                    \
            for (int64_t e = 0; e < rows * k; e += k)                                            \
                for (int64_t f = 0; f < k; ++f) {                                                \
                    u[e + f] *= inverse[f];                                                      \
                    w[e + f] = (w[e + f] - last[f] * u[e + f]) * inverse[f];                     \
                }                                                                                \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* With u = basis[j] and w = basis[j + 1], by columns:                                       \
     * u = (u - sum_i s_i basis[i]) inverse;  w = (w - sum_i c_i basis[i] - last u) inverse. */  \
    CLONED void hpc_sla_basis_update_##NAME(int64_t n, int64_t k, int64_t j, T *basis,           \
                                            const T *s, const T *c, const T *last,               \
                                            const T *inverse)                                    \
    {                                                                                            \
        if (k == 1)                                                                              \
            update_##NAME(n, 1, j, basis, s, c, last, inverse);                                  \
        else                                                                                     \
            update_##NAME(n, k, j, basis, s, c, last, inverse);                                  \
    }

DEFINE(double, float64)
DEFINE(float, float32)
