/* CPU loops for one thread: the sparse product, and fused passes over memory for which torch needs
 * several.
 *
 * Compiled at installation where there is a C compiler; elsewhere torch operations do the work, and
 * they are what the tests compare these with. No Python or torch header is needed: the functions
 * take plain pointers and are called through ctypes.
 *
 * The passes sum in four interleaved chains of doubles, so that no addition waits for the last one
 * and the order never depends on anything but n.
 */
#include <stdint.h>

#define DEFINE(T, NAME)                                                                          \
    /* y = A x for a CSR matrix of n rows. */                                                    \
    void hpc_sla_csr_matvec_##NAME(int64_t n, const int32_t *restrict indptr,                    \
                                   const int32_t *restrict indices, const T *restrict values,    \
                                   const T *restrict x, T *restrict y)                           \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i) {                                                        \
            T sum = 0;                                                                           \
            for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k)                                  \
                sum += values[k] * x[indices[k]];                                                \
            y[i] = sum;                                                                          \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* r -= alpha q;  out[0] = sum r inverse r,  out[1] = sum r r.  inverse may be NULL: ones. */ \
    void hpc_sla_residual_##NAME(int64_t n, double alpha, const T *restrict q,                   \
                                 const T *restrict inverse, T *restrict r, T *restrict out)      \
    {                                                                                            \
        double rz[4] = {0, 0, 0, 0}, rr[4] = {0, 0, 0, 0};                                       \
        const T a = (T)alpha;                                                                    \
        int64_t i = 0;                                                                           \
        for (; i + 4 <= n; i += 4) {                                                             \
            for (int j = 0; j < 4; ++j) {                                                        \
                const T value = r[i + j] - a * q[i + j];                                         \
                const double square = (double)value * value;                                     \
                r[i + j] = value;                                                                \
                rr[j] += square;                                                                 \
                rz[j] += inverse ? square * inverse[i + j] : square;                             \
            }                                                                                    \
        }                                                                                        \
        for (; i < n; ++i) {                                                                     \
            const T value = r[i] - a * q[i];                                                     \
            const double square = (double)value * value;                                         \
            r[i] = value;                                                                        \
            rr[0] += square;                                                                     \
            rz[0] += inverse ? square * inverse[i] : square;                                     \
        }                                                                                        \
        out[0] = (T)((rz[0] + rz[1]) + (rz[2] + rz[3]));                                         \
        out[1] = (T)((rr[0] + rr[1]) + (rr[2] + rr[3]));                                         \
    }                                                                                            \
                                                                                                 \
    /* x += alpha p;  p = inverse r + beta p.  inverse may be NULL: ones. */                     \
    void hpc_sla_direction_##NAME(int64_t n, double alpha, double beta, const T *restrict r,     \
                                  const T *restrict inverse, T *restrict x, T *restrict p)       \
    {                                                                                            \
        const T a = (T)alpha, b = (T)beta;                                                       \
        if (inverse)                                                                             \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const T direction = p[i];                                                        \
                x[i] += a * direction;                                                           \
                p[i] = inverse[i] * r[i] + b * direction;                                        \
            }                                                                                    \
        else                                                                                     \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const T direction = p[i];                                                        \
                x[i] += a * direction;                                                           \
                p[i] = r[i] + b * direction;                                                     \
            }                                                                                    \
    }

DEFINE(double, float64)
DEFINE(float, float32)
