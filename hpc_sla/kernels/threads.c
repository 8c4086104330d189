/* Threads come from the OpenMP library that torch has loaded, by pointer: with a library of our own
 * a process had two crews, each waiting in a loop for its next work on the cores that the other
 * needs. So no compiler need know of OpenMP. `hpc_sla.kernels.native` finds it. */
#include <stdlib.h>
#include <string.h>

#include "threads.h"

/* Fewer numbers are not worth the microseconds that a crew takes to come and go. */
#define WORTH 16384
#define MOST 256

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void), (*threads_here)(void), (*threads_wanted)(void), (*inside)(void);

/* GOMP_parallel, omp_get_thread_num, omp_get_num_threads, omp_get_max_threads and omp_in_parallel of
 * one library; all NULL for no threads. */
void hpc_sla_use_threads(void *run, void *number, void *here, void *wanted, void *in_parallel)
{
    memcpy(&parallel, &run, sizeof run);
    memcpy(&thread_number, &number, sizeof number);
    memcpy(&threads_here, &here, sizeof here);
    memcpy(&threads_wanted, &wanted, sizeof wanted);
    memcpy(&inside, &in_parallel, sizeof in_parallel);
}

int64_t hpc_sla_parts(int64_t n, int64_t k)
{
    if (n < 1 || k < 1)
        return 1;
    const int64_t most = n < INT64_MAX / k ? n * k / WORTH : n;
    if (most < 2 || !parallel || inside())
        return 1;
    const int64_t wanted = threads_wanted();
    const int64_t parts = wanted < most ? wanted : most;
    return parts < MOST ? parts : MOST;
}

typedef struct {
    int64_t n, parts;
    const int32_t *indptr;
    hpc_sla_part *part;
    const void *const *a;
    size_t stride;
    char *sums;
} crew;

/* Where part p begins: at a multiple of 16 rows, so that parts share no line of the cache. */
static int64_t begin(const crew *c, int64_t p)
{
    if (p == c->parts)
        return c->n;
    int64_t row = c->n / c->parts * p;
    if (c->indptr) {
        const int64_t entries = (int64_t)c->indptr[c->n] - c->indptr[0];
        const int64_t wanted = c->indptr[0] + entries / c->parts * p;
        int64_t low = 0, high = c->n;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (c->indptr[middle] < wanted)
                low = middle + 1;
            else
                high = middle;
        }
        /* Half by rows, half by entries: a row costs its vectors, too. */
        row = row / 2 + low / 2;
    }
    return row & ~(int64_t)15;
}

static void work(void *data)
{
    const crew *c = data;
    /* The crew may be smaller than was asked for. */
    for (int64_t p = thread_number(); p < c->parts; p += threads_here())
        c->part(c->a, begin(c, p), begin(c, p + 1), c->sums + p * c->stride);
}

void hpc_sla_run(int64_t n, int64_t k, const int32_t *indptr, hpc_sla_part *part,
                 const void *const *a, int64_t count, size_t size, void *sums)
{
    const int64_t parts = hpc_sla_parts(n, k);
    /* Sums of two parts do not share a line either. */
    const size_t stride = (count * size + 127) / 64 * 64;
    char few[8192], *room = few;
    if (parts > 1 && parts * stride > sizeof few)
        room = malloc(parts * stride);
    if (parts == 1 || !room) {
        part(a, 0, n, sums);
        return;
    }
    memset(room, 0, parts * stride);
    crew c = {n, parts, indptr, part, a, stride, room};
    parallel(work, &c, (unsigned)parts, 0);
    for (int64_t i = 0; i < count; ++i) {
        double sum = 0;
        for (int64_t p = 0; p < parts; ++p) {
            const void *at = room + p * stride + i * size;
            sum += size == sizeof(double) ? *(const double *)at : *(const float *)at;
        }
        if (size == sizeof(double))
            ((double *)sums)[i] += sum;
        else
            ((float *)sums)[i] += (float)sum;
    }
    if (room != few)
        free(room);
}
