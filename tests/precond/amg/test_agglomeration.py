"""Who goes on with a level, and with which rows: beside brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hpc_sla as hs
from hpc_sla.precond.amg import agglomeration
from hpc_sla.precond.amg.agglomeration import (
    Load,
    Visit,
    agglomerated,
    balanced,
    by_rows,
    cuts,
    members,
    seconds,
)
from hpc_sla.precond.amg.costs import Costs, costs_in, costs_of, measured
from tests.collective import everywhere

CHEAP = Costs(1e-12, 1e-15, 1e-6)
DEAR = Costs(1.0, 1e-15, 1e-12)
VISIT = Visit(4, 500, 4)


def _load(rows, entries, above=None, neighbours=6, halo=50, finest=None):
    rows, entries = np.asarray(rows), np.asarray(entries)
    size = len(rows)
    above = np.full(size, 10 * int(entries.sum()) // size) if above is None else np.asarray(above)
    return Load(
        np.concatenate([[0], np.cumsum(rows)]),
        entries,
        above,
        np.full(size, neighbours),
        np.full(size, halo),
        int(above.sum()) if finest is None else finest * int(above.mean()),
        size if finest is None else finest,
        4 * int(entries.sum()),
    )


def _random(seed):
    rng = np.random.default_rng(seed)
    size, block = int(rng.integers(1, 40)), int(rng.choice([1, 3, 6]))
    rows = rng.integers(0, 50, size) * block * (rng.random(size) < 0.8)
    entries = rows * rng.integers(1, 30, size)
    return np.concatenate([[0], np.cumsum(rows)]), entries, block, int(rng.integers(1, size + 1))


@pytest.mark.parametrize("seed", range(60))
def test_cuts_are_where_the_entries_are_even(seed):
    """Row by row: the first place where a run has its part, or a rank's end that is near."""
    offsets, entries, block, ranks = _random(seed)
    found = cuts(offsets, entries, ranks, block)
    assert len(found) == ranks + 1 and found[0] == 0 and found[-1] == offsets[-1]
    assert (np.diff(found) >= 0).all() and not (found % block).any()
    weights = np.concatenate(
        [np.full(n, e / max(n, 1)) for n, e in zip(np.diff(offsets), entries, strict=True)]
        + [np.zeros(0)]
    )
    ends = np.concatenate([[0], np.cumsum(weights)])
    share, heaviest = ends[-1] / ranks, weights.max(initial=0.0)
    for i, place in enumerate(found[1:-1], start=1):
        off = abs(ends[place] - i * share)
        whole = place in offsets and off <= 0.1 * share + 1e-9
        assert whole or off <= heaviest * block / 2 + 1e-9
    busiest = np.diff(ends[found]).max()
    assert busiest <= 1.2 * share + heaviest * block + 1e-9


def test_ranks_that_are_even_are_not_cut():
    offsets = np.arange(17) * 100
    for ranks in (1, 2, 4, 8, 16):
        expected = offsets[members(16, ranks).tolist() + [16]]
        rng = np.random.default_rng(ranks)
        entries = rng.integers(990, 1010, 16)
        assert np.array_equal(cuts(offsets, entries, ranks), expected)


def test_without_entries_rows_count():
    assert cuts(np.array([0, 0, 30, 60]), np.zeros(3, int), 2).tolist() == [0, 30, 60]
    assert cuts(np.zeros(5, int), np.zeros(4, int), 3).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(80))
def test_what_is_chosen_is_the_cheapest_that_leaves_all_in_balance(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.choice([2, 3, 5, 16, 64, 100]))
    rows = rng.integers(50, 400, size)
    entries = rows * rng.integers(10, 40, size)
    above = (entries * rng.uniform(1, 8) * rng.uniform(0.9, 1.1, size)).astype(int)
    load = _load(
        rows, entries, above, int(rng.integers(1, size)), 30, size * int(rng.choice([1, 4]))
    )
    costs = Costs(
        *(10.0 ** rng.uniform(low, high) for low, high in ((-7, -4), (-11, -9), (-11, -7)))
    )
    found = agglomerated(load, costs, VISIT)
    able = [p for p in range(1, size) if balanced(load, p, 1.5)]
    able = [p for p in able if p in {-(-size // 2**k) for k in range(1, 8)}]
    if entries.max() > 1.5 * entries.mean():
        able.append(size)
    least = seconds(load, size, costs, VISIT, cut=False)
    best = min([(least, -size - 1), *((seconds(load, p, costs, VISIT), -p) for p in able)])[1]
    if found is None:
        assert best == -size - 1
        return
    assert len(found) - 1 == -best
    if -best < size:
        total = above.copy()
        total[members(size, -best)] += (entries.sum() / -best).astype(int)
        mean = (load.total + entries.sum() * load.decrease / (load.decrease - 1)) / load.ranks
        assert total[members(size, -best)].max() <= 1.5 * mean


def test_dear_messages_bring_it_together_and_cheap_ones_do_not():
    small = _load([100] * 16, [1000] * 16, above=[10**6] * 16)
    assert agglomerated(small, DEAR, VISIT).tolist() == [0, 800, 1600]
    assert agglomerated(small, CHEAP, VISIT) is None
    # Beside levels above that are no larger a rank gets no more than its part of this one,
    large = _load([100] * 16, [1000] * 16, above=[1000] * 16)
    assert agglomerated(large, DEAR, VISIT) is None
    # unless somebody wants it so.
    assert agglomerated(large, DEAR, replace(VISIT, balance=100.0)).tolist() == [0, 800, 1600]
    # A rank that has much already is given nothing more.
    full = [16 * 10**6] + [0] * 15
    assert agglomerated(_load([100] * 16, [1000] * 16, full), DEAR, VISIT) is None


def test_an_uneven_level_is_evened_where_it_stays():
    load = _load([700, 100, 100, 100], [70000, 10000, 10000, 10000], neighbours=1)
    assert agglomerated(load, CHEAP, VISIT).tolist() == [0, 250, 500, 750, 1000]
    # Not if that costs more messages than it saves.
    assert agglomerated(load, Costs(1.0, 1e-15, 1e-6), Visit(4, 999, 4, 1.01)) is None
    even = _load([250] * 4, [25000] * 4, neighbours=1)
    assert agglomerated(even, CHEAP, VISIT) is None


def test_the_model_is_its_formula():
    """One level and the last: products and two transfers, with 6 neighbours, then the inverse."""
    load = _load([250] * 4, [1000, 1000, 1000, 1500], neighbours=3, halo=40)
    assert load.decrease == 4
    costs = Costs(3.0, 0.5, 0.25)
    level = 4 * 1500 * 0.25 + 6 * 3 * 3.0 + 6 * 40 * 4 * 0.5
    last = 250**2 / 4 * 0.125 + 4 * (3.0 + 250 * 4 * 0.5)
    assert seconds(load, 4, costs, VISIT, cut=False) == pytest.approx(level + last)
    less = 4 * (1500 - 1125) * 0.25
    move = 2 * (3.0 + 250 * 4 * 0.5)
    assert seconds(load, 4, costs, VISIT) == pytest.approx(level - less + last + move)
    level = 4 * 4500 * 0.25
    last = 250**2 * 0.125
    move = 2 * (3 * 3.0 + 1000 * 4 * 0.5)
    assert seconds(load, 1, costs, VISIT) == pytest.approx(level + last + move)


def test_fewer_ranks_have_fewer_neighbours_and_at_least_those_they_touch():
    for now in (1.0, 5.0, 11.0, 26.0, 60.0):
        counts = [agglomeration._neighbours(now, apart) for apart in (1, 2, 4, 8, 64)]
        assert counts[0] == pytest.approx(now)
        assert all(a >= b for a, b in zip(counts, counts[1:], strict=False))
        assert counts[-1] >= min(now, 6)


def test_by_rows_half_the_ranks_at_most():
    load = _load([100] * 8, [500] * 8)
    assert by_rows(load, 10**9).tolist() == [0, 800]
    assert by_rows(load, 200).tolist() == [0, 200, 400, 600, 800]
    assert by_rows(load, 150) is None and by_rows(load, 1) is None


def test_costs_as_text():
    measured_here = Costs(2.0**-19, 2.0**-33, 2.0**-31)
    for costs in (Costs(2e-6, 1.25e-10, 1e-9), measured_here, Costs(1 / 3, *np.array([0.1, 7.0]))):
        assert costs_in(str(costs)) == costs
    assert costs_in("typical") is None and costs_in("measured") is None
    for wrong in ("", "1/2", "1/2/3/4", "a/b/c", "1/-1/1", "nan/1/1", "inf/1/1"):
        with pytest.raises(hs.InputError, match="typical, measured") as caught:
            costs_in(wrong)
        assert caught.value.field == "amg:costs"
    world = hs.World.serial("cpu")
    assert costs_of("1/2/3", world) == Costs(1, 2, 3)
    assert costs_of("measured", world) == costs_of("typical", world)


@pytest.mark.mpi
def test_costs_are_measured_once_and_alike(world):
    if world.size > 1:
        found = measured(world)
        assert everywhere(world, world.comm.bcast(found) == found)
        for each in (found.message, found.byte, found.entry):
            assert 1e-14 < each < 1e-1 and np.frexp(each)[0] == 0.5
    first = costs_of("measured", world)
    assert costs_of("measured", world) is first
