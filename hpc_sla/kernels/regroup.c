/* What moving vertices of a graph between parts would gain: a pass of its arcs. */
#include <stdint.h>

#include "native.h"

#define NOWHERE (-1)

/* Of each of n vertices: what its arcs into its own part weigh, what those into the best other part
 * that is open do, and which that is (of equal ones the next after its own, going round). `table`
 * [parts] is 0 and stays so. Returns what the arcs between parts weigh. */
int64_t hpc_sla_regroup_gains(int64_t n, int64_t parts, const int64_t *restrict indptr,
                              const int32_t *restrict neighbours, const int64_t *restrict weights,
                              const int32_t *restrict part, const int32_t *restrict open,
                              int64_t *restrict table, int64_t *restrict here,
                              int64_t *restrict there, int32_t *restrict best)
{
    int64_t cut = 0;
    for (int64_t v = 0; v < n; ++v) {
        const int64_t begin = indptr[v], end = indptr[v + 1];
        const int32_t own = part[v];
        int64_t inside = 0, outside = 0;
        for (int64_t k = begin; k < end; ++k) {
            const int64_t w = weights[k];
            const int same = part[neighbours[k]] == own;
            inside += same ? w : 0;
            outside += same ? 0 : w;
        }
        here[v] = inside;
        there[v] = 0;
        best[v] = NOWHERE;
        cut += outside;
        if (!outside)
            continue;
        for (int64_t k = begin; k < end; ++k)
            table[part[neighbours[k]]] += weights[k];
        int64_t nearest = parts;
        for (int64_t k = begin; k < end; ++k) {
            const int32_t p = part[neighbours[k]];
            if (p == own || !open[p])
                continue;
            const int64_t ahead = p > own ? p - own : p - own + parts;
            if (table[p] > there[v] || (table[p] == there[v] && ahead < nearest)) {
                there[v] = table[p];
                best[v] = p;
                nearest = ahead;
            }
        }
        for (int64_t k = begin; k < end; ++k)
            table[part[neighbours[k]]] = 0;
    }
    return cut;
}

/* What each of m movers gains by its wish once those before it have moved: of a larger gain, or of
 * an equal one and a lower rank. */
void hpc_sla_regroup_afterthoughts(int64_t m, const int64_t *restrict movers,
                                   const int64_t *restrict indptr,
                                   const int32_t *restrict neighbours,
                                   const int64_t *restrict weights, const int32_t *restrict part,
                                   const int32_t *restrict wish, const int64_t *restrict gain,
                                   const int64_t *restrict rank, int64_t *restrict found)
{
    for (int64_t i = 0; i < m; ++i) {
        const int64_t v = movers[i];
        const int32_t from = part[v], to = wish[v];
        int64_t sum = 0;
        for (int64_t k = indptr[v]; k < indptr[v + 1]; ++k) {
            const int32_t u = neighbours[k];
            const int before =
                wish[u] != NOWHERE &&
                (gain[u] > gain[v] || (gain[u] == gain[v] && rank[u] < rank[v]));
            const int32_t p = before ? wish[u] : part[u];
            sum += p == to ? weights[k] : p == from ? -weights[k] : 0;
        }
        found[i] = sum;
    }
}
