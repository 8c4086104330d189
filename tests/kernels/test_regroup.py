"""What moves between parts gain: compiled loops against the plain version, and both by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_sla.kernels import native, regroup


def graph(n, ghosts, parts, seed):
    rng = np.random.default_rng(seed)
    degrees = rng.integers(0, 7, n)
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    neighbours = rng.integers(0, n + ghosts, indptr[-1]).astype(np.int32)
    weights = rng.integers(1, 4, indptr[-1])
    return indptr, neighbours, weights, rng.integers(0, parts, n + ghosts).astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [1, 2, 5, 40])
def test_gains(parts, seed):
    n = 60
    indptr, neighbours, weights, part = graph(n, 9, parts, seed)
    open_ = (np.random.default_rng(seed).random(parts) < 0.7).astype(np.int32)
    there = np.zeros((n, parts), dtype=np.int64)
    np.add.at(there, (np.repeat(np.arange(n), np.diff(indptr)), part[neighbours]), weights)
    for find in (regroup.gains_reference, regroup.gains):
        found = find(indptr, neighbours, weights, part, open_)
        np.testing.assert_array_equal(found.here, there[np.arange(n), part[:n]])
        assert found.cut == weights.sum() - found.here.sum()
        for v in range(n):
            ties = [
                (there[v, p], -((p - part[v]) % parts), p)
                for p in range(parts)
                if open_[p] and p != part[v] and there[v, p]
            ]
            weight, _, best = max(ties, default=(0, 0, -1))
            assert (found.there[v], found.best[v]) == (weight, best)


@pytest.mark.parametrize("seed", range(4))
def test_afterthoughts_are_what_the_cut_loses(seed):
    n, parts = 50, 4
    indptr, neighbours, weights, part = graph(n, 5, parts, seed)
    rng = np.random.default_rng(seed)
    wish = np.where(rng.random(n + 5) < 0.5, (part + 1) % parts, -1).astype(np.int32)
    gain, rank = rng.integers(-2, 3, n + 5), rng.permutation(n + 5)
    movers = np.flatnonzero(wish[:n] >= 0)
    arrays = indptr, neighbours, weights, part, wish, gain, rank
    for find in (regroup.afterthoughts_reference, regroup.afterthoughts):
        found = find(movers, *arrays)
        for v, gained in zip(movers, found, strict=True):
            before = (gain > gain[v]) | ((gain == gain[v]) & (rank < rank[v]))
            now = np.where(before & (wish >= 0), wish, part)
            arcs = slice(indptr[v], indptr[v + 1])
            into = now[neighbours[arcs]]
            kept = [weights[arcs][into == p].sum() for p in (wish[v], part[v])]
            assert gained == kept[0] - kept[1]


def test_the_compiled_loops_are_there():
    if native.LIBRARY is None:
        pytest.skip("nothing was compiled")
    assert native.LIBRARY.hpc_sla_regroup_gains
