/* Steps of gmres with a pointwise preconditioner, up to the end of a cycle: `GMRES.step` of
 * linear/gmres.py. */
#include "burst.h"
#include "sweep.h"

#define DEFINE(T, NAME)                                                                          \
    void hpc_sla_basis_dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,           \
                                   int64_t targets, const T *basis, double *sums, T *out);       \
    void hpc_sla_basis_update_##NAME(int64_t n, int64_t k, int64_t j, T *basis, const T *sums,   \
                                     const T *found);                                            \
    void hpc_sla_basis_sweep_##NAME(int64_t n, int64_t k, int64_t phase, int64_t j,              \
                                    const hpc_sla_sweep *sweep, const T *sums, const T *found,   \
                                    T *part, T *out);                                            \
    void hpc_sla_hessenberg_step_##NAME(int64_t restart, int64_t k, int64_t j, const T *sums,    \
                                        const T *beta, const T *target, T *matrix, T *null,      \
                                        T *length, uint8_t *live, T *out);                       \
                                                                                                 \
    /* basis[j + 1] = A M^-1 basis[j], and this rank's inner products with both. */              \
    INLINE int arnoldi_##NAME(const hpc_sla_burst *b, int64_t j, T *mine)                        \
    {                                                                                            \
        const int64_t n = b->A->owned->rows;                                                     \
        T *basis = b->vectors[0], *work = b->vectors[1];                                         \
        const T *u = basis + j * n, *z = b->inverse ? work : u, *inverse = b->inverse;           \
        if (inverse)                                                                             \
            for (int64_t i = 0; i < n; ++i)                                                      \
                work[i] = u[i] * inverse[i];                                                     \
        const int code = burst_product_##NAME(b->A, z, basis + (j + 1) * n, NULL, NULL, NULL);   \
        hpc_sla_basis_dots_##NAME(n, 1, j + 2, j, 2, basis, b->vectors[2], mine);                \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* The same in one sweep, which makes the update of step j - 1 as well, where `sums` are     \
     * given: `Arnoldi.step`. */                                                                 \
    INLINE int swept_##NAME(const hpc_sla_burst *b, const hpc_sla_sweep *sweep, int64_t j,       \
                            const T *sums, T *mine)                                              \
    {                                                                                            \
        const hpc_sla_distributed *A = b->A;                                                     \
        const int64_t n = A->owned->rows;                                                        \
        const T *found = sums ? b->vectors[10] : NULL;                                           \
        T *part = b->vectors[11];                                                                \
        int code = 0;                                                                            \
        hpc_sla_basis_sweep_##NAME(n, 1, SWEEP_SEND, j, sweep, sums, found, A->send, NULL);      \
        if ((code = burst_start_requests(A)))                                                    \
            return code;                                                                         \
        hpc_sla_basis_sweep_##NAME(n, 1, SWEEP_MAIN, j, sweep, sums, found, NULL, NULL);         \
        code = burst_wait_requests(A);                                                           \
        if (!code && A->halo)                                                                    \
            hpc_sla_product_##NAME(1, A->halo, A->received, NULL, part, NULL, NULL, NULL);       \
        hpc_sla_basis_sweep_##NAME(n, 1, SWEEP_RECEIVE, j, sweep, NULL, NULL, part, mine);       \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* vectors: basis [cycle + 1, n], work, room (double [2, cycle + 1]), sums                   \
     * ([3, 2 (cycle + 1)]), then beta, target, matrix, null, length, live and found of the      \
     * small matrix, and the room of a sweep; numbers: done, cycle, the sweep (0: none),         \
     * whether an update is left to it. 0, or MPI's error. */                                    \
    int64_t hpc_sla_burst_gmres_##NAME(hpc_sla_burst *b)                                         \
    {                                                                                            \
        const hpc_sla_mpi *mpi = b->A->mpi;                                                      \
        const hpc_sla_sweep *sweep = (const hpc_sla_sweep *)(intptr_t)b->numbers[2];             \
        const int64_t n = b->A->owned->rows, cycle = b->numbers[1], each = 2 * (cycle + 1);      \
        const double begun = burst_now();                                                        \
        T *mine = b->vectors[3], *found = b->vectors[10];                                        \
        int64_t j = b->numbers[0];                                                               \
        int over = 0;                                                                            \
        while (!over && b->done < b->most && j < cycle) {                                        \
            T *sums = mine + (1 + j % 2) * each, *before = mine + (2 - j % 2) * each;            \
            int code = sweep ? swept_##NAME(b, sweep, j, b->numbers[3] ? before : NULL, mine)    \
                             : arnoldi_##NAME(b, j, mine);                                       \
            /* u . w is there twice: in place of the other, which is not used, goes the time. */ \
            mine[2 * j + 2] = (T)(burst_now() - begun);                                          \
            if (code || (code = burst_sum_##NAME(mpi, 2 * (int)(j + 2), mine, sums)))            \
                return code;                                                                     \
            hpc_sla_hessenberg_step_##NAME(cycle, 1, j, sums, b->vectors[4], b->vectors[5],      \
                                           b->vectors[6], b->vectors[7], b->vectors[8],          \
                                           b->vectors[9], found);                                \
            if (!sweep)                                                                          \
                hpc_sla_basis_update_##NAME(n, 1, j, b->vectors[0], sums, found);                \
            b->numbers[3] = sweep != NULL;                                                       \
            const double seconds = (double)sums[2 * j + 2] / (double)mpi->ranks;                 \
            const double norm = b->row[0] = found[2];                                            \
            ++j;                                                                                 \
            over = burst_over(b, norm, !(isfinite(norm) && norm > b->target), seconds);          \
        }                                                                                        \
        b->numbers[0] = j;                                                                       \
        return 0;                                                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
