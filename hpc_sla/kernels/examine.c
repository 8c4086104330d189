/* The true residual of a solution and how good it is, in one call: `System.examine` of
 * linear/method.py. */
#include "burst.h"

static int reduced(const hpc_sla_mpi *mpi, int count, const double *mine, double *all, intptr_t how)
{
    if (mpi->handle_size == sizeof(int))
        return ((hpc_sla_sum_ints)mpi->all_reduce)(mine, all, count, (int)mpi->doubles, (int)how,
                                                   (int)mpi->comm);
    return ((hpc_sla_sum_pointers)mpi->all_reduce)(mine, all, count, (void *)mpi->doubles,
                                                   (void *)how, (void *)mpi->comm);
}

/* What `judge` says on each rank becomes what it says of all rows: two largest numbers, NaN where
 * one is (what MPI makes of NaN is its own affair), and three sums. */
static int together(const hpc_sla_mpi *mpi, double *found)
{
    double mine[4], all[4];
    if (mpi->ranks == 1)
        return 0;
    for (int i = 0; i < 2; ++i) {
        mine[2 + i] = isnan(found[i]) ? 1 : 0;
        mine[i] = isnan(found[i]) ? -INFINITY : found[i];
    }
    int code = reduced(mpi, 4, mine, all, mpi->max);
    if (code)
        return code;
    for (int i = 0; i < 2; ++i)
        found[i] = all[2 + i] > 0 ? NAN : all[i];
    memcpy(mine, found + 2, 3 * sizeof(double));
    return reduced(mpi, 3, mine, found + 2, mpi->sum);
}

#define DEFINE(T, NAME)                                                                          \
    int64_t hpc_sla_absolute_##NAME(int64_t longest, int64_t k, const hpc_sla_matrix *A,         \
                                    const T *x, const int32_t *rows, T *y);                      \
    void hpc_sla_judge_##NAME(int64_t n, int64_t k, int64_t step, const T *b, const T *x,        \
                              const T *r, T *scale, double *found);                              \
    void hpc_sla_dot_##NAME(int64_t n, int64_t k, const T *x, const T *y, T *out);               \
                                                                                                 \
    /* r = b - A x, and found [1] = r . r over all ranks; or else, if `thorough`, scale [n] is   \
     * |A| |x| + |b|, from the halo of that product, and found [5] what `judge` says of all      \
     * rows. b is one number for a `step` of 0. 0, MPI's error, or -1 where there is no room for \
     * a row. */                                                                                 \
    int64_t hpc_sla_examine_##NAME(int64_t thorough, int64_t step, const hpc_sla_distributed *A, \
                                   const T *b, const T *x, T *r, T *scale, double *found)        \
    {                                                                                            \
        const int64_t n = A->owned->rows;                                                        \
        T square, sum;                                                                           \
        int code = burst_product_##NAME(A, x, r, NULL, NULL, NULL);                              \
        if (code)                                                                                \
            return code;                                                                         \
        for (int64_t i = 0; i < n; ++i)                                                          \
            r[i] = b[i * step] - r[i];                                                           \
        if (!thorough) {                                                                         \
            hpc_sla_dot_##NAME(n, 1, r, r, &square);                                             \
            code = burst_sum_##NAME(A->mpi, 1, &square, &sum);                                   \
            found[0] = sum;                                                                      \
            return code;                                                                         \
        }                                                                                        \
        int enough = (int)hpc_sla_absolute_##NAME(A->longest, 1, A->entries, x, NULL, scale);    \
        if (A->halo)                                                                             \
            hpc_sla_absolute_##NAME(0, 1, A->halo, A->received, A->boundary, scale);             \
        hpc_sla_judge_##NAME(n, 1, step, b, x, r, scale, found);                                 \
        code = together(A->mpi, found);                                                          \
        return code || enough ? code : -1;                                                       \
    }

DEFINE(double, float64)
DEFINE(float, float32)
