/* Steps of minres with a pointwise preconditioner: `MINRES.step` of linear/minres.py. */
#include "burst.h"

#define SWAP(T, a, b)  \
    do {               \
        T *kept = (a); \
        (a) = (b);     \
        (b) = kept;    \
    } while (0)

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_minres_lanczos_##NAME(int64_t n, int64_t k, const T *back, const T *delta,      \
                                       const T *scale, const T *v, const T *r,                   \
                                       const T *inverse, T *v_old, T *q, double *sums);          \
    void hpc_sla_minres_direction_##NAME(int64_t n, int64_t k, const T *older, const T *old,     \
                                         const T *scale, const T *step, const T *shrink,         \
                                         const T *turn, const T *z, const T *w, const T *v,      \
                                         T *w_old, T *x, T *r);                                  \
                                                                                                 \
    /* vectors: x, r, v, v_old, w, w_old, z, q, of which each pair from v on has changed places  \
     * after each step; scalars: gamma, gamma_old, eta, c, c_old, s, s_old, rr, live. 0, or      \
     * MPI's error. */                                                                           \
    int64_t hpc_sla_burst_minres_##NAME(hpc_sla_burst *b)                                        \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows;                                                        \
        const double begun = burst_now(), limit = b->target * b->target;                         \
        T *x = b->vectors[0], *r = b->vectors[1], *v = b->vectors[2], *v_old = b->vectors[3];    \
        T *w = b->vectors[4], *w_old = b->vectors[5], *z = b->vectors[6], *q = b->vectors[7];    \
        double gamma = b->scalars[0], gamma_old = b->scalars[1], eta = b->scalars[2];            \
        double c = b->scalars[3], c_old = b->scalars[4], s = b->scalars[5];                      \
        double s_old = b->scalars[6], rr = b->scalars[7], seconds, three[3];                     \
        int live = b->scalars[8] != 0, code, over = 0;                                           \
        T mine[4], sums[4];                                                                      \
        while (!over && b->done < b->most) {                                                     \
            if ((code = burst_product_##NAME(A, z, q, z, mine, NULL)) ||                         \
                (code = burst_sum_##NAME(A->mpi, 1, mine, sums)))                                \
                return code;                                                                     \
            int good = live;                                                                     \
            const double inverse = good ? (gamma * 0 + 1.0) / gamma : 0;                         \
            const double delta = sums[0] * inverse * inverse;                                    \
            const double back = good ? gamma / gamma_old : 0;                                    \
            const T lanczos[3] = {(T)(back * gamma), (T)delta, (T)inverse};                      \
            three[0] = three[1] = three[2] = 0;                                                  \
            hpc_sla_minres_lanczos_##NAME(n, 1, lanczos, lanczos + 1, lanczos + 2, v, r,         \
                                          b->inverse, v_old, q, three);                          \
            SWAP(T, v, v_old);                                                                   \
            for (int i = 0; i < 3; ++i)                                                          \
                mine[i] = (T)three[i];                                                           \
            if ((code = burst_last_sum_##NAME(A->mpi, 3, mine, sums, begun, &seconds)))          \
                return code;                                                                     \
            const double square = sums[0], vr = sums[1], vv = sums[2];                           \
            const double gamma_new = burst_root(square > 0 ? square : square * 0);               \
            const double a0 = c * delta - c_old * s * gamma;                                     \
            const double a1 = burst_root(a0 * a0 + gamma_new * gamma_new);                       \
            const double a2 = s * delta + c_old * c * gamma, a3 = s_old * gamma;                 \
            good = good && a1 > 0;                                                               \
            const double inverse_a1 = good ? (a1 * 0 + 1.0) / a1 : 0;                            \
            const double c_new = a0 * inverse_a1, s_new = gamma_new * inverse_a1;                \
            const double eta_new = -s_new * eta;                                                 \
            const double shrink = good ? s_new * s_new : s_new * 0 + 1.0;                        \
            const double turn = good && gamma_new > 0 ? c_new * eta_new / gamma_new : 0;         \
            rr = shrink * shrink * rr + 2 * shrink * turn * vr + turn * turn * vv;               \
            const T direction[6] = {(T)(a3 * gamma),          (T)(a2 * gamma),                   \
                                    (T)(inverse_a1 * inverse), (T)(c_new * eta),                 \
                                    (T)shrink,                (T)turn};                          \
            hpc_sla_minres_direction_##NAME(n, 1, direction, direction + 1, direction + 2,       \
                                            direction + 3, direction + 4, direction + 5, z, w,   \
                                            v, w_old, x, r);                                     \
            SWAP(T, w, w_old);                                                                   \
            SWAP(T, z, q);                                                                       \
            gamma_old = gamma, gamma = gamma_new, eta = eta_new;                                 \
            c_old = c, c = c_new, s_old = s, s = s_new;                                          \
            live = good && rr > limit && square > 0 && square < INFINITY;                        \
            b->row[0] = square, b->row[1] = a1, b->row[2] = rr;                                  \
            const int finite = isfinite(square) && isfinite(a1) && isfinite(rr);                 \
            const int ended = !(finite && rr > limit && square > 0 && a1 != 0);                  \
            over = burst_over(b, burst_root(0 > rr ? 0 : rr), ended, seconds);                   \
        }                                                                                        \
        const double left[9] = {gamma, gamma_old, eta, c, c_old, s, s_old, rr, live};            \
        for (int i = 0; i < 9; ++i)                                                              \
            b->scalars[i] = left[i];                                                             \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
