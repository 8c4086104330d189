/* Steps of conjugate gradients: `CG.start` and `CG.step` of linear/cg.py. */
#include "burst.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_residual_##NAME(int64_t n, int64_t k, const T *alpha, const T *q,               \
                                 const T *inverse, T *r, T *out);                                \
    void hpc_sla_direction_##NAME(int64_t n, int64_t k, const T *alpha, const T *beta,           \
                                  const T *r, const T *inverse, T *x, T *p);                     \
    void hpc_sla_dot_##NAME(int64_t n, int64_t k, const T *x, const T *y, T *out);               \
                                                                                                 \
    /* vectors: x, r, p, q; scalars: rho, rr, live. 0, or MPI's error. */                        \
    int64_t hpc_sla_burst_cg_##NAME(hpc_sla_burst *b)                                            \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows;                                                        \
        const double begun = burst_now(), square = b->target * b->target;                        \
        T *x = b->vectors[0], *r = b->vectors[1], *p = b->vectors[2], *q = b->vectors[3];        \
        double rho = b->scalars[0], rr = b->scalars[1], seconds;                                 \
        int live = b->scalars[2] != 0, code, over = 0;                                           \
        T mine[3], sums[3];                                                                      \
        if (b->fresh) {                                                                          \
            b->fresh = 0;                                                                        \
            if (b->apply && (code = (int)b->apply(b->applied, r, p)))                            \
                return code;                                                                     \
            for (int64_t i = 0; i < n && !b->apply; ++i)                                         \
                p[i] = b->inverse ? r[i] * ((const T *)b->inverse)[i] : r[i];                    \
            hpc_sla_dot_##NAME(n, 1, r, p, mine);                                                \
            hpc_sla_dot_##NAME(n, 1, r, r, mine + 1);                                            \
            if ((code = burst_sum_##NAME(A->mpi, 2, mine, sums)))                                \
                return code;                                                                     \
            rho = sums[0], rr = sums[1];                                                         \
            live = rr > square && rho > 0 && rho < INFINITY;                                     \
            b->row[0] = rho * 0 + 1.0, b->row[1] = rho, b->row[2] = rr;                          \
            over = !(isfinite(rho) && isfinite(rr) && rr > square && rho > 0);                   \
        }                                                                                        \
        while (!over && b->done < b->most) {                                                     \
            if ((code = burst_product_##NAME(A, p, q, p, mine, NULL)) ||                         \
                (code = burst_sum_##NAME(A->mpi, 1, mine, sums)))                                \
                return code;                                                                     \
            const double curvature = sums[0];                                                    \
            const int good = live && curvature > 0;                                              \
            const T alpha = (T)(good ? rho / curvature : 0);                                     \
            hpc_sla_residual_##NAME(n, 1, &alpha, q, b->inverse, r, mine);                       \
            if (b->apply) {                                                                      \
                if ((code = (int)b->apply(b->applied, r, q)))                                    \
                    return code;                                                                 \
                hpc_sla_dot_##NAME(n, 1, r, q, mine);                                            \
            }                                                                                    \
            if ((code = burst_last_sum_##NAME(A->mpi, 2, mine, sums, begun, &seconds)))          \
                return code;                                                                     \
            const T beta = (T)(good ? sums[0] / rho : 0);                                        \
            hpc_sla_direction_##NAME(n, 1, &alpha, &beta, b->apply ? q : r, b->inverse, x, p);   \
            rho = sums[0], rr = sums[1];                                                         \
            live = good && rr > square && rho > 0 && rho < INFINITY;                             \
            b->row[0] = curvature, b->row[1] = rho, b->row[2] = rr;                              \
            const int finite = isfinite(curvature) && isfinite(rho) && isfinite(rr);             \
            const int ended = !(finite && curvature > 0 && rr > square && rho > 0);              \
            over = burst_over(b, burst_root(rr), ended, seconds);                                \
        }                                                                                        \
        b->scalars[0] = rho, b->scalars[1] = rr, b->scalars[2] = live;                           \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
