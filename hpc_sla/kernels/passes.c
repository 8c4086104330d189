/* CPU loops: the vector updates of bicgstab, minres and pipelined_cg (of one column), in as few
 * passes over memory as their reductions allow. Conventions as in native.c; `inverse` [n] may be
 * NULL for ones;
 * coefficients are [k]; sums are doubles [., k] that the caller has set to zero. */
#include "threads.h"

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
    static CLONED void bicgstab_half_##NAME(int64_t n, int64_t k, const T *alpha, const T *v, const T *inverse, T *r, T *r_hat)\
    {                                                                                            \
        if (k == 1)                                                                              \
            half_##NAME(n, 1, alpha, v, inverse, r, r_hat);                                      \
        else                                                                                     \
            half_##NAME(n, k, alpha, v, inverse, r, r_hat);                                      \
    }                                                                                            \
                                                                                                 \
    static void bicgstab_half_part_##NAME(const void *const *a, int64_t first, int64_t last,     \
        void *sums)                                                                              \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        bicgstab_half_##NAME(last - first, k, (void *)a[1], SHIFT(const T, 2, first * k),        \
            SHIFT(const T, 3, first), SHIFT(T, 4, first * k), SHIFT(T, 5, first * k));           \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_bicgstab_half_##NAME(int64_t n, int64_t k, const T *alpha, const T *v, const T  \
        *inverse, T *r, T *r_hat)                                                                \
    {                                                                                            \
        const void *a[] = {&k, alpha, v, inverse, r, r_hat};                                     \
        hpc_sla_run(n, k, NULL, bicgstab_half_part_##NAME, a, 0, sizeof(T), NULL);               \
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
    static CLONED void bicgstab_full_##NAME(int64_t n, int64_t k, const T *alpha, const T *omega, const T *p_hat, const T *s_hat, const T *t, const T *shadow, T *x, T *r, double *sums)\
    {                                                                                            \
        if (k == 1) {                                                                            \
            double two[2] = {0, 0};                                                              \
            full_##NAME(n, 1, alpha, omega, p_hat, s_hat, t, shadow, x, r, two);                 \
            sums[0] = two[0], sums[1] = two[1];                                                  \
        } else                                                                                   \
            full_##NAME(n, k, alpha, omega, p_hat, s_hat, t, shadow, x, r, sums);                \
    }                                                                                            \
                                                                                                 \
    static void bicgstab_full_part_##NAME(const void *const *a, int64_t first, int64_t last,     \
        void *sums)                                                                              \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        bicgstab_full_##NAME(last - first, k, (void *)a[1], (void *)a[2], SHIFT(const T, 3,      \
            first * k), SHIFT(const T, 4, first * k), SHIFT(const T, 5, first * k), SHIFT(const  \
            T, 6, first * k), SHIFT(T, 7, first * k), SHIFT(T, 8, first * k), sums);             \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_bicgstab_full_##NAME(int64_t n, int64_t k, const T *alpha, const T *omega,      \
        const T *p_hat, const T *s_hat, const T *t, const T *shadow, T *x, T *r, double *sums)   \
    {                                                                                            \
        const void *a[] = {&k, alpha, omega, p_hat, s_hat, t, shadow, x, r};                     \
        hpc_sla_run(n, k, NULL, bicgstab_full_part_##NAME, a, 2 * k, sizeof(double), sums);      \
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
    static CLONED void bicgstab_turn_##NAME(int64_t n, int64_t k, const T *beta, const T *omega, const T *r, const T *v, const T *inverse, T *p)\
    {                                                                                            \
        if (k == 1)                                                                              \
            turn_##NAME(n, 1, beta, omega, r, v, inverse, p);                                    \
        else                                                                                     \
            turn_##NAME(n, k, beta, omega, r, v, inverse, p);                                    \
    }                                                                                            \
                                                                                                 \
    static void bicgstab_turn_part_##NAME(const void *const *a, int64_t first, int64_t last,     \
        void *sums)                                                                              \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        bicgstab_turn_##NAME(last - first, k, (void *)a[1], (void *)a[2], SHIFT(const T, 3,      \
            first * k), SHIFT(const T, 4, first * k), SHIFT(const T, 5, first), SHIFT(T, 6,      \
            first * k));                                                                         \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_bicgstab_turn_##NAME(int64_t n, int64_t k, const T *beta, const T *omega, const \
        T *r, const T *v, const T *inverse, T *p)                                                \
    {                                                                                            \
        const void *a[] = {&k, beta, omega, r, v, inverse, p};                                   \
        hpc_sla_run(n, k, NULL, bicgstab_turn_part_##NAME, a, 0, sizeof(T), NULL);               \
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
    static CLONED void minres_lanczos_##NAME(int64_t n, int64_t k, const T *back, const T *delta, const T *scale, const T *v, const T *r, const T *inverse, T *v_old, T *q, double *sums)\
    {                                                                                            \
        if (k == 1) {                                                                            \
            double three[3] = {0, 0, 0};                                                         \
            lanczos_##NAME(n, 1, back, delta, scale, v, r, inverse, v_old, q, three);            \
            sums[0] = three[0], sums[1] = three[1], sums[2] = three[2];                          \
        } else                                                                                   \
            lanczos_##NAME(n, k, back, delta, scale, v, r, inverse, v_old, q, sums);             \
    }                                                                                            \
                                                                                                 \
    static void minres_lanczos_part_##NAME(const void *const *a, int64_t first, int64_t last,    \
        void *sums)                                                                              \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        minres_lanczos_##NAME(last - first, k, (void *)a[1], (void *)a[2], (void *)a[3],         \
            SHIFT(const T, 4, first * k), SHIFT(const T, 5, first * k), SHIFT(const T, 6,        \
            first), SHIFT(T, 7, first * k), SHIFT(T, 8, first * k), sums);                       \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_minres_lanczos_##NAME(int64_t n, int64_t k, const T *back, const T *delta,      \
        const T *scale, const T *v, const T *r, const T *inverse, T *v_old, T *q, double *sums)  \
    {                                                                                            \
        const void *a[] = {&k, back, delta, scale, v, r, inverse, v_old, q};                     \
        hpc_sla_run(n, k, NULL, minres_lanczos_part_##NAME, a, 3 * k, sizeof(double), sums);     \
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
    static CLONED void minres_direction_##NAME(int64_t n, int64_t k, const T *older, const T *old, const T *scale, const T *step, const T *shrink, const T *turn, const T *z, const T *w, const T *v, T *w_old, T *x, T *r)\
    {                                                                                            \
        if (k == 1)                                                                              \
            direction_##NAME(n, 1, older, old, scale, step, shrink, turn, z, w, v, w_old, x, r); \
        else                                                                                     \
            direction_##NAME(n, k, older, old, scale, step, shrink, turn, z, w, v, w_old, x, r); \
    }                                                                                            \
                                                                                                 \
    static void minres_direction_part_##NAME(const void *const *a, int64_t first, int64_t last,  \
        void *sums)                                                                              \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        (void)sums;                                                                              \
        minres_direction_##NAME(last - first, k, (void *)a[1], (void *)a[2], (void *)a[3], (void \
            *)a[4], (void *)a[5], (void *)a[6], SHIFT(const T, 7, first * k), SHIFT(const T, 8,  \
            first * k), SHIFT(const T, 9, first * k), SHIFT(T, 10, first * k), SHIFT(T, 11,      \
            first * k), SHIFT(T, 12, first * k));                                                \
    }                                                                                            \
                                                                                                 \
    void hpc_sla_minres_direction_##NAME(int64_t n, int64_t k, const T *older, const T *old,     \
        const T *scale, const T *step, const T *shrink, const T *turn, const T *z, const T *w,   \
        const T *v, T *w_old, T *x, T *r)                                                        \
    {                                                                                            \
        const void *a[] = {&k, older, old, scale, step, shrink, turn, z, w, v, w_old, x, r};     \
        hpc_sla_run(n, k, NULL, minres_direction_part_##NAME, a, 0, sizeof(T), NULL);            \
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
    static CLONED void sums_##NAME(int64_t n, const T *restrict inverse, const T *restrict r,    \
                                   const T *restrict u, const T *restrict w, T *restrict m,      \
                                   double *restrict sums)                                        \
    {                                                                                            \
        double ru[CHAINS] = {0}, wu[CHAINS] = {0}, rr[CHAINS] = {0};                             \
        int64_t i = 0;                                                                           \
        for (; i + CHAINS <= n; i += CHAINS)                                                     \
            for (int j = 0; j < CHAINS; ++j)                                                     \
                pipelined_##NAME(i + j, inverse, r, u, w, m, ru + j, wu + j, rr + j);            \
        for (; i < n; ++i)                                                                       \
            pipelined_##NAME(i, inverse, r, u, w, m, ru, wu, rr);                                \
        sums[0] = ADDED(ru), sums[1] = ADDED(wu), sums[2] = ADDED(rr);                           \
    }                                                                                            \
                                                                                                 \
    static void sums_part_##NAME(const void *const *a, int64_t first, int64_t last, void *sums)  \
    {                                                                                            \
        sums_##NAME(last - first, SHIFT(const T, 0, first), SHIFT(const T, 1, first),            \
                    SHIFT(const T, 2, first), SHIFT(const T, 3, first), SHIFT(T, 4, first), sums);\
    }                                                                                            \
                                                                                                 \
    /* m = inverse w;  sums = r . u, w . u, r . r. */                                            \
    void hpc_sla_pipelined_sums_##NAME(int64_t n, int64_t k, const T *inverse, const T *r,       \
                                       const T *u, const T *w, T *m, double *sums)               \
    {                                                                                            \
        const void *a[] = {inverse, r, u, w, m};                                                 \
        sums[0] = sums[1] = sums[2] = 0;                                                         \
        hpc_sla_run(n, k, NULL, sums_part_##NAME, a, 3, sizeof(double), sums);                   \
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
    static CLONED void step_##NAME(int64_t n, const T *alpha, const T *beta,                     \
                                   const T *restrict inverse, const T *restrict n_,              \
                                   T *restrict m, T *restrict z, T *restrict q, T *restrict s,   \
                                   T *restrict p, T *restrict x, T *restrict r, T *restrict u,   \
                                   T *restrict w, double *restrict sums)                         \
    {                                                                                            \
        double ru[CHAINS] = {0}, wu[CHAINS] = {0}, rr[CHAINS] = {0};                             \
        const T a = *alpha, b = *beta;                                                           \
        int64_t i = 0;                                                                           \
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
    }                                                                                            \
                                                                                                 \
    static void step_part_##NAME(const void *const *a, int64_t first, int64_t last, void *sums)  \
    {                                                                                            \
        T *v[9];                                                                                \
        for (int i = 0; i < 9; ++i)                                                             \
            v[i] = (T *)a[4 + i] + first;                                                        \
        step_##NAME(last - first, a[0], a[1], SHIFT(const T, 2, first),                          \
                    (const T *)a[3] + first, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7],     \
                    v[8], sums);                                                                 \
    }                                                                                            \
                                                                                                 \
    /* z = n + beta z;  q = m + beta q;  s = w + beta s;  p = u + beta p;                        \
     * x += alpha p;  r -= alpha s;  u -= alpha q;  w -= alpha z;  then as above. */             \
    void hpc_sla_pipelined_step_##NAME(int64_t n, int64_t k, const T *alpha, const T *beta,      \
                                       const T *inverse, const T *n_, T *m, T *z, T *q, T *s,    \
                                       T *p, T *x, T *r, T *u, T *w, double *sums)               \
    {                                                                                            \
        const void *a[] = {alpha, beta, inverse, n_, m, z, q, s, p, x, r, u, w};                 \
        sums[0] = sums[1] = sums[2] = 0;                                                         \
        hpc_sla_run(n, k, NULL, step_part_##NAME, a, 3, sizeof(double), sums);                   \
    }

DEFINE_PIPELINED(double, float64)
DEFINE_PIPELINED(float, float32)
