/* The order of elimination of a symmetric pattern, and what its factor will cost. */
#include <stdlib.h>
#include <string.h>

#include "native.h"

#define NONE (-1)

/* The quotient graph of an elimination. A variable that is to be eliminated has a list of elements
 * (variables eliminated before, which stand for the cliques they left) and behind them one of
 * variables; an element has a list of variables. */
typedef struct {
    int32_t *lists;    /* of all, one behind another, with gaps */
    int64_t capacity, end;
    int64_t *start;    /* of each one's list */
    int32_t *length;   /* of that list */
    int32_t *elements; /* how many of it are elements; NONE where it is an element itself */
    int32_t *weight;   /* variables that one stands for, itself included; 0: it is another's */
    int32_t *into;     /* whose: NONE while it stands for itself */
    int32_t *degree;   /* of a variable a bound, of an element the weight of its list */
    int32_t *mark;     /* of an element, 0 where it was absorbed by another */
    int32_t *head, *next, *last; /* variables by degree, in lists that are linked both ways */
} graph;

INLINE void link_in(graph *g, int32_t i, int32_t degree)
{
    const int32_t first = g->head[degree];
    g->next[i] = first;
    g->last[i] = NONE;
    if (first != NONE)
        g->last[first] = i;
    g->head[degree] = i;
}

INLINE void take_out(graph *g, int32_t i)
{
    if (g->last[i] != NONE)
        g->next[g->last[i]] = g->next[i];
    else
        g->head[g->degree[i]] = g->next[i];
    if (g->next[i] != NONE)
        g->last[g->next[i]] = g->last[i];
}

/* Whether i is still in the graph, as a variable or an element. */
INLINE int lives(const graph *g, int32_t i)
{
    return g->into[i] == NONE && (g->elements[i] != NONE || g->mark[i] != 0);
}

/* Close the gaps between lists, in a new array. False where there is no memory. */
static int close_gaps(graph *g, int32_t n)
{
    int32_t *fresh = malloc(g->capacity * sizeof(int32_t));
    if (!fresh)
        return 0;
    int64_t end = 0;
    for (int32_t i = 0; i < n; ++i)
        if (lives(g, i)) {
            memcpy(fresh + end, g->lists + g->start[i], g->length[i] * sizeof(int32_t));
            g->start[i] = end;
            end += g->length[i];
        }
    free(g->lists);
    g->lists = fresh;
    g->end = end;
    return 1;
}

/* Make `me` an element of all variables that it and its elements reach, which it absorbs. */
static void eliminate(graph *g, int32_t me)
{
    const int32_t elements = g->elements[me], length = g->length[me];
    const int64_t start = g->start[me], first = g->end;
    int32_t degree = 0;
    g->weight[me] = -g->weight[me];
    for (int32_t k = 0; k <= elements; ++k) {
        const int32_t from = k < elements ? g->lists[start + k] : me;
        const int64_t begin = k < elements ? g->start[from] : start + elements;
        const int64_t stop = k < elements ? begin + g->length[from] : start + length;
        for (int64_t p = begin; p < stop; ++p) {
            const int32_t i = g->lists[p];
            if (g->weight[i] <= 0)
                continue;
            degree += g->weight[i];
            g->weight[i] = -g->weight[i]; /* until it is looked at: seen */
            g->lists[g->end++] = i;
            take_out(g, i);
        }
        if (from != me) {
            g->into[from] = me;
            g->mark[from] = 0;
        }
    }
    g->elements[me] = NONE;
    g->degree[me] = degree;
    g->start[me] = first;
    g->length[me] = (int32_t)(g->end - first);
}

/* Two variables whose lists are the same, those of j marked by `stamp`. */
INLINE int same(const graph *g, int32_t i, int32_t j, const int32_t *stamps, int32_t stamp)
{
    if (g->length[i] != g->length[j] || g->elements[i] != g->elements[j])
        return 0;
    for (int32_t k = 1; k < g->length[i]; ++k) /* the first is the new element, in both */
        if (stamps[g->lists[g->start[i] + k]] != stamp)
            return 0;
    return 1;
}

/* Approximate minimum degree: P. R. Amestoy, T. A. Davis and I. S. Duff, SIAM J. Matrix Anal.
 * Appl. 17 (1996), with its supervariables, mass elimination and aggressive absorption. `order`
 * becomes the variables in the order of their elimination. Rows with more than `dense` neighbours
 * come last. `weights` are how many rows each stands for, `total` together. Returns 0, or -1
 * without memory. */
int64_t hpc_sla_minimum_degree(int64_t rows, int64_t total, int64_t dense,
                               const int32_t *restrict indptr, const int32_t *restrict indices,
                               const int32_t *restrict weights, int32_t *restrict order)
{
    const int32_t n = (int32_t)rows;
    const int64_t nnz = indptr[n];
    int64_t result = -1;
    graph graph_, *g = &graph_;
    /* All lists together never grow, and a new element needs at most as much again. */
    g->capacity = 2 * nnz + n + 1;
    g->lists = malloc(g->capacity * sizeof(int32_t));
    g->start = malloc((n + 1) * sizeof(int64_t));
    int32_t *arrays = malloc((13 * ((size_t)n + 1) + total + 1) * sizeof(int32_t));
    if (!g->lists || !g->start || !arrays)
        goto end;
    int32_t **const parts[] = {&g->length, &g->elements, &g->weight, &g->into,
                               &g->degree, &g->mark,     &g->next,   &g->last};
    for (int k = 0; k < 8; ++k)
        *parts[k] = arrays + k * ((size_t)n + 1);
    int32_t *const bucket = arrays + 8 * ((size_t)n + 1), *const chain = bucket + n + 1;
    int32_t *const stamps = chain + n + 1, *const pivots = stamps + n + 1;
    int32_t *const hashes = pivots + n + 1;
    g->head = hashes + n + 1;
    for (int64_t degree = 0; degree <= total; ++degree)
        g->head[degree] = NONE;
    int32_t left = (int32_t)total, count = 0, put_off = n, stamp = 0;
    for (int32_t i = 0; i < n; ++i) {
        g->weight[i] = weights[i];
        g->into[i] = bucket[i] = NONE;
        g->elements[i] = stamps[i] = 0;
        g->mark[i] = 1;
        if (indptr[i + 1] - indptr[i] > dense) {
            order[--put_off] = i;
            g->weight[i] = 0;
            g->into[i] = i; /* it lives no more */
            left -= weights[i];
        }
    }
    g->end = 0;
    for (int32_t i = 0; i < n; ++i) {
        if (!g->weight[i])
            continue;
        g->start[i] = g->end;
        g->degree[i] = 0;
        for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p)
            if (g->weight[indices[p]] && indices[p] != i) {
                g->lists[g->end++] = indices[p];
                g->degree[i] += g->weight[indices[p]];
            }
        g->length[i] = (int32_t)(g->end - g->start[i]);
        link_in(g, i, g->degree[i]);
    }
    int32_t flag = 2, least = 0;
    while (left > 0) {
        while (g->head[least] == NONE)
            ++least;
        const int32_t me = g->head[least];
        g->head[least] = g->next[me];
        if (g->next[me] != NONE)
            g->last[g->next[me]] = NONE;
        int64_t bound = g->length[me];
        for (int32_t k = 0; k < g->elements[me]; ++k)
            bound += g->length[g->lists[g->start[me] + k]];
        if (g->end + bound > g->capacity && !close_gaps(g, n))
            goto end;
        eliminate(g, me);
        pivots[count++] = me;
        left += g->weight[me]; /* which is negative */
        int32_t *const mine = g->lists + g->start[me];
        const int32_t reached = g->length[me];

        /* What each element has beside the new one, as mark - flag. */
        if (flag > INT32_MAX - 2 * total - 2) {
            for (int32_t i = 0; i < n; ++i)
                g->mark[i] = g->mark[i] != 0;
            flag = 2;
        }
        for (int32_t k = 0; k < reached; ++k) {
            const int32_t i = mine[k], weight = -g->weight[i];
            for (int32_t q = 0; q < g->elements[i]; ++q) {
                const int32_t e = g->lists[g->start[i] + q];
                if (g->mark[e] >= flag)
                    g->mark[e] -= weight;
                else if (g->mark[e])
                    g->mark[e] = g->degree[e] + flag - weight;
            }
        }
        g->mark[me] = 1;

        /* New lists, bounds on degrees, and hashes by which to find variables that are alike. */
        for (int32_t k = 0; k < reached; ++k) {
            const int32_t i = mine[k], weight = -g->weight[i];
            int32_t *const list = g->lists + g->start[i];
            int32_t kept = 0, degree = 0;
            uint32_t hash = 0;
            for (int32_t q = 0; q < g->elements[i]; ++q) {
                const int32_t e = list[q];
                if (!g->mark[e])
                    continue;
                if (g->mark[e] == flag) { /* nothing beside the new one: absorbed */
                    g->into[e] = me;
                    g->mark[e] = 0;
                    continue;
                }
                degree += g->mark[e] - flag;
                hash += e;
                list[kept++] = e;
            }
            const int32_t elements = kept;
            for (int32_t q = g->elements[i]; q < g->length[i]; ++q) {
                const int32_t j = list[q];
                if (g->weight[j] <= 0)
                    continue;
                degree += g->weight[j];
                hash += j;
                list[kept++] = j;
            }
            if (kept == 0) { /* it reaches what the new element does: eliminated with it */
                g->into[i] = me;
                g->weight[me] -= weight;
                g->degree[me] -= weight;
                g->weight[i] = 0;
                left -= weight;
                continue;
            }
            if (degree < g->degree[i])
                g->degree[i] = degree;
            list[kept] = list[elements]; /* of variables any order will do */
            list[elements] = list[0];
            list[0] = me;
            g->elements[i] = elements + 1;
            g->length[i] = kept + 1;
            hash %= (uint32_t)n;
            hashes[i] = (int32_t)hash;
            chain[i] = bucket[hash];
            bucket[hash] = i;
        }
        flag += (int32_t)total + 1;

        /* Variables that are alike become one. */
        for (int32_t k = 0; k < reached; ++k) {
            if (!g->weight[mine[k]] || bucket[hashes[mine[k]]] == NONE)
                continue;
            int32_t i = bucket[hashes[mine[k]]];
            bucket[hashes[mine[k]]] = NONE;
            for (; i != NONE && chain[i] != NONE; i = chain[i]) {
                ++stamp;
                for (int32_t q = 1; q < g->length[i]; ++q)
                    stamps[g->lists[g->start[i] + q]] = stamp;
                int32_t before = i;
                for (int32_t j = chain[i]; j != NONE; j = chain[j]) {
                    if (same(g, j, i, stamps, stamp)) {
                        g->into[j] = i;
                        g->weight[i] += g->weight[j];
                        g->weight[j] = 0;
                        chain[before] = chain[j];
                    } else
                        before = j;
                }
            }
        }

        /* What is left of the element, and its variables back into the lists by degree. */
        int32_t kept = 0;
        for (int32_t k = 0; k < reached; ++k) {
            const int32_t i = mine[k], weight = -g->weight[i];
            if (!weight)
                continue;
            g->weight[i] = weight;
            int32_t degree = g->degree[i] + g->degree[me] - weight;
            if (degree > left - weight)
                degree = left - weight;
            g->degree[i] = degree;
            link_in(g, i, degree);
            if (degree < least)
                least = degree;
            mine[kept++] = i;
        }
        g->length[me] = kept;
        g->end = g->start[me] + kept;
        g->weight[me] = -g->weight[me];
        if (!kept)
            g->mark[me] = 0;
    }

    /* Each variable where the one is that it was eliminated with: sorted by counting. */
    int32_t *const place = g->degree, *const owner = hashes, *const turn = bucket;
    for (int32_t k = 0; k < count; ++k) {
        turn[pivots[k]] = k; /* NONE for the others */
        place[k] = 0;
    }
    for (int32_t i = 0; i < n; ++i) {
        if (g->into[i] == i)
            continue;
        int32_t root = i;
        while (turn[root] == NONE)
            root = g->into[root];
        for (int32_t j = i; j != root;) { /* shorter for the next */
            const int32_t above = g->into[j];
            g->into[j] = root;
            j = above;
        }
        owner[i] = turn[root];
        ++place[owner[i]];
    }
    for (int32_t k = 0, begin = 0; k < count; ++k) {
        const int32_t here = place[k];
        place[k] = begin;
        begin += here;
    }
    for (int32_t i = 0; i < n; ++i)
        if (g->into[i] != i)
            order[place[owner[i]]++] = i;
    result = 0;
end:
    free(g->lists);
    free(g->start);
    free(arrays);
    return result;
}

/* The elimination tree of a symmetric pattern (J. W. H. Liu, ACM TOMS 12, 1986) in the order of
 * elimination, and the entries of each column of its factor, diagonal included (J. R. Gilbert,
 * E. G. Ng and B. W. Peyton, SIAM J. Matrix Anal. Appl. 15, 1994). `place` says when a row is
 * eliminated, `order` which row is. `work` has room for 6 n numbers. */
void hpc_sla_column_counts(int64_t rows, const int32_t *restrict indptr,
                           const int32_t *restrict indices, const int32_t *restrict order,
                           const int32_t *restrict place, int32_t *restrict parent,
                           int32_t *restrict counts, int32_t *restrict work)
{
    const int32_t n = (int32_t)rows;
    int32_t *const above = work, *const first = work + n, *const post = first + n;
    int32_t *const seen = post + n, *const leaf = seen + n, *const child = leaf + n;
    for (int32_t j = 0; j < n; ++j) {
        parent[j] = above[j] = NONE;
        for (int32_t p = indptr[order[j]]; p < indptr[order[j] + 1]; ++p)
            for (int32_t i = place[indices[p]]; i != NONE && i < j;) {
                const int32_t next = above[i];
                above[i] = j;
                if (next == NONE)
                    parent[i] = j;
                i = next;
            }
    }
    /* Children before parents, each subtree in one piece; `leaf` chains children by parent. */
    for (int32_t j = 0; j < n; ++j)
        child[j] = NONE;
    for (int32_t j = n - 1; j >= 0; --j)
        if (parent[j] != NONE) {
            leaf[j] = child[parent[j]];
            child[parent[j]] = j;
        }
    int32_t k = 0;
    for (int32_t root = 0; root < n; ++root) {
        if (parent[root] != NONE)
            continue;
        for (int32_t j = root; j != NONE;) {
            if (child[j] != NONE) { /* down to a leaf */
                const int32_t down = child[j];
                child[j] = leaf[down];
                j = down;
                continue;
            }
            post[k++] = j;
            j = parent[j];
        }
    }
    for (int32_t j = 0; j < n; ++j) {
        first[j] = seen[j] = leaf[j] = NONE;
        above[j] = j;
    }
    for (k = 0; k < n; ++k) {
        int32_t j = post[k];
        counts[j] = first[j] == NONE; /* a leaf of the tree */
        for (; j != NONE && first[j] == NONE; j = parent[j])
            first[j] = k;
    }
    for (k = 0; k < n; ++k) {
        const int32_t j = post[k];
        if (parent[j] != NONE)
            --counts[parent[j]];
        for (int32_t p = indptr[order[j]]; p < indptr[order[j] + 1]; ++p) {
            const int32_t i = place[indices[p]];
            if (i <= j || first[j] <= seen[i])
                continue;
            ++counts[j]; /* a leaf of the tree of row i */
            seen[i] = first[j];
            if (leaf[i] != NONE) {
                int32_t q = leaf[i];
                while (above[q] != q)
                    q = above[q];
                for (int32_t s = leaf[i]; s != q;) {
                    const int32_t next = above[s];
                    above[s] = q;
                    s = next;
                }
                --counts[q];
            }
            leaf[i] = j;
        }
        if (parent[j] != NONE)
            above[j] = parent[j];
    }
    for (k = 0; k < n; ++k)
        if (parent[post[k]] != NONE)
            counts[parent[post[k]]] += counts[post[k]];
}

/* Rows whose diagonal is zero, behind one that fills it: each has a neighbour of its own with a
 * diagonal, of those that are left the one that comes first, and if that comes later the row comes
 * right behind it. `keys` becomes what sorts rows into that order, `taken` is 0 everywhere.
 * Returns how many rows found no such neighbour. */
int64_t hpc_sla_hold_back(int64_t n, const int32_t *restrict indptr,
                          const int32_t *restrict indices, const int32_t *restrict order,
                          const int32_t *restrict place, const int32_t *restrict zero,
                          int32_t *restrict taken, int64_t *restrict keys)
{
    int64_t alone = 0;
    for (int64_t k = 0; k < n; ++k) {
        const int32_t i = order[k];
        keys[i] = 2 * k;
        if (!zero[i])
            continue;
        int32_t best = NONE;
        for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p) {
            const int32_t j = indices[p];
            if (!zero[j] && !taken[j] && (best == NONE || place[j] < place[best]))
                best = j;
        }
        if (best == NONE) {
            ++alone;
            continue;
        }
        taken[best] = 1;
        if (place[best] > k)
            keys[i] = 2 * (int64_t)place[best] + 1;
    }
    return alone;
}
