/* CPU loops for one thread: the vector updates of bicgstab, minres and pipelined_cg (of one column),
 * in as few passes over memory as their reductions allow. Conventions as in native.c; `inverse` [n] may be NULL for ones;
 * coefficients are [k]; sums are doubles [., k] that the caller has set to zero. */
#include "native.h"

/* Each loop is written once for any k and compiled twice: for k = 1, and for the rest. */

#define DEFINE(T, NAME)                                                                          \
    INLINE void half_##NAME(int64_t n, int64_t k, const T *restrict alpha,                       \
                            const T *restrict v, const T *restrict inverse, T *restrict r,       \
                            T *restrict r_hat)                                                   \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int64_t e = i * k, c = 0; c < k; ++e, ++c) {                                    \
                const T value = r[e] - alpha[c] * v[e];                                          \
                r[e] = value;                                                                    \
                if (inverse)                                                                     \
                    r_hat[e] = inverse[i] * value;                                               \
            }                                                                                    \
    }                                                                                            \
    /* r -= alpha v;  r_hat = inverse r, but without inverse, when it is not touched. */         \
    CLONED void hpc_sla_bicgstab_half_##NAME(int64_t n, int64_t k, const T *alpha, const T *v,          \
                                      const T *inverse, T *r, T *r_hat)                          \
    {                                                                                            \
        if (k == 1)                                                                              \
            half_##NAME(n, 1, alpha, v, inverse, r, r_hat);                                      \
        else                                                                                     \
            half_##NAME(n, k, alpha, v, inverse, r, r_hat);                                      \
    }                                                                                            \
                                                                                                 \
    INLINE void full_##NAME(int64_t n, int64_t k, const T *restrict alpha,                       \
                            const T *restrict omega, const T *restrict p_hat,                    \
                            const T *s_hat, const T *restrict t, const T *restrict shadow,       \
                            T *restrict x, T *r, double *restrict sums)                          \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int64_t e = i * k, c = 0; c < k; ++e, ++c) {                                    \
                x[e] += alpha[c] * p_hat[e] + omega[c] * s_hat[e];                               \
                const T value = r[e] - omega[c] * t[e];                                          \
                r[e] = value;                                                                    \
                sums[c] += (double)shadow[e] * value;                                            \
                sums[k + c] += (double)value * value;                                            \
            }                                                                                    \
    }                                                                                            \
    /* x += alpha p_hat + omega s_hat;  r -= omega t;  sums = shadow . r, r . r.  s_hat may be   \
     * r. */                                                                                     \
    CLONED void hpc_sla_bicgstab_full_##NAME(int64_t n, int64_t k, const T *alpha, const T *omega,      \
                                      const T *p_hat, const T *s_hat, const T *t,                \
                                      const T *shadow, T *x, T *r, double *sums)                 \
    {                                                                                            \
        if (k == 1) {                                                                            \
            double two[2] = {0, 0};                                                              \
            full_##NAME(n, 1, alpha, omega, p_hat, s_hat, t, shadow, x, r, two);                 \
            sums[0] = two[0], sums[1] = two[1];                                                  \
        } else                                                                                   \
            full_##NAME(n, k, alpha, omega, p_hat, s_hat, t, shadow, x, r, sums);                \
    }                                                                                            \
                                                                                                 \
    INLINE void turn_##NAME(int64_t n, int64_t k, const T *restrict beta,                        \
                            const T *restrict omega, const T *restrict r, const T *restrict v,   \
                            const T *restrict inverse, T *restrict p)                            \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int64_t e = i * k, c = 0; c < k; ++e, ++c) {                                    \
                const T scale = inverse ? inverse[i] : 1;                                        \
                p[e] = scale * r[e] + beta[c] * (p[e] - omega[c] * (scale * v[e]));              \
            }                                                                                    \
    }                                                                                            \
    /* p = inverse r + beta (p - omega inverse v). */                                            \
    CLONED void hpc_sla_bicgstab_turn_##NAME(int64_t n, int64_t k, const T *beta, const T *omega,\
                                             const T *r, const T *v, const T *inverse, T *p)     \
    {                                                                                            \
        if (k == 1)                                                                              \
            turn_##NAME(n, 1, beta, omega, r, v, inverse, p);                                    \
        else                                                                                     \
            turn_##NAME(n, k, beta, omega, r, v, inverse, p);                                    \
    }                                                                                            \
                                                                                                 \
    INLINE void lanczos_##NAME(int64_t n, int64_t k, const T *restrict back,                     \
                               const T *restrict delta, const T *restrict scale,                 \
                               const T *restrict v, const T *restrict r,                         \
                               const T *restrict inverse, T *restrict v_old, T *restrict q,      \
                               double *restrict sums)                                            \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int64_t e = i * k, c = 0; c < k; ++e, ++c) {                                    \
                const T value = (q[e] - back[c] * v_old[e] - delta[c] * v[e]) * scale[c];        \
                const T z = inverse ? inverse[i] * value : value;                                \
                v_old[e] = value;                                                                \
                q[e] = z;                                                                        \
                sums[c] += (double)value * z;                                                    \
                sums[k + c] += (double)value * r[e];                                             \
                sums[2 * k + c] += (double)value * value;                                        \
            }                                                                                    \
    }                                                                                            \
    /* v_old = (q - back v_old - delta v) scale;  q = inverse v_old;                             \
     * sums = v_old . q, v_old . r, v_old . v_old. */                                            \
    CLONED void hpc_sla_minres_lanczos_##NAME(int64_t n, int64_t k, const T *back, const T *delta,      \
                                       const T *scale, const T *v, const T *r,                   \
                                       const T *inverse, T *v_old, T *q, double *sums)           \
    {                                                                                            \
        if (k == 1) {                                                                            \
            double three[3] = {0, 0, 0};                                                         \
            lanczos_##NAME(n, 1, back, delta, scale, v, r, inverse, v_old, q, three);            \
            sums[0] = three[0], sums[1] = three[1], sums[2] = three[2];                          \
        } else                                                                                   \
            lanczos_##NAME(n, k, back, delta, scale, v, r, inverse, v_old, q, sums);             \
    }                                                                                            \
                                                                                                 \
    INLINE void direction_##NAME(int64_t n, int64_t k, const T *restrict older,                  \
                                 const T *restrict old, const T *restrict scale,                 \
                                 const T *restrict step, const T *restrict shrink,               \
                                 const T *restrict turn, const T *restrict z,                    \
                                 const T *restrict w, const T *restrict v, T *restrict w_old,    \
                                 T *restrict x, T *restrict r)                                   \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            for (int64_t e = i * k, c = 0; c < k; ++e, ++c) {                                    \
                const T value = (z[e] - older[c] * w_old[e] - old[c] * w[e]) * scale[c];         \
                w_old[e] = value;                                                                \
                x[e] += step[c] * value;                                                         \
                r[e] = shrink[c] * r[e] + turn[c] * v[e];                                        \
            }                                                                                    \
    }                                                                                            \
    /* w_old = (z - older w_old - old w) scale;  x += step w_old;  r = shrink r + turn v. */     \
    CLONED void hpc_sla_minres_direction_##NAME(int64_t n, int64_t k, const T *older, const T *old,     \
                                         const T *scale, const T *step, const T *shrink,         \
                                         const T *turn, const T *z, const T *w, const T *v,      \
                                         T *w_old, T *x, T *r)                                   \
    {                                                                                            \
        if (k == 1)                                                                              \
            direction_##NAME(n, 1, older, old, scale, step, shrink, turn, z, w, v, w_old, x, r); \
        else                                                                                     \
            direction_##NAME(n, k, older, old, scale, step, shrink, turn, z, w, v, w_old, x, r); \
    }

DEFINE(double, float64)
DEFINE(float, float32)

/* Sums of four chains, which the compiler keeps side by side in a register. */
#define CHAINS 4
#define ADDED(c) (((c)[0] + (c)[1]) + ((c)[2] + (c)[3]))

#define DEFINE_PIPELINED(T, NAME)                                                                \
    INLINE void pipelined_##NAME(int64_t i, const T *inverse, const T *r, const T *u,            \
                                 const T *w, T *m, double *ru, double *wu, double *rr)           \
    {                                                                                            \
        m[i] = inverse ? inverse[i] * w[i] : w[i];                                               \
        *ru += (double)r[i] * u[i], *wu += (double)w[i] * u[i], *rr += (double)r[i] * r[i];      \
    }                                                                                            \
    /* m = inverse w;  sums = r . u, w . u, r . r. */                                            \
    CLONED void hpc_sla_pipelined_sums_##NAME(int64_t n, int64_t k, const T *restrict inverse,   \
                                              const T *restrict r, const T *restrict u,          \
                                              const T *restrict w, T *restrict m,                \
                                              double *restrict sums)                             \
    {                                                                                            \
        double ru[CHAINS] = {0}, wu[CHAINS] = {0}, rr[CHAINS] = {0};                             \
        int64_t i = 0;                                                                           \
        (void)k;                                                                                 \
        for (; i + CHAINS <= n; i += CHAINS)                                                     \
            for (int j = 0; j < CHAINS; ++j)                                                     \
                pipelined_##NAME(i + j, inverse, r, u, w, m, ru + j, wu + j, rr + j);            \
        for (; i < n; ++i)                                                                       \
            pipelined_##NAME(i, inverse, r, u, w, m, ru, wu, rr);                                \
        sums[0] = ADDED(ru), sums[1] = ADDED(wu), sums[2] = ADDED(rr);                           \
    }                                                                                            \
                                                                                                 \
    INLINE void recur_##NAME(int64_t i, T alpha, T beta, const T *n_, const T *m, T *z, T *q,    \
                             T *s, T *p, T *x, T *r, T *u, T *w)                                 \
    {                                                                                            \
        z[i] = n_[i] + beta * z[i];                                                              \
        q[i] = m[i] + beta * q[i];                                                               \
        s[i] = w[i] + beta * s[i];                                                               \
        p[i] = u[i] + beta * p[i];                                                               \
        x[i] += alpha * p[i];                                                                    \
        r[i] -= alpha * s[i];                                                                    \
        u[i] -= alpha * q[i];                                                                    \
        w[i] -= alpha * z[i];                                                                    \
    }                                                                                            \
    /* z = n + beta z;  q = m + beta q;  s = w + beta s;  p = u + beta p;                        \
     * x += alpha p;  r -= alpha s;  u -= alpha q;  w -= alpha z;  then as above. */             \
    CLONED void hpc_sla_pipelined_step_##NAME(                                                   \
        int64_t n, int64_t k, const T *alpha, const T *beta, const T *restrict inverse,          \
        const T *restrict n_, T *restrict m, T *restrict z, T *restrict q, T *restrict s,        \
        T *restrict p, T *restrict x, T *restrict r, T *restrict u, T *restrict w,               \
        double *restrict sums)                                                                   \
    {                                                                                            \
        double ru[CHAINS] = {0}, wu[CHAINS] = {0}, rr[CHAINS] = {0};                             \
        const T a = *alpha, b = *beta;                                                           \
        int64_t i = 0;                                                                           \
        (void)k;                                                                                 \
        for (; i + CHAINS <= n; i += CHAINS)                                                     \
            for (int j = 0; j < CHAINS; ++j) {                                                   \
                recur_##NAME(i + j, a, b, n_, m, z, q, s, p, x, r, u, w);                        \
                pipelined_##NAME(i + j, inverse, r, u, w, m, ru + j, wu + j, rr + j);            \
            }                                                                                    \
        for (; i < n; ++i) {                                                                     \
            recur_##NAME(i, a, b, n_, m, z, q, s, p, x, r, u, w);                                \
            pipelined_##NAME(i, inverse, r, u, w, m, ru, wu, rr);                                \
        }                                                                                        \
        sums[0] = ADDED(ru), sums[1] = ADDED(wu), sums[2] = ADDED(rr);                           \
    }

DEFINE_PIPELINED(double, float64)
DEFINE_PIPELINED(float, float32)
