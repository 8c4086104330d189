/* Steps of gmres with a pointwise preconditioner, up to the end of a cycle: `GMRES.step` of
 * linear/gmres.py. */
#include "burst.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_basis_dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,           \
                                   int64_t targets, const T *basis, double *sums, T *out);       \
    void hpc_sla_basis_update_##NAME(int64_t n, int64_t k, int64_t j, T *basis, const T *sums,   \
                                     const T *found);                                            \
    void hpc_sla_hessenberg_step_##NAME(int64_t restart, int64_t k, int64_t j, const T *sums,    \
                                        const T *beta, const T *target, T *matrix, T *null,      \
                                        T *length, uint8_t *live, T *out);                       \
                                                                                                 \
    /* vectors: basis [cycle + 1, n], work, room (double [2, cycle + 1]), sums                   \
     * ([2, 2 (cycle + 1)]), then beta, target, matrix, null, length, live and found of the      \
     * small matrix; numbers: done, cycle. 0, or MPI's error. */                                 \
    int64_t hpc_sla_burst_gmres_##NAME(hpc_sla_burst *b)                                         \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows, cycle = b->numbers[1];                                 \
        const double begun = burst_now();                                                        \
        T *basis = b->vectors[0], *work = b->vectors[1], *mine = b->vectors[3];                  \
        T *sums = mine + 2 * (cycle + 1), *found = b->vectors[10];                               \
        int64_t j = b->numbers[0];                                                               \
        int code, over = 0;                                                                      \
        while (!over && b->done < b->most && j < cycle) {                                        \
            const T *u = basis + j * n, *z = u, *inverse = b->inverse;                           \
            if (inverse) {                                                                       \
                for (int64_t i = 0; i < n; ++i)                                                  \
                    work[i] = u[i] * inverse[i];                                                 \
                z = work;                                                                        \
            }                                                                                    \
            if ((code = burst_product_##NAME(A, z, basis + (j + 1) * n, NULL, NULL, NULL)))      \
                return code;                                                                     \
            hpc_sla_basis_dots_##NAME(n, 1, j + 2, j, 2, basis, b->vectors[2], mine);            \
            /* u . w is there twice: in place of the other, which is not used, goes the time. */ \
            mine[2 * j + 2] = (T)(burst_now() - begun);                                          \
            if ((code = burst_sum_##NAME(A->mpi, 2 * (int)(j + 2), mine, sums)))                 \
                return code;                                                                     \
            hpc_sla_hessenberg_step_##NAME(cycle, 1, j, sums, b->vectors[4], b->vectors[5],      \
                                           b->vectors[6], b->vectors[7], b->vectors[8],          \
                                           b->vectors[9], found);                                \
            hpc_sla_basis_update_##NAME(n, 1, j, basis, sums, found);                            \
            const double seconds = (double)sums[2 * j + 2] / (double)A->mpi->ranks;              \
            const double norm = b->row[0] = found[2];                                            \
            ++j;                                                                                 \
            over = burst_over(b, norm, !(isfinite(norm) && norm > b->target), seconds);          \
        }                                                                                        \
        b->numbers[0] = j;                                                                       \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
