/* CPU loops: the sparse product, and fused passes over memory for which torch needs
 * several.
 *
 * Compiled at installation where there is a C compiler; elsewhere torch operations do the work, and
 * they are what the tests compare these with. No Python or torch header is needed: the functions
 * take plain pointers and are called through ctypes.
 *
 * Vectors are [n] or [n, k] by rows, with k = 1 for [n]. The passes sum in chains of doubles whose
 * order never depends on anything but n and k.
 */
#include <stdlib.h>

#include "threads.h"

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
    static CLONED void csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,            \
                                         const int32_t *indices, const T *values, const T *x,    \
                                         const int32_t *rows, T *y, const T *w, T *dot,          \
                                         T *square)                                              \
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
    static void csr_matmul_part_##NAME(const void *const *a, int64_t first, int64_t last,        \
                                       void *sums)                                               \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const int32_t *rows = a[4];                                                              \
        const int64_t at = rows ? 0 : first * k;                                                 \
        T *dot = a[6] ? sums : NULL, *square = a[7] ? (T *)sums + k : NULL;                      \
        csr_matmul_##NAME(last - first, k, SHIFT(const int32_t, 1, first), a[2], a[3], a[8],     \
                          SHIFT(const int32_t, 4, first), SHIFT(T, 5, at), SHIFT(const T, 6, at),\
                          dot, square);                                                          \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_csr_matmul_##NAME(int64_t n, int64_t k, const int32_t *indptr,                  \
                                   const int32_t *indices, const T *values, const T *x,          \
                                   const int32_t *rows, T *y, const T *w, T *dot, T *square)     \
    {                                                                                            \
        if (hpc_sla_parts(n, k) == 1) {                                                          \
            csr_matmul_##NAME(n, k, indptr, indices, values, x, rows, y, w, dot, square);        \
            return;                                                                              \
        }                                                                                        \
        T few[4 * WIDTH] = {0}, *sums = k <= 2 * WIDTH ? few : calloc(2 * k, sizeof(T));         \
        if (!sums) {                                                                             \
            csr_matmul_##NAME(n, k, indptr, indices, values, x, rows, y, w, dot, square);        \
            return;                                                                              \
        }                                                                                        \
        const void *a[] = {&k, indptr, indices, values, rows, y, w, square, x};                  \
        hpc_sla_run(n, k, indptr, csr_matmul_part_##NAME, a, 2 * k, sizeof(T), sums);            \
        for (int64_t j = 0; j < k; ++j) {                                                        \
            if (w)                                                                               \
                dot[j] += sums[j];                                                               \
            if (square)                                                                          \
                square[j] += sums[k + j];                                                        \
        }                                                                                        \
        if (sums != few)                                                                         \
            free(sums);                                                                          \
    }                                                                                            \
    /* out[e] = g_i . x_j at each entry e = (i, j) of the pattern, over k columns. */            \
    static CLONED void csr_sample_##NAME(int64_t n, int64_t k, const int32_t *indptr, const int32_t *indices, const T *restrict g, const T *restrict x, T *restrict out)\
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
    static void csr_sample_part_##NAME(const void *const *a, int64_t first, int64_t last, void   \
        *sums)                                                                                   \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        csr_sample_##NAME(last - first, k, SHIFT(const int32_t, 1, first), (void *)a[2],         \
            SHIFT(const T, 3, first * k), (void *)a[4], (void *)a[5]);                           \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_csr_sample_##NAME(int64_t n, int64_t k, const int32_t *indptr, const int32_t    \
        *indices, const T *restrict g, const T *restrict x, T *restrict out)                     \
    {                                                                                            \
        const void *a[] = {&k, indptr, indices, g, x, out};                                      \
        hpc_sla_run(n, k, indptr, csr_sample_part_##NAME, a, 0, sizeof(T), NULL);                \
    }                                                                                            \
                                                                                                 \
    /* r -= alpha q;  out[0] = sum r inverse r,  out[1] = sum r r, by columns: out is [2, k].    \
     * inverse is [n] and may be NULL: ones. */                                                  \
    static CLONED void residual_##NAME(int64_t n, int64_t k, const T *restrict alpha, const T *restrict q, const T *restrict inverse, T *restrict r, T *restrict out)\
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
    static void residual_part_##NAME(const void *const *a, int64_t first, int64_t last, void     \
        *sums)                                                                                   \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        residual_##NAME(last - first, k, (void *)a[1], SHIFT(const T, 2, first * k), SHIFT(const \
            T, 3, first), SHIFT(T, 4, first * k), sums);                                         \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_residual_##NAME(int64_t n, int64_t k, const T *restrict alpha, const T          \
        *restrict q, const T *restrict inverse, T *restrict r, T *restrict out)                  \
    {                                                                                            \
        const void *a[] = {&k, alpha, q, inverse, r};                                            \
        for (int64_t j = 0; j < 2 * k; ++j)                                                      \
            out[j] = 0;                                                                          \
        hpc_sla_run(n, k, NULL, residual_part_##NAME, a, 2 * k, sizeof(T), out);                 \
    }                                                                                            \
                                                                                                 \
    /* x += alpha p;  p = inverse r + beta p.  inverse is [n] and may be NULL: ones. */          \
    static CLONED void direction_##NAME(int64_t n, int64_t k, const T *restrict alpha, const T *restrict beta, const T *restrict r, const T *restrict inverse, T *restrict x, T *restrict p)\
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
    }                                                                                            \
                                                                                                 \
    static void direction_part_##NAME(const void *const *a, int64_t first, int64_t last, void    \
        *sums)                                                                                   \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        direction_##NAME(last - first, k, (void *)a[1], (void *)a[2], SHIFT(const T, 3, first *  \
            k), SHIFT(const T, 4, first), SHIFT(T, 5, first * k), SHIFT(T, 6, first * k));       \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_direction_##NAME(int64_t n, int64_t k, const T *restrict alpha, const T         \
        *restrict beta, const T *restrict r, const T *restrict inverse, T *restrict x, T         \
        *restrict p)                                                                             \
    {                                                                                            \
        const void *a[] = {&k, alpha, beta, r, inverse, x, p};                                   \
        hpc_sla_run(n, k, NULL, direction_part_##NAME, a, 0, sizeof(T), NULL);                   \
    }

DEFINE(double, float64)
DEFINE(float, float32)
