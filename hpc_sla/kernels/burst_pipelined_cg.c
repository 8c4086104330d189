/* Steps of pipelined cg with a pointwise preconditioner: `PipelinedCG.step` of
 * linear/pipelined_cg.py. */
#include "burst.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_pipelined_sums_##NAME(int64_t n, int64_t k, const T *inverse, const T *r,       \
                                       const T *u, const T *w, T *m, double *sums);              \
    void hpc_sla_pipelined_step_##NAME(int64_t n, int64_t k, const T *alpha, const T *beta,      \
                                       const T *inverse, const T *n_, T *m, T *z, T *q, T *s,    \
                                       T *p, T *x, T *r, T *u, T *w, double *sums);              \
                                                                                                 \
    INLINE void precondition_##NAME(int64_t n, const T *inverse, const T *r, T *z)               \
    {                                                                                            \
        for (int64_t i = 0; i < n; ++i)                                                          \
            z[i] = inverse ? r[i] * inverse[i] : r[i];                                           \
    }                                                                                            \
                                                                                                 \
    /* PipelinedCG._replace. */                                                                  \
    INLINE int replace_##NAME(const hpc_sla_burst *b, const T *x, T *r, T *u, T *w, T *z, T *q,  \
                              T *s, const T *p, const T *right)                                  \
    {                                                                                            \
        const int64_t n = b->A->owned->rows;                                                     \
        int code = burst_product_##NAME(b->A, x, r, NULL, NULL, NULL);                           \
        for (int64_t i = 0; i < n; ++i)                                                          \
            r[i] = right[i] - r[i];                                                              \
        precondition_##NAME(n, b->inverse, r, u);                                                \
        code = code ? code : burst_product_##NAME(b->A, u, w, NULL, NULL, NULL);                 \
        code = code ? code : burst_product_##NAME(b->A, p, s, NULL, NULL, NULL);                 \
        precondition_##NAME(n, b->inverse, s, q);                                                \
        return code ? code : burst_product_##NAME(b->A, q, z, NULL, NULL, NULL);                 \
    }                                                                                            \
                                                                                                 \
    /* vectors: x, r, u, w, m, n, z, q, s, p, b; scalars: rho, delta, rr, rho_old, alpha_old,    \
     * live; numbers: first, since, replacement. 0, or MPI's error. */                           \
    int64_t hpc_sla_burst_pipelined_cg_##NAME(hpc_sla_burst *b)                                  \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows;                                                        \
        const double begun = burst_now(), square = b->target * b->target;                        \
        T *x = b->vectors[0], *r = b->vectors[1], *u = b->vectors[2], *w = b->vectors[3];        \
        T *m = b->vectors[4], *n_ = b->vectors[5], *z = b->vectors[6], *q = b->vectors[7];       \
        T *s = b->vectors[8], *p = b->vectors[9];                                                \
        double rho = b->scalars[0], delta = b->scalars[1], rr = b->scalars[2];                   \
        double rho_old = b->scalars[3], alpha_old = b->scalars[4], three[3];                     \
        int live = b->scalars[5] != 0, first = (int)b->numbers[0], code, over = 0;               \
        int64_t since = b->numbers[1];                                                           \
        T mine[4], sums[4];                                                                      \
        while (!over && b->done < b->most) {                                                     \
            int good = live;                                                                     \
            double beta = good ? rho / rho_old : 0;                                              \
            const double fresh = beta * 0 + (first ? 1.0 : 0.0);                                 \
            if (first)                                                                           \
                beta = beta * 0, first = 0;                                                      \
            const double curvature = delta - (good ? beta * rho / alpha_old : 0);                \
            good = good && curvature > 0;                                                        \
            const double alpha = good ? rho / curvature : 0;                                     \
            const T coefficients[2] = {(T)alpha, (T)beta};                                       \
            three[0] = three[1] = three[2] = 0;                                                  \
            hpc_sla_pipelined_step_##NAME(n, 1, coefficients, coefficients + 1, b->inverse, n_,  \
                                          m, z, q, s, p, x, r, u, w, three);                     \
            rho_old = good ? rho : rho_old, alpha_old = good ? alpha : alpha_old;                \
            if (++since == b->numbers[2]) {                                                      \
                since = 0;                                                                       \
                if ((code = replace_##NAME(b, x, r, u, w, z, q, s, p, b->vectors[10])))          \
                    return code;                                                                 \
                hpc_sla_pipelined_sums_##NAME(n, 1, b->inverse, r, u, w, m, three);              \
            }                                                                                    \
            for (int i = 0; i < 3; ++i)                                                          \
                mine[i] = (T)three[i];                                                           \
            mine[3] = (T)(burst_now() - begun);                                                  \
            if ((code = burst_start_sum_##NAME(A->mpi, 4, mine, sums)) ||                        \
                (code = burst_product_##NAME(A, m, n_, NULL, NULL, NULL)) ||                     \
                (code = burst_finish(A->mpi)))                                                   \
                return code;                                                                     \
            rho = sums[0], delta = sums[1], rr = sums[2];                                        \
            live = good && rr > square && rho > 0 && rho < INFINITY;                             \
            b->row[0] = curvature, b->row[1] = rho, b->row[2] = rr, b->row[3] = fresh;           \
            const int finite = isfinite(curvature) && isfinite(rho) && isfinite(rr) &&           \
                               isfinite(fresh);                                                  \
            const int ended = !(finite && curvature > 0 && rr > square && rho > 0);              \
            over = burst_over(b, burst_root(rr), ended, (double)sums[3] / A->mpi->ranks);        \
        }                                                                                        \
        const double left[6] = {rho, delta, rr, rho_old, alpha_old, live};                       \
        for (int i = 0; i < 6; ++i)                                                              \
            b->scalars[i] = left[i];                                                             \
        b->numbers[0] = first, b->numbers[1] = since;                                            \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
