/* The loops of relax.c for the compressed forms of matrix.h: A x by spans of rows (packed.c), and
 * what is done with a span while it is in the first cache. */
#include "matrix.h"

#define SPAN 512

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_span_##NAME(const hpc_sla_matrix *A, int64_t *near, int64_t first, int64_t last,\
                             int64_t width, int64_t k, const T *x, T *out, int64_t stride);      \
                                                                                                 \
    CLONED void hpc_sla_packed_affine_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,     \
                                             const int32_t *rows, const T *b, const T *scale,    \
                                             T *out, int64_t begin, int64_t end)                 \
    {                                                                                            \
        const int64_t size = SPAN - SPAN % A->block, stride = k > 1 ? WIDTH : 1;                 \
        const T a = scale[0];                                                                    \
        T room[SPAN * WIDTH];                                                                    \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            int64_t near = 0;                                                                    \
            for (int64_t first = begin; first < end; first += size) {                            \
                const int64_t last = first + size < end ? first + size : end, m = last - first;  \
                hpc_sla_span_##NAME(A, &near, first, last, width, k, x + c, room, stride);       \
                if (k == 1 && !rows) {                                                           \
                    for (int64_t i = 0; i < m; ++i)                                              \
                        out[first + i] = b[first + i] + a * room[i];                             \
                    continue;                                                                    \
                }                                                                                \
                for (int64_t i = 0; i < m; ++i) {                                                \
                    const int64_t row = (rows ? rows[first + i] : first + i) * k + c;            \
                    for (int64_t j = 0; j < width; ++j)                                          \
                        out[row + j] =                                                           \
                            (rows ? out[row + j] : b[row + j]) + a * room[i * stride + j];       \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* m rows, from `first` on, of which A x is in `room`. */                                    \
    INLINE void relax_span_##NAME(int64_t m, const T *restrict room, const T *here,              \
                                  const T *restrict b, const T *restrict d, T alpha, T beta,     \
                                  const T *before, T *after, T *restrict out)                    \
    {                                                                                            \
        for (int64_t i = 0; i < m; ++i) {                                                        \
            T q = (alpha * d[i]) * (b[i] - room[i]);                                             \
            if (before)                                                                          \
                q += beta * before[i];                                                           \
            if (after)                                                                           \
                after[i] = q;                                                                    \
            out[i] = here[i] + q;                                                                \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    CLONED void hpc_sla_packed_relax_##NAME(int64_t k, const hpc_sla_matrix *A, const T *x,      \
                                            const T *here, const int32_t *rows, const T *b,      \
                                            const T *d, const T *coefficients, const T *before,  \
                                            T *after, T *out, int64_t begin, int64_t end)        \
    {                                                                                            \
        const int64_t size = SPAN - SPAN % A->block, stride = k > 1 ? WIDTH : 1;                 \
        const T alpha = coefficients[0], beta = coefficients[1];                                 \
        T room[SPAN * WIDTH];                                                                    \
        for (int64_t c = 0; c < k; c += WIDTH) {                                                 \
            const int64_t width = k - c < WIDTH ? k - c : WIDTH;                                 \
            int64_t near = 0;                                                                    \
            for (int64_t f = begin; f < end; f += size) {                                        \
                const int64_t last = f + size < end ? f + size : end, m = last - f;              \
                hpc_sla_span_##NAME(A, &near, f, last, width, k, x + c, room, stride);           \
                if (k == 1 && !rows && before && !after) {                                       \
                    relax_span_##NAME(m, room, here + f, b + f, d + f, alpha, beta, before + f,  \
                                      NULL, out + f);                                            \
                    continue;                                                                    \
                }                                                                                \
                if (k == 1 && !rows && !before && after) {                                       \
                    relax_span_##NAME(m, room, here + f, b + f, d + f, alpha, beta, NULL,        \
                                      after + f, out + f);                                       \
                    continue;                                                                    \
                }                                                                                \
                for (int64_t i = 0; i < m; ++i) {                                                \
                    const int64_t at = rows ? rows[f + i] : f + i, row = at * k + c;             \
                    const T weight = alpha * d[at];                                              \
                    for (int64_t j = 0; j < width; ++j) {                                        \
                        const T sum = room[i * stride + j];                                      \
                        if (rows) {                                                              \
                            out[row + j] -= weight * sum;                                        \
                            if (after)                                                           \
                                after[row + j] -= weight * sum;                                  \
                        } else {                                                                 \
                            T q = weight * (b[row + j] - sum);                                   \
                            if (before)                                                          \
                                q += beta * before[row + j];                                     \
                            if (after)                                                           \
                                after[row + j] = q;                                              \
                            out[row + j] = here[row + j] + q;                                    \
                        }                                                                        \
                    }                                                                            \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }

DEFINE(double, float64)
DEFINE(float, float32)
