/* Many steps of a Krylov method in one call: what the methods share.
 *
 * A step does what the method's `step` in Python does: the same compiled loops on the same arguments
 * in the same order, the same arithmetic of scalars in doubles, so that every bit is the same.
 *
 * MPI's functions come by pointer from the library that the process has loaded; neither mpi.h nor
 * a compiler wrapper is needed. Everything is laid out as in `hpc_sla.kernels.burst`. */
#ifndef HPC_SLA_BURST_H
#define HPC_SLA_BURST_H

#include "matrix.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* No a * b + c in one rounding where Python has two. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

/* Handles are ints in some MPI libraries and pointers in others. */
typedef int (*hpc_sla_sum_ints)(const void *, void *, int, int, int, int);
typedef int (*hpc_sla_sum_pointers)(const void *, void *, int, void *, void *, void *);
typedef int (*hpc_sla_start_sum_ints)(const void *, void *, int, int, int, int, void *);
typedef int (*hpc_sla_start_sum_pointers)(const void *, void *, int, void *, void *, void *,
                                          void *);

typedef struct {
    int64_t ranks; /* With 1, nothing of what follows is used. */
    int64_t handle_size;
    int (*start_all)(int, void *);
    int (*wait_all)(int, void *, void *);
    int (*wait)(void *, void *);
    void (*all_reduce)(void);
    void (*start_all_reduce)(void);
    intptr_t comm, type, sum;
    void *request, *status; /* Room for one each. */
    intptr_t doubles, max; /* The type of them, and the operation. */
} hpc_sla_mpi;

/* A distributed matrix: `DistributedPattern.matmul`. */
typedef struct {
    const hpc_sla_mpi *mpi;
    const hpc_sla_matrix *owned, *halo; /* No halo: NULL. */
    const int32_t *boundary, *send_index;
    int64_t n_send;
    void *send, *received;
    int64_t n_requests;
    void *requests, *statuses;
    void *const *owners; /* Where each request's handle is kept, by mpi4py. */
    /* The owned block to be read row by row, and the entries of its longest row, where its form
     * needs room for one; else 0. */
    const hpc_sla_matrix *entries;
    int64_t longest;
} hpc_sla_distributed;

typedef struct {
    const hpc_sla_distributed *A;
    const void *inverse; /* The pointwise preconditioner's [n]; NULL for ones. */
    void *vectors[16];
    double scalars[12]; /* What a step hands to the next, in and out. */
    int64_t numbers[4];
    /* When to stop: after so many steps or seconds; but for `through`, as soon as the method's
     * own residual norm may end it (see Outcome), too. */
    int64_t most, through;
    double seconds;
    double target, ceiling, best;
    int64_t since_best, patience;
    /* What comes back: how many steps, their norms [most], and what the last one has recorded. */
    int64_t done;
    double *norms;
    double row[4];
    /* Another preconditioner: `CompiledApply`; NULL for a pointwise one. */
    int64_t (*apply)(const void *data, const void *r, void *out);
    const void *applied;
    /* Whether to do the method's `start` first, of which alone `row` tells if it ends there. */
    int64_t fresh;
} hpc_sla_burst;

INLINE double burst_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

INLINE double burst_root(double square)
{
    return square >= 0 ? sqrt(square) : NAN;
}

/* A step is done: whether that was the last, the same on all ranks. `ended`: whether `classify`
 * finds anything; `seconds`: since the burst began, in the mean of all ranks. */
INLINE int burst_over(hpc_sla_burst *b, double norm, int ended, double seconds)
{
    b->norms[b->done++] = norm;
    ++b->since_best;
    if (norm < b->best)
        b->best = norm, b->since_best = 0;
    if (!b->through && (ended || norm > b->ceiling || b->since_best > b->patience))
        return 1;
    /* Not if the next step would take it too far. */
    return seconds * (double)(b->done + 1) > b->seconds * (double)b->done;
}

/* MPI may give a persistent request another handle as it starts, and the old one is gone. */
INLINE int burst_start_requests(const hpc_sla_distributed *A)
{
    if (!A->n_requests)
        return 0;
    const size_t size = (size_t)A->mpi->handle_size;
    char *handles = A->requests;
    for (int64_t i = 0; i < A->n_requests; ++i)
        memcpy(handles + i * size, A->owners[i], size);
    const int code = A->mpi->start_all((int)A->n_requests, handles);
    for (int64_t i = 0; i < A->n_requests; ++i)
        memcpy(A->owners[i], handles + i * size, size);
    return code;
}

INLINE int burst_wait_requests(const hpc_sla_distributed *A)
{
    return A->n_requests ? A->mpi->wait_all((int)A->n_requests, A->requests, A->statuses) : 0;
}

INLINE int burst_finish(const hpc_sla_mpi *mpi)
{
    return mpi->ranks == 1 ? 0 : mpi->wait(mpi->request, mpi->status);
}

#define DEFINE_BURST(T, NAME)                                                                    \
    /* y = A x, and inner products of this rank as of matrix.h; 0, or MPI's error. */            \
    INLINE int burst_product_##NAME(const hpc_sla_distributed *A, const T *x, T *y, const T *w,  \
                                    T *dot, T *square)                                           \
    {                                                                                            \
        T *send = A->send;                                                                       \
        int code;                                                                                \
        for (int64_t i = 0; i < A->n_send; ++i)                                                  \
            send[i] = x[A->send_index[i]];                                                       \
        code = burst_start_requests(A);                                                          \
        if (code)                                                                                \
            return code;                                                                         \
        if (dot)                                                                                 \
            *dot = 0;                                                                            \
        if (square)                                                                              \
            *square = 0;                                                                         \
        hpc_sla_product_##NAME(1, A->owned, x, NULL, y, w, dot, square);                         \
        code = burst_wait_requests(A);                                                           \
        if (!code && A->halo)                                                                    \
            hpc_sla_product_##NAME(1, A->halo, A->received, A->boundary, y, w, dot, square);     \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* total = the sum over ranks of mine [count]; 0, or MPI's error. */                         \
    INLINE int burst_sum_##NAME(const hpc_sla_mpi *mpi, int count, const T *mine, T *total)      \
    {                                                                                            \
        if (mpi->ranks == 1) {                                                                   \
            for (int i = 0; i < count; ++i)                                                      \
                total[i] = mine[i];                                                              \
            return 0;                                                                            \
        }                                                                                        \
        if (mpi->handle_size == sizeof(int))                                                     \
            return ((hpc_sla_sum_ints)mpi->all_reduce)(mine, total, count, (int)mpi->type,       \
                                                       (int)mpi->sum, (int)mpi->comm);           \
        return ((hpc_sla_sum_pointers)mpi->all_reduce)(mine, total, count, (void *)mpi->type,    \
                                                       (void *)mpi->sum, (void *)mpi->comm);     \
    }                                                                                            \
                                                                                                 \
    /* The same, the last of a step: the time since `begun` goes along, in mine[count], and      \
     * comes back as the mean of all ranks, for `burst_over`. */                                 \
    INLINE int burst_last_sum_##NAME(const hpc_sla_mpi *mpi, int count, T *mine, T *total,       \
                                     double begun, double *seconds)                              \
    {                                                                                            \
        mine[count] = (T)(burst_now() - begun);                                                  \
        const int code = burst_sum_##NAME(mpi, count + 1, mine, total);                          \
        *seconds = (double)total[count] / (double)mpi->ranks;                                    \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* Begin one, in two halves: `burst_finish` is the other. */                                 \
    INLINE int burst_start_sum_##NAME(const hpc_sla_mpi *mpi, int count, const T *mine,          \
                                      T *total)                                                  \
    {                                                                                            \
        if (mpi->ranks == 1)                                                                     \
            return burst_sum_##NAME(mpi, count, mine, total);                                    \
        if (mpi->handle_size == sizeof(int))                                                     \
            return ((hpc_sla_start_sum_ints)mpi->start_all_reduce)(                              \
                mine, total, count, (int)mpi->type, (int)mpi->sum, (int)mpi->comm,               \
                mpi->request);                                                                   \
        return ((hpc_sla_start_sum_pointers)mpi->start_all_reduce)(                              \
            mine, total, count, (void *)mpi->type, (void *)mpi->sum, (void *)mpi->comm,          \
            mpi->request);                                                                       \
    }

DEFINE_BURST(double, float64)
DEFINE_BURST(float, float32)

#endif
