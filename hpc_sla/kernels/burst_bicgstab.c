/* Steps of bicgstab with a pointwise preconditioner: `BiCGStab.step` of linear/bicgstab.py. */
#include "burst.h"

#include <float.h>

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_bicgstab_half_##NAME(int64_t n, int64_t k, const T *alpha, const T *v,          \
                                      const T *inverse, T *r, T *r_hat);                         \
    void hpc_sla_bicgstab_full_##NAME(int64_t n, int64_t k, const T *alpha, const T *omega,      \
                                      const T *p_hat, const T *s_hat, const T *t,                \
                                      const T *shadow, T *x, T *r, double *sums);                \
    void hpc_sla_bicgstab_turn_##NAME(int64_t n, int64_t k, const T *beta, const T *omega,       \
                                      const T *r, const T *v, const T *inverse, T *p);           \
                                                                                                 \
    /* vectors: x, r, shadow, p, v, t, s_hat; scalars: rho, shadow_square, live. 0, or MPI's     \
     * error. */                                                                                 \
    int64_t hpc_sla_burst_bicgstab_##NAME(hpc_sla_burst *b)                                      \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows;                                                        \
        const double begun = burst_now(), square = b->target * b->target;                        \
        const double eps = sizeof(T) == sizeof(double) ? DBL_EPSILON : FLT_EPSILON;              \
        const double tiny = eps * eps, shadow_square = b->scalars[1];                            \
        T *x = b->vectors[0], *r = b->vectors[1], *shadow = b->vectors[2], *p = b->vectors[3];   \
        T *v = b->vectors[4], *t = b->vectors[5], *s_hat = b->inverse ? b->vectors[6] : r;       \
        double rho = b->scalars[0], seconds, two[2];                                             \
        int live = b->scalars[2] != 0, code, over = 0;                                           \
        T mine[3], sums[3];                                                                      \
        while (!over && b->done < b->most) {                                                     \
            if ((code = burst_product_##NAME(A, p, v, shadow, mine, NULL)) ||                    \
                (code = burst_sum_##NAME(A->mpi, 1, mine, sums)))                                \
                return code;                                                                     \
            const double slope = sums[0];                                                        \
            int good = live && slope != 0;                                                       \
            const double alpha = good ? rho / slope : 0;                                         \
            const T a = (T)alpha;                                                                \
            hpc_sla_bicgstab_half_##NAME(n, 1, &a, v, b->inverse, r, s_hat);                     \
            if ((code = burst_product_##NAME(A, s_hat, t, r, mine, mine + 1)) ||                 \
                (code = burst_sum_##NAME(A->mpi, 2, mine, sums)))                                \
                return code;                                                                     \
            const double omega = good && sums[1] > 0 ? (double)sums[0] / sums[1] : 0;            \
            const T o = (T)omega;                                                                \
            two[0] = two[1] = 0;                                                                 \
            hpc_sla_bicgstab_full_##NAME(n, 1, &a, &o, p, s_hat, t, shadow, x, r, two);          \
            mine[0] = (T)two[0], mine[1] = (T)two[1];                                            \
            if ((code = burst_last_sum_##NAME(A->mpi, 2, mine, sums, begun, &seconds)))          \
                return code;                                                                     \
            const double next = sums[0], rr = sums[1];                                           \
            good = good && omega != 0;                                                           \
            const T beta = (T)((good ? next / rho : 0) * (good ? alpha / omega : 0));            \
            hpc_sla_bicgstab_turn_##NAME(n, 1, &beta, &o, r, v, b->inverse, p);                  \
            double cosine = good ? next / shadow_square : 0;                                     \
            cosine = rr > 0 ? cosine * (next / rr) : rr * 0 + 1.0;                               \
            rho = good ? next : rho;                                                             \
            live = good && rr > square && rr < INFINITY && next != 0 && cosine > tiny;           \
            b->row[0] = slope, b->row[1] = omega, b->row[2] = cosine, b->row[3] = rr;            \
            const int finite = isfinite(slope) && isfinite(omega) && isfinite(cosine) &&         \
                               isfinite(rr);                                                     \
            const int ended = !(finite && rr > square && slope != 0 && omega != 0 &&             \
                                cosine > tiny);                                                  \
            over = burst_over(b, burst_root(rr), ended, seconds);                                \
        }                                                                                        \
        b->scalars[0] = rho, b->scalars[2] = live;                                               \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
