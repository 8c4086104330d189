/* CPU loops for one thread: the sparse product, and fused passes over memory for which torch needs
 * several.
 *
 * Compiled at installation where there is a C compiler; elsewhere torch operations do the work, and
 * they are what the tests compare these with. No Python or torch header is needed: the functions
 * take plain pointers and are called through ctypes.
 *
 * Vectors are [n] or [n, k] by rows, with k = 1 for [n]. The passes sum in chains of doubles whose
 * order never depends on anything but n and k.
 */
#include "native.h"

#define DEFINE(T, NAME)                                                                          \
    /* A CSR matrix A of n rows times x [., k]: y = A x, or y[rows] += A x where rows is given.  \
     * By columns, dot [k] is raised by w . (A x) (w[rows] with rows) where w is given, and      \
     * square [k] by what y . y rises by where it is given. */                                   \
    INLINE void product_##NAME(int64_t n, int64_t k, const int32_t *restrict indptr,             \
                               const int32_t *restrict indices, const T *restrict values,        \
                               const T *restrict x, const int32_t *restrict rows,                \
                               T *restrict y, const T *w, T *restrict dot, T *restrict square)   \
    {                                                                                            \
        for (int64_t first = 0; first < k; first += WIDTH) {                                     \
            const int64_t width = k - first < WIDTH ? k - first : WIDTH;                         \
            double dots[WIDTH] = {0}, squares[WIDTH] = {0};                                      \
            T sum[WIDTH];                                                                        \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const int64_t row = (rows ? rows[i] : i) * k + first;                            \
                if (k == 1)                                                                      \
                    sum[0] = row_##NAME(indptr[i], indptr[i + 1], indices, values, x);           \
                else                                                                             \
                    row_wide_##NAME(indptr[i], indptr[i + 1], width, k, indices, values,         \
                                    x + first, sum);                                             \
                for (int64_t j = 0; j < width; ++j) {                                            \
                    const T before = rows ? y[row + j] : 0, after = before + sum[j];             \
                    y[row + j] = after;                                                          \
                    if (w)                                                                       \
                        dots[j] += (double)w[row + j] * sum[j];                                  \
                    if (square)                                                                  \
                        squares[j] += (double)sum[j] * (before + after);                         \
                }                                                                                \
            }                                                                                    \
            for (int64_t j = 0; j < width; ++j) {                                                \
                if (w)                                                                           \
                    dot[first + j] += (T)dots[j];                                                \
                if (square)                                                                      \
                    square[first + j] += (T)squares[j];                                          \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    CLONED void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,           \
                                          const int32_t *indices, const T *values, const T *x,   \
                                          const int32_t *rows, T *y, const T *w, T *dot,         \
                                          T *square)                                             \
    {                                                                                            \
        if (k > 1)                                                                               \
            product_##NAME(n, k, indptr, indices, values, x, rows, y, w, dot, square);           \
        else if (rows)                                                                           \
            product_##NAME(n, 1, indptr, indices, values, x, rows, y, w, dot, square);           \
        else if (square)                                                                         \
            product_##NAME(n, 1, indptr, indices, values, x, NULL, y, w, dot, square);           \
        else if (w)                                                                              \
            product_##NAME(n, 1, indptr, indices, values, x, NULL, y, w, dot, NULL);             \
        else                                                                                     \
            product_##NAME(n, 1, indptr, indices, values, x, NULL, y, NULL, NULL, NULL);         \
    }                                                                                            \
                                                                                                 \
    /* out[e] = g_i . x_j at each entry e = (i, j) of the pattern, over k columns. */            \
    CLONED void hpc_sla_csr_sample_##NAME(int64_t n, int64_t k, const int32_t *indptr,           \
                                          const int32_t *indices, const T *restrict g,           \
                                          const T *restrict x, T *restrict out)                  \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            if (k == 1) {                                                                        \
                const T left = g[i];                                                             \
                for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e)                              \
                    out[e] = left * x[indices[e]];                                               \
                continue;                                                                        \
            }                                                                                    \
            for (int32_t e = indptr[i]; e < indptr[i + 1]; ++e) {                                \
                const T *left = g + i * k, *right = x + (int64_t)indices[e] * k;                 \
                T sum = 0;                                                                       \
                for (int64_t j = 0; j < k; ++j)                                                  \
                    sum += left[j] * right[j];                                                   \
                out[e] = sum;                                                                    \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* r -= alpha q;  out[0] = sum r inverse r,  out[1] = sum r r, by columns: out is [2, k].    \
     * inverse is [n] and may be NULL: ones. */                                                  \
    CLONED void hpc_sla_residual_##NAME(int64_t n, int64_t k, const T *restrict alpha,                  \
                                 const T *restrict q, const T *restrict inverse,                 \
                                 T *restrict r, T *restrict out)                                 \
    {                                                                                            \
        if (k == 1) {                                                                            \
            double rz[4] = {0, 0, 0, 0}, rr[4] = {0, 0, 0, 0};                                   \
            const T a = alpha[0];                                                                \
            int64_t i = 0;                                                                       \
            for (; i + 4 <= n; i += 4) {                                                         \
                for (int j = 0; j < 4; ++j) {                                                    \
                    const T value = r[i + j] - a * q[i + j];                                     \
                    const double square = (double)value * value;                                 \
                    r[i + j] = value;                                                            \
                    rr[j] += square;                                                             \
                    rz[j] += inverse ? square * inverse[i + j] : square;                         \
                }                                                                                \
            }                                                                                    \
            for (; i < n; ++i) {                                                                 \
                const T value = r[i] - a * q[i];                                                 \
                const double square = (double)value * value;                                     \
                r[i] = value;                                                                    \
                rr[0] += square;                                                                 \
                rz[0] += inverse ? square * inverse[i] : square;                                 \
            }                                                                                    \
            out[0] = (T)((rz[0] + rz[1]) + (rz[2] + rz[3]));                                     \
            out[1] = (T)((rr[0] + rr[1]) + (rr[2] + rr[3]));                                     \
            return;                                                                              \
        }                                                                                        \
        for (int64_t first = 0; first < k; first += WIDTH) {                                     \
            const int64_t width = k - first < WIDTH ? k - first : WIDTH;                         \
            double rz[WIDTH] = {0}, rr[WIDTH] = {0};                                             \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const double scale = inverse ? inverse[i] : 1;                                   \
                T *to = r + i * k + first;                                                       \
                const T *from = q + i * k + first;                                               \
                for (int64_t j = 0; j < width; ++j) {                                            \
                    const T value = to[j] - alpha[first + j] * from[j];                          \
                    const double square = (double)value * value;                                 \
                    to[j] = value;                                                               \
                    rr[j] += square;                                                             \
                    rz[j] += square * scale;                                                     \
                }                                                                                \
            }                                                                                    \
            for (int64_t j = 0; j < width; ++j) {                                                \
                out[first + j] = (T)rz[j];                                                       \
                out[k + first + j] = (T)rr[j];                                                   \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* x += alpha p;  p = inverse r + beta p.  inverse is [n] and may be NULL: ones. */          \
    CLONED void hpc_sla_direction_##NAME(int64_t n, int64_t k, const T *restrict alpha,                 \
                                  const T *restrict beta, const T *restrict r,                   \
                                  const T *restrict inverse, T *restrict x, T *restrict p)       \
    {                                                                                            \
        if (k == 1) {                                                                            \
            const T a = alpha[0], b = beta[0];                                                   \
            if (inverse)                                                                         \
                for (int64_t i = 0; i < n; ++i) {                                                \
                    const T direction = p[i];                                                    \
                    x[i] += a * direction;                                                       \
                    p[i] = inverse[i] * r[i] + b * direction;                                    \
                }                                                                                \
            else                                                                                 \
                for (int64_t i = 0; i < n; ++i) {                                                \
                    const T direction = p[i];                                                    \
                    x[i] += a * direction;                                                       \
                    p[i] = r[i] + b * direction;                                                 \
                }                                                                                \
            return;                                                                              \
        }                                                                                        \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            const T scale = inverse ? inverse[i] : 1;                                            \
            for (int64_t j = i * k, c = 0; c < k; ++j, ++c) {                                    \
                const T direction = p[j];                                                        \
                x[j] += alpha[c] * direction;                                                    \
                p[j] = scale * r[j] + beta[c] * direction;                                       \
            }                                                                                    \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
