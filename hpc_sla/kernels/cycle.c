/* A multigrid cycle in one call: what `Cycle.apply` of precond/amg/cycle.py does, by the same loops
 * in the same order, so that every bit is the same. Vectors are [n] or [n, k] by rows.
 *
 * Everything is laid out as in `hpc_sla.kernels.cycle`. Functions return 0, or MPI's error. */
#include <string.h>

#include "burst.h"
#include "threads.h"

/* The last level's: this rank's rows of the inverse, [rows, n]. */
typedef struct {
    const hpc_sla_mpi *mpi;
    int64_t rows, start, n;
    const void *inverse;
    void *mine, *whole; /* [n]; with one rank unused. */
} hpc_sla_dense;

typedef struct {
    int64_t rows;
    const hpc_sla_distributed *A;
    const hpc_sla_distributed *down, *up; /* To the next level and back; NULL on the last. */
    const void *inverse, *coefficients; /* Of the smoother: [rows], [steps, 2]. */
    int64_t steps;
    void *work[3];
    void *coarse[3]; /* Of the next level; without entries where this rank takes no part in it. */
    int64_t goes_on; /* Whether it does. */
    const hpc_sla_dense *direct; /* Or NULL. */
} hpc_sla_level;

typedef struct {
    const hpc_sla_level *levels;
    int64_t twice; /* W: each coarse problem by two cycles. */
    int64_t k, size; /* Columns; bytes of a number in the vectors from outside, in which units and */
    double scale; /* the scale are, too. */
    const void *before, *after; /* Units, [rows]; NULL for ones. */
    int64_t n_alone; /* Rows that are solved by their own inverse, and are 0 to the cycle. */
    const int64_t *alone;
    const void *inverse;
    void *b; /* r in the cycle's numbers. */
} hpc_sla_cycle;

#define DEFINE(T, NAME)                                                                          \
    static CLONED void dense_part_##NAME(const void *const *a, int64_t begin, int64_t end,       \
                                         void *none)                                             \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0], n = *(const int64_t *)a[1];                    \
        const T *restrict M = a[2], *restrict x = a[3];                                          \
        T *restrict out = (T *)a[4];                                                             \
        (void)none;                                                                              \
        for (int64_t i = begin; i < end; ++i) {                                                  \
            const T *row = M + i * n;                                                            \
            if (k == 1) {                                                                        \
                T sums[32] = {0}, sum = 0;                                                       \
                int64_t c = 0;                                                                   \
                for (; c + 32 <= n; c += 32)                                                     \
                    for (int j = 0; j < 32; ++j)                                                 \
                        sums[j] += row[c + j] * x[c + j];                                        \
                for (; c < n; ++c)                                                               \
                    sum += row[c] * x[c];                                                        \
                for (int half = 16; half; half /= 2)                                             \
                    for (int j = 0; j < half; ++j)                                               \
                        sums[j] += sums[j + half];                                               \
                out[i] = sums[0] + sum;                                                          \
                continue;                                                                        \
            }                                                                                    \
            for (int64_t first = 0; first < k; first += WIDTH) {                                 \
                const int64_t width = k - first < WIDTH ? k - first : WIDTH;                     \
                T sums[WIDTH] = {0};                                                             \
                for (int64_t c = 0; c < n; ++c)                                                  \
                    for (int64_t j = 0; j < width; ++j)                                          \
                        sums[j] += row[c] * x[c * k + first + j];                                \
                for (int64_t j = 0; j < width; ++j)                                              \
                    out[i * k + first + j] = sums[j];                                            \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* out = M x for a dense M [rows, n] and x [n, k]. */                                        \
    void hpc_sla_dense_##NAME(int64_t rows, int64_t k, int64_t n, const T *M, const T *x, T *out)\
    {                                                                                            \
        const void *a[] = {&k, &n, M, x, out};                                                   \
        hpc_sla_run(rows, n * k, NULL, dense_part_##NAME, a, 0, 0, NULL);                        \
    }                                                                                            \
                                                                                                 \
    static int direct_##NAME(const hpc_sla_dense *D, int64_t k, const T *b, T *out)              \
    {                                                                                            \
        int code = 0;                                                                            \
        if (D->mpi->ranks > 1) {                                                                 \
            memset(D->mine, 0, D->n * k * sizeof(T));                                            \
            memcpy((T *)D->mine + D->start * k, b, D->rows * k * sizeof(T));                     \
            code = burst_sum_##NAME(D->mpi, (int)(D->n * k), D->mine, D->whole);                 \
            b = D->whole;                                                                        \
        }                                                                                        \
        hpc_sla_dense_##NAME(D->rows, k, D->n, D->inverse, b, out);                              \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    INLINE int start_##NAME(const hpc_sla_distributed *A, int64_t k, const T *x)                 \
    {                                                                                            \
        T *send = A->send;                                                                       \
        for (int64_t i = 0; i < A->n_send; ++i)                                                  \
            for (int64_t j = 0; j < k; ++j)                                                      \
                send[i * k + j] = x[A->send_index[i] * k + j];                                   \
        return burst_start_requests(A);                                                          \
    }                                                                                            \
                                                                                                 \
    INLINE int finish_##NAME(const hpc_sla_distributed *A)                                       \
    {                                                                                            \
        return burst_wait_requests(A);                                                           \
    }                                                                                            \
                                                                                                 \
    /* out = b + scale A x; b may be out. */                                                     \
    static int affine_##NAME(const hpc_sla_distributed *A, int64_t k, T scale, const T *x,       \
                             const T *b, T *out)                                                 \
    {                                                                                            \
        int code = start_##NAME(A, k, x);                                                        \
        if (code)                                                                                \
            return code;                                                                         \
        hpc_sla_affine_##NAME(k, A->owned, x, NULL, b, &scale, out);                             \
        code = finish_##NAME(A);                                                                 \
        if (!code && A->halo)                                                                    \
            hpc_sla_affine_##NAME(k, A->halo, A->received, A->boundary, NULL, &scale, out);      \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* A step of the smoother: relax.c. */                                                       \
    static int relax_##NAME(const hpc_sla_level *L, int64_t k, const T *step, const T *x,        \
                            const T *b, const T *before, T *after, T *out)                       \
    {                                                                                            \
        const hpc_sla_distributed *A = L->A;                                                     \
        const T *d = L->inverse;                                                                 \
        int code = start_##NAME(A, k, x);                                                        \
        if (code)                                                                                \
            return code;                                                                         \
        hpc_sla_relax_##NAME(k, A->owned, x, x, NULL, b, d, step, before, after, out);           \
        code = finish_##NAME(A);                                                                 \
        if (!code && A->halo)                                                                    \
            hpc_sla_relax_##NAME(k, A->halo, A->received, NULL, A->boundary, NULL, d, step,      \
                                 NULL, after, out);                                              \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    static CLONED void begin_part_##NAME(const void *const *a, int64_t first, int64_t last,      \
                                         void *none)                                             \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const T *restrict b = a[1], *restrict d = a[2];                                          \
        T *restrict out = (T *)a[3];                                                             \
        (void)none;                                                                              \
        if (k == 1)                                                                              \
            for (int64_t i = first; i < last; ++i)                                               \
                out[i] = b[i] * d[i];                                                            \
        else                                                                                     \
            for (int64_t i = first; i < last; ++i)                                               \
                for (int64_t j = i * k; j < i * k + k; ++j)                                      \
                    out[j] = b[j] * d[i];                                                        \
    }                                                                                            \
                                                                                                 \
    /* The smoother's first step from zero, in work[0]. */                                       \
    static void begin_##NAME(const hpc_sla_level *L, int64_t k, const T *b)                      \
    {                                                                                            \
        const void *a[] = {&k, b, L->inverse, L->work[0]};                                       \
        hpc_sla_run(L->rows, k, NULL, begin_part_##NAME, a, 0, 0, NULL);                         \
    }                                                                                            \
                                                                                                 \
    /* *x = the smoother's steps from *x, or with `begun` those after the first, which gave *x. */\
    static int smooth_##NAME(const hpc_sla_level *L, int64_t k, const T *b, int begun, T **x)    \
    {                                                                                            \
        T *first = L->work[0], *second = L->work[1], *direction = L->work[2];                    \
        T *before = begun ? *x : NULL;                                                           \
        const T *steps = L->coefficients;                                                        \
        for (int64_t step = begun; step < L->steps; ++step) {                                    \
            T *out = *x == first ? second : first;                                               \
            T *after = step + 1 < L->steps ? direction : NULL;                                   \
            const int code =                                                                     \
                relax_##NAME(L, k, steps + 2 * step, *x, b, before, after, out);                 \
            if (code)                                                                            \
                return code;                                                                     \
            *x = out;                                                                            \
            before = direction;                                                                  \
        }                                                                                        \
        return 0;                                                                                \
    }                                                                                            \
                                                                                                 \
    /* out = P^T r. */                                                                           \
    static int restrict_##NAME(const hpc_sla_distributed *R, int64_t k, const T *r, T *out)      \
    {                                                                                            \
        const T *received = R->received;                                                         \
        int code = 0;                                                                            \
        hpc_sla_restrict_##NAME(k, R->halo, r, R->send);                                         \
        code = burst_start_requests(R);                                                          \
        if (code)                                                                                \
            return code;                                                                         \
        hpc_sla_restrict_##NAME(k, R->owned, r, out);                                            \
        code = finish_##NAME(R);                                                                 \
        for (int64_t i = 0; i < R->n_send; ++i)                                                  \
            for (int64_t j = 0; j < k; ++j)                                                      \
                out[R->send_index[i] * k + j] += received[i * k + j];                            \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* x += P e, of the same P^T. */                                                             \
    static int prolong_##NAME(const hpc_sla_distributed *R, int64_t k, const T *e, T *x)         \
    {                                                                                            \
        int code = start_##NAME(R, k, e);                                                        \
        if (code)                                                                                \
            return code;                                                                         \
        hpc_sla_prolong_##NAME(k, R->owned, e, x);                                               \
        code = finish_##NAME(R);                                                                 \
        if (!code)                                                                               \
            hpc_sla_prolong_##NAME(k, R->halo, R->received, x);                                  \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    /* *x = what the cycle makes of b, in one of the level's vectors; work[0] may have the       \
     * smoother's first step already. */                                                         \
    static int apply_##NAME(const hpc_sla_cycle *C, const hpc_sla_level *L, const T *b,          \
                            int begun, T **x);                                                   \
                                                                                                 \
    /* *x = the answer to vectors[0], by one cycle or two. */                                    \
    static int solve_##NAME(const hpc_sla_cycle *C, const hpc_sla_level *L, void *const *vectors,\
                            T **x)                                                               \
    {                                                                                            \
        T *b = vectors[0], *e = NULL, *residual = vectors[2];                                    \
        int code = apply_##NAME(C, L, b, 0, &e);                                                 \
        *x = e;                                                                                  \
        if (code || !C->twice || L->direct)                                                      \
            return code;                                                                         \
        *x = vectors[1];                                                                         \
        memcpy(*x, e, L->rows * C->k * sizeof(T));                                               \
        code = affine_##NAME(L->A, C->k, -1, *x, b, residual);                                   \
        code = code ? code : apply_##NAME(C, L, residual, 0, &e);                                \
        if (!code)                                                                               \
            for (int64_t i = 0; i < L->rows * C->k; ++i)                                         \
                (*x)[i] += e[i];                                                                 \
        return code;                                                                             \
    }                                                                                            \
                                                                                                 \
    static int apply_##NAME(const hpc_sla_cycle *C, const hpc_sla_level *L, const T *b,          \
                            int begun, T **x)                                                    \
    {                                                                                            \
        *x = L->work[0];                                                                         \
        if (L->direct)                                                                           \
            return direct_##NAME(L->direct, C->k, b, *x);                                        \
        if (!begun)                                                                              \
            begin_##NAME(L, C->k, b);                                                            \
        int code = smooth_##NAME(L, C->k, b, 1, x);                                              \
        if (code || !L->down)                                                                    \
            return code;                                                                         \
        T *residual = L->work[2], *e = NULL;                                                     \
        code = affine_##NAME(L->A, C->k, -1, *x, b, residual);                                   \
        code = code ? code : restrict_##NAME(L->down, C->k, residual, L->coarse[0]);             \
        if (!code && L->goes_on)                                                                 \
            code = solve_##NAME(C, L + 1, L->coarse, &e);                                        \
        code = code ? code : prolong_##NAME(L->up, C->k, e, *x);                                 \
        return code ? code : smooth_##NAME(L, C->k, b, 0, x);                                    \
    }

#define DEFINE_OUTSIDE(S, T, OUTER, NAME)                                                        \
    /* r in the cycle's units and numbers, and but for d NULL the smoother's first step. */      \
    static CLONED void in_part_##OUTER##_##NAME(const void *const *a, int64_t begin, int64_t end,\
                                                void *none)                                      \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const S *restrict r = a[1], *restrict units = a[2];                                      \
        const T *restrict d = a[3];                                                              \
        T *restrict to = (T *)a[4], *restrict first = (T *)a[5];                                 \
        (void)none;                                                                              \
        if (k == 1 && !units && d)                                                               \
            for (int64_t i = begin; i < end; ++i) {                                              \
                to[i] = (T)r[i];                                                                 \
                first[i] = to[i] * d[i];                                                         \
            }                                                                                    \
        else                                                                                     \
            for (int64_t i = begin; i < end; ++i)                                                \
                for (int64_t j = i * k; j < i * k + k; ++j) {                                    \
                    to[j] = (T)(units ? r[j] * units[i] : r[j]);                                 \
                    if (d)                                                                       \
                        first[j] = to[j] * d[i];                                                 \
                }                                                                                \
    }                                                                                            \
                                                                                                 \
    static CLONED void out_part_##OUTER##_##NAME(const void *const *a, int64_t begin,            \
                                                 int64_t end, void *none)                        \
    {                                                                                            \
        const int64_t k = *(const int64_t *)a[0];                                                \
        const T *restrict x = a[1];                                                              \
        const S scale = *(const S *)a[2], *restrict units = a[3];                                \
        S *restrict out = (S *)a[4];                                                             \
        (void)none;                                                                              \
        if (!units)                                                                              \
            for (int64_t i = begin * k; i < end * k; ++i)                                        \
                out[i] = (S)x[i] * scale;                                                        \
        else                                                                                     \
            for (int64_t i = begin; i < end; ++i)                                                \
                for (int64_t j = i * k; j < i * k + k; ++j)                                      \
                    out[j] = ((S)x[j] * scale) * units[i];                                       \
    }                                                                                            \
                                                                                                 \
    /* The cycle of r in its units and numbers, times the scale. */                              \
    static int outside_##OUTER##_##NAME(const hpc_sla_cycle *C, const S *r, S *out)              \
    {                                                                                            \
        const hpc_sla_level *L = C->levels;                                                      \
        const int64_t n = L->rows, k = C->k;                                                     \
        const S *inverse = C->inverse, scale = (S)C->scale;                                      \
        const T *b = (const void *)r;                                                            \
        const int other = C->before || C->n_alone || sizeof(S) != sizeof(T);                     \
        T *x;                                                                                    \
        if (other) {                                                                             \
            const void *a[] = {&k, r, C->before, L->inverse, C->b, L->work[0]};                  \
            hpc_sla_run(n, k, NULL, in_part_##OUTER##_##NAME, a, 0, 0, NULL);                    \
            b = C->b;                                                                            \
            for (int64_t i = 0; i < C->n_alone; ++i) {                                           \
                const int64_t at = C->alone[i] * k;                                              \
                memset((T *)C->b + at, 0, k * sizeof(T));                                        \
                for (int64_t j = at; L->inverse && j < at + k; ++j)                              \
                    ((T *)L->work[0])[j] = b[j] * ((const T *)L->inverse)[C->alone[i]];          \
            }                                                                                    \
        }                                                                                        \
        const int code = apply_##NAME(C, L, b, other, &x);                                       \
        if (code)                                                                                \
            return code;                                                                         \
        const void *a[] = {&k, x, &scale, C->after, out};                                        \
        hpc_sla_run(n, k, NULL, out_part_##OUTER##_##NAME, a, 0, 0, NULL);                       \
        for (int64_t i = 0; i < C->n_alone; ++i)                                                 \
            for (int64_t j = C->alone[i] * k, end = j + k; j < end; ++j)                         \
                out[j] = r[j] * inverse[i];                                                      \
        return 0;                                                                                \
    }

#define DEFINE_ENTRY(T, NAME)                                                                    \
    int64_t hpc_sla_cycle_##NAME(const void *cycle, const void *r, void *out)                    \
    {                                                                                            \
        const hpc_sla_cycle *C = cycle;                                                          \
        if (C->size == sizeof(double))                                                           \
            return outside_float64_##NAME(C, r, out);                                            \
        return outside_float32_##NAME(C, r, out);                                                \
    }

DEFINE(double, float64)
DEFINE(float, float32)
DEFINE_OUTSIDE(double, double, float64, float64)
DEFINE_OUTSIDE(double, float, float64, float32)
DEFINE_OUTSIDE(float, double, float32, float64)
DEFINE_OUTSIDE(float, float, float32, float32)
DEFINE_ENTRY(double, float64)
DEFINE_ENTRY(float, float32)
