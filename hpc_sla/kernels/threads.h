/* Loops in parts, one a thread. */
#ifndef HPC_SLA_THREADS_H
#define HPC_SLA_THREADS_H

#include "native.h"

/* Rows first to last of a loop whose arguments are `a`; inner products are added to `sums`. */
typedef void hpc_sla_part(const void *const *a, int64_t first, int64_t last, void *sums);

/* Run a loop over n rows of k columns in as many parts as there are threads and as pay, and add the
 * `count` inner products (of `size` bytes) of each to `sums`, part after part: the same bits each
 * time for so many threads. Parts have as many rows each or, with indptr, as many entries. */
void hpc_sla_run(int64_t n, int64_t k, const int32_t *indptr, hpc_sla_part *part,
                 const void *const *a, int64_t count, size_t size, void *sums);

/* How many parts that would be. */
int64_t hpc_sla_parts(int64_t n, int64_t k);

/* An argument of k (or 1, or no) values a row, from the part's first row on. */
#define SHIFT(T, i, by) (a[i] ? (T *)a[i] + (by) : NULL)

#endif
