/* CPU loops over a basis of vectors: the inner products and the combinations of
 * Gram-Schmidt for two vectors at once, in pieces that stay in the cache, so that the basis is read
 * once for both. Conventions as in native.c. A basis is [m, n] or [m, n, k], contiguous.
 *
 * These loops wait for memory. Four vectors of the basis are read side by side: fewer streams leave
 * bandwidth unused, and for each the piece of the two vectors is read from the cache once. */
#include "sweep.h"
#include "threads.h"

/* Rows of a piece: long enough for the processor to see streams, short enough for the cache. */
#define PIECE 2048

/* A piece of each vector is a stream that has just begun: fetch ahead of the processor's guess. */
#define FETCH(p) __builtin_prefetch((p) + 64, 0, 3)

/* Vectors read side by side. */
#define GROUP 4

/* A function of one group for the vectors that remain, compiled for each number of them. */
#define FEWER(remaining, function, ...)                                                          \
    do {                                                                                         \
        if ((remaining) == 3)                                                                    \
            function(3, __VA_ARGS__);                                                            \
        else if ((remaining) == 2)                                                               \
            function(2, __VA_ARGS__);                                                            \
        else if ((remaining) == 1)                                                               \
            function(1, __VA_ARGS__);                                                            \
    } while (0)

#define LOAD(NAME, p) (*(const vector_##NAME *)(p))

#define DEFINE(T, NAME)                                                                          \
    typedef T vector_##NAME __attribute__((vector_size(32), aligned(sizeof(T))));                \
    enum { LANES_##NAME = 32 / sizeof(T) };                                                      \
                                                                                                 \
    /* One piece of one column: out_u and out_w are raised by v_i . u and v_i . w, for i < group.\
     * Without w, by v_i . u only. */                                                            \
    INLINE void group_##NAME(int group, int64_t rows, const T *v, int64_t n, const T *u,         \
                             const T *w, double *restrict out_u, double *restrict out_w)         \
    {                                                                                            \
        vector_##NAME vu[GROUP] = {{0}}, vw[GROUP] = {{0}};                                      \
        int64_t e = 0;                                                                           \
        for (; e + 2 * LANES_##NAME <= rows; e += 2 * LANES_##NAME) {                            \
            const vector_##NAME u1 = LOAD(NAME, u + e), u2 = LOAD(NAME, u + e + LANES_##NAME);   \
            const vector_##NAME w1 = LOAD(NAME, w + e), w2 = LOAD(NAME, w + e + LANES_##NAME);   \
            for (int i = 0; i < group; ++i) {                                                    \
                const T *from = v + i * n + e;                                                   \
                FETCH(from);                                                                     \
                vu[i] += LOAD(NAME, from) * u1 + LOAD(NAME, from + LANES_##NAME) * u2;           \
                if (out_w)                                                                       \
                    vw[i] += LOAD(NAME, from) * w1 + LOAD(NAME, from + LANES_##NAME) * w2;       \
            }                                                                                    \
        }                                                                                        \
        for (int i = 0; i < group; ++i) {                                                        \
            double with_u = 0, with_w = 0;                                                       \
            for (int64_t f = e; f < rows; ++f) {                                                 \
                with_u += (double)v[i * n + f] * u[f];                                           \
                with_w += (double)v[i * n + f] * w[f];                                           \
            }                                                                                    \
            for (int l = 0; l < LANES_##NAME; ++l)                                               \
                with_u += vu[i][l], with_w += vw[i][l];                                          \
            out_u[i] += with_u;                                                                  \
            if (out_w)                                                                           \
                out_w[i] += with_w;                                                              \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void piece_##NAME(int64_t rows, int64_t count, const T *v, int64_t n, const T *u,     \
                             const T *w, double *restrict out_u, double *restrict out_w)         \
    {                                                                                            \
        int64_t i = 0;                                                                           \
        for (; i + GROUP <= count; i += GROUP)                                                   \
            group_##NAME(GROUP, rows, v + i * n, n, u, w, out_u + i, out_w ? out_w + i : NULL);  \
        FEWER(count - i, group_##NAME, rows, v + i * n, n, u, w, out_u + i,                      \
              out_w ? out_w + i : NULL);                                                         \
    }                                                                                            \
                                                                                                 \
    /* The same by columns of [rows, k]: added to four rows of out [., k]. */                    \
    INLINE void by_columns_##NAME(int64_t rows, int64_t k, const T *a, const T *u,               \
                                  double *restrict out)                                          \
    {                                                                                            \
        for (int64_t i = 0; i < rows; ++i)                                                       \
            for (int64_t j = 0; j < k; ++j)                                                      \
                out[j] += (double)a[i * k + j] * u[i * k + j];                                   \
    }                                                                                            \
                                                                                                 \
    static CLONED void dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,           \
                                   int64_t targets, const T *basis, int64_t begin, int64_t end,  \
                                   double *restrict sums)                                        \
    {                                                                                            \
        for (int64_t row = begin; row < end; row += PIECE) {                                     \
            const int64_t rows = end - row < PIECE ? end - row : PIECE;                          \
            const T *u = basis + (first * n + row) * k;                                          \
            const T *w = u + (targets - 1) * n * k;                                              \
            if (k > 1) {                                                                         \
                for (int64_t i = 0; i < count; ++i)                                              \
                    for (int64_t t = 0; t < targets; ++t)                                        \
                        by_columns_##NAME(rows, k, basis + (i * n + row) * k, t ? w : u,         \
                                          sums + (t * count + i) * k);                           \
                continue;                                                                        \
            }                                                                                    \
            if (targets == 2)                                                                    \
                piece_##NAME(rows, count, basis + row, n, u, w, sums, sums + count);             \
            else                                                                                 \
                piece_##NAME(rows, count, basis + row, n, u, u, sums, NULL);                     \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    static void dots_part_##NAME(const void *const *a, int64_t begin, int64_t end, void *sums)   \
    {                                                                                            \
        const int64_t *numbers = a[0];                                                           \
        dots_##NAME(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], a[1], begin, end,\
                    sums);                                                                       \
    }                                                                                            \
                                                                                                 \
    /* out [targets, count, k] = basis[i] . basis[first + t] for i < count; targets is 1 or 2.   \
     * sums [targets, count, k] is room to sum in. */                                            \
    void hpc_sla_basis_dots_##NAME(int64_t n, int64_t k, int64_t count, int64_t first,           \
                                   int64_t targets, const T *basis, double *restrict sums,       \
                                   T *restrict out)                                              \
    {                                                                                            \
        const int64_t numbers[] = {n, k, count, first, targets}, all = targets * count * k;      \
        const void *a[] = {numbers, basis};                                                      \
        for (int64_t i = 0; i < all; ++i)                                                        \
            sums[i] = 0;                                                                         \
        hpc_sla_run(n, count * k, NULL, dots_part_##NAME, a, all, sizeof(double), sums);         \
        for (int64_t i = 0; i < all; ++i)                                                        \
            out[i] = (T)sums[i];                                                                 \
    }                                                                                            \
    /* One piece of one column: u -= sum_i s_i v_i and w -= sum_i c_i v_i, for i < group. */     \
    INLINE void subtract_##NAME(int group, int64_t rows, const T *v, int64_t n,                  \
                                const T *restrict s, const T *restrict c, T *restrict u,         \
                                T *restrict w)                                                   \
    {                                                                                            \
        int64_t e = 0;                                                                           \
        for (; e + LANES_##NAME <= rows; e += LANES_##NAME) {                                    \
            vector_##NAME u1 = LOAD(NAME, u + e), w1 = LOAD(NAME, w + e);                        \
            for (int i = 0; i < group; ++i) {                                                    \
                const vector_##NAME from = LOAD(NAME, v + i * n + e);                            \
                FETCH(v + i * n + e);                                                            \
                u1 -= s[i] * from, w1 -= c[i] * from;                                            \
            }                                                                                    \
            *(vector_##NAME *)(u + e) = u1, *(vector_##NAME *)(w + e) = w1;                      \
        }                                                                                        \
        if (e == rows)                                                                           \
            return;                                                                              \
        /* The rest in the same operations, so that a row's bits do not depend on where it is. */\
        const int rest = (int)(rows - e);                                                        \
        vector_##NAME u1 = {0}, w1 = {0};                                                        \
        for (int l = 0; l < rest; ++l)                                                           \
            u1[l] = u[e + l], w1[l] = w[e + l];                                                  \
        for (int i = 0; i < group; ++i) {                                                        \
            vector_##NAME from = {0};                                                            \
            for (int l = 0; l < rest; ++l)                                                       \
                from[l] = v[i * n + e + l];                                                      \
            u1 -= s[i] * from, w1 -= c[i] * from;                                                \
        }                                                                                        \
        for (int l = 0; l < rest; ++l)                                                           \
            u[e + l] = u1[l], w[e + l] = w1[l];                                                  \
    }                                                                                            \
                                                                                                 \
    /* Rows row .. row + rows of `update`. */                                                    \
    INLINE void update_rows_##NAME(int64_t n, int64_t k, int64_t j, int64_t row, int64_t rows,   \
                                   T *basis, const T *restrict s, const T *restrict c,           \
                                   const T *restrict last, const T *restrict inverse)            \
    {                                                                                            \
        T *restrict u = basis + (j * n + row) * k;                                               \
        T *restrict w = basis + ((j + 1) * n + row) * k;                                         \
        int64_t i = 0;                                                                           \
        if (k == 1) {                                                                            \
            for (; i + GROUP <= j; i += GROUP)                                                   \
                subtract_##NAME(GROUP, rows, basis + i * n + row, n, s + i, c + i, u, w);        \
            FEWER(j - i, subtract_##NAME, rows, basis + i * n + row, n, s + i, c + i, u, w);     \
            i = j;                                                                               \
        }                                                                                        \
        for (; i < j; ++i) {                                                                     \
            const T *restrict v = basis + (i * n + row) * k;                                     \
            for (int64_t e = 0; e < rows * k; e += k)                                            \
                for (int64_t f = 0; f < k; ++f) {                                                \
                    u[e + f] -= s[i * k + f] * v[e + f];                                         \
                    w[e + f] -= c[i * k + f] * v[e + f];                                         \
                }                                                                                \
        }                                                                                        \
        for (int64_t e = 0; e < rows * k; e += k)                                                \
            for (int64_t f = 0; f < k; ++f) {                                                    \
                u[e + f] *= inverse[f];                                                          \
                w[e + f] = (w[e + f] - last[f] * u[e + f]) * inverse[f];                         \
            }                                                                                    \
    }                                                                                            \
                                                                                                 \
    static CLONED void update_##NAME(int64_t n, int64_t k, int64_t j, T *basis, const T *sums,   \
                                     const T *found, int64_t begin, int64_t end)                 \
    {                                                                                            \
        const T *c = sums + (j + 2) * k;                                                         \
        for (int64_t row = begin; row < end; row += PIECE) {                                     \
            const int64_t rows = end - row < PIECE ? end - row : PIECE;                          \
            if (k == 1)                                                                          \
                update_rows_##NAME(n, 1, j, row, rows, basis, sums, c, found, found + 1);        \
            else                                                                                 \
                update_rows_##NAME(n, k, j, row, rows, basis, sums, c, found, found + k);        \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    static void update_part_##NAME(const void *const *a, int64_t begin, int64_t end, void *none) \
    {                                                                                            \
        const int64_t *numbers = a[0];                                                           \
        (void)none;                                                                              \
        update_##NAME(numbers[0], numbers[1], numbers[2], (T *)a[1], a[2], a[3], begin, end);    \
    }                                                                                            \
                                                                                                 \
    /* With u = basis[j], w = basis[j + 1], [s, ., .] and [c, ., .] = sums [2, j + 2] and        \
     * [last, inverse, .] = found [3], by columns: u = (u - sum_i s_i basis[i]) inverse;         \
     * w = (w - sum_i c_i basis[i] - last u) inverse. */                                         \
    void hpc_sla_basis_update_##NAME(int64_t n, int64_t k, int64_t j, T *basis, const T *sums,   \
                                     const T *found)                                             \
    {                                                                                            \
        const int64_t numbers[] = {n, k, j};                                                     \
        const void *a[] = {numbers, basis, sums, found};                                         \
        hpc_sla_run(n, (j + 2) * k, NULL, update_part_##NAME, a, 0, 0, NULL);                    \
    }                                                                                            \
    /* M^-1 basis[j] at the rows that other ranks are sent, were it updated: to the bit what it  \
     * will be, so some rows at a time are copied and treated as a basis of their own. */        \
    INLINE void send_##NAME(int64_t n, int64_t j, const hpc_sla_sweep *sweep, const T *sums,     \
                            const T *found, T *restrict sent)                                    \
    {                                                                                            \
        const T *inverse = sweep->inverse;                                                       \
        T *few = (T *)sweep->room;                                                               \
        for (int64_t first = 0; first < sweep->n_sent; first += WIDTH) {                         \
            const int64_t left = sweep->n_sent - first, width = left < WIDTH ? left : WIDTH;     \
            for (int64_t i = sums ? 0 : j; i <= j; ++i)                                          \
                for (int64_t l = 0; l < width; ++l)                                              \
                    few[i * width + l] = ((T *)sweep->basis)[i * n + sweep->sent[first + l]];    \
            if (sums)                                                                            \
                update_rows_##NAME(width, 1, j - 1, 0, width, few, sums, sums + j + 1, found,    \
                                   found + 1);                                                   \
            for (int64_t l = 0; l < width; ++l) {                                                \
                const T u = few[j * width + l];                                                  \
                sent[first + l] = inverse ? inverse[sweep->sent[first + l]] * u : u;             \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
    /* Add what came from other ranks to basis[j + 1], and to its inner products. */             \
    INLINE void receive_##NAME(int64_t n, int64_t j, const hpc_sla_sweep *sweep,                 \
                               const T *restrict part, double *with_u, double *with_w)           \
    {                                                                                            \
        for (int64_t e = 0; e < sweep->n_boundary; ++e) {                                        \
            T *at = (T *)sweep->basis + sweep->boundary[e], *w = at + (j + 1) * n;               \
            const T before = *w, after = before + part[e];                                       \
            const double change = (double)after - before;                                        \
            for (int64_t i = 0; i <= j; ++i)                                                     \
                with_w[i] += at[i * n] * change;                                                 \
            with_u[j + 1] += at[j * n] * change;                                                 \
            with_w[j + 1] += change * ((double)before + after);                                  \
            *w = after;                                                                          \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* A step of gmres in one sweep over the basis, for k = 1. By pieces of rows: `update` of    \
     * column j - 1 (not without sums), z = inverse basis[j], basis[j + 1] = A z, and the `dots` \
     * of both. A piece's product waits until all that it reads of z is made, and meets vectors  \
     * that are still in the cache. `part` are values by sent rows or by boundary rows. */       \
    CLONED void hpc_sla_basis_sweep_##NAME(int64_t n, int64_t k, int64_t phase, int64_t j,       \
                                           const hpc_sla_sweep *sweep, const T *sums,            \
                                           const T *found, T *part, T *out)                      \
    {                                                                                            \
        const hpc_sla_matrix *A = sweep->matrix;                                                 \
        const T *inverse = sweep->inverse;                                                       \
        T *basis = sweep->basis, *u = basis + j * n, *w = u + n;                                 \
        T *z = inverse ? sweep->z : u;                                                           \
        const int64_t targets = phase == SWEEP_END ? 1 : 2, count = j + targets;                 \
        const int64_t size = sweep->rows;                                                        \
        double *with_u = sweep->room, *with_w = targets == 2 ? with_u + count : NULL;            \
        if (phase == SWEEP_SEND) {                                                               \
            send_##NAME(n, j, sweep, sums, found, part);                                         \
            return;                                                                              \
        }                                                                                        \
        if (phase == SWEEP_RECEIVE)                                                              \
            receive_##NAME(n, j, sweep, part, with_u, with_w);                                   \
        else {                                                                                   \
            for (int64_t i = 0; i < targets * count; ++i)                                        \
                with_u[i] = 0;                                                                   \
            for (int64_t p = 0, made = 0, near = 0; p < sweep->count; ++p) {                     \
                const int64_t row = p * size, rows = n - row < size ? n - row : size;            \
                for (; made < (phase == SWEEP_MAIN ? sweep->reach[p] : p + 1); ++made) {         \
                    const int64_t at = made * size, end = n - at < size ? n : at + size;         \
                    if (sums)                                                                    \
                        update_rows_##NAME(n, 1, j - 1, at, end - at, basis, sums, sums + j + 1, \
                                           found, found + 1);                                    \
                    if (inverse)                                                                 \
                        for (int64_t i = at; i < end; ++i)                                       \
                            z[i] = inverse[i] * u[i];                                            \
                }                                                                                \
                if (phase == SWEEP_MAIN && A->form == MATRIX_CSR)                                \
                    hpc_sla_csr_matmul_##NAME(rows, k, (const int32_t *)A->parts[0] + row,       \
                                              A->parts[1], A->parts[2], z, NULL, w + row, NULL,  \
                                              NULL, NULL);                                       \
                else if (phase == SWEEP_MAIN)                                                    \
                    hpc_sla_packed_rows_##NAME(A, &near, row, row + rows, z, w);                 \
                if (phase == SWEEP_MAIN)                                                         \
                    piece_##NAME(rows, count, basis + row, n, u + row, w + row, with_u, with_w); \
                else if (phase == SWEEP_END)                                                     \
                    piece_##NAME(rows, count, basis + row, n, u + row, u + row, with_u, NULL);   \
            }                                                                                    \
        }                                                                                        \
        if (phase == SWEEP_RECEIVE || phase == SWEEP_END)                                        \
            for (int64_t i = 0; i < targets * count; ++i)                                        \
                out[i] = (T)with_u[i];                                                           \
    }

DEFINE(double, float64)
DEFINE(float, float32)
