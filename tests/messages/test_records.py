"""Rows and numbers that ranks send each other, beside what one process with all of them has."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import distinct, look_up, owners, send_records
from hpc_sla.messages.sparse_exchange import sparse_exchange
from tests.collective import everywhere

pytestmark = pytest.mark.mpi


def mine(world, n, seed=0):
    """Which of n things this rank has, in no order; a rank may have none."""
    goal = np.random.default_rng(seed).integers(0, max(world.size - 1, 1), n)
    return np.flatnonzero(goal == world.rank)


@pytest.mark.parametrize("n", [0, 1, 2, 57])
def test_rows_arrive_with_all_that_belongs_to_them(world, n):
    rng = np.random.default_rng(1)
    whole = [
        rng.integers(0, 99, n),
        rng.random((n, 3)).astype(np.float32),
        rng.random(n) < 0.5,
        rng.integers(0, 9, (n, 2)).astype(np.int16),
    ]
    goal = rng.integers(0, world.size, n)
    here = mine(world, n)
    with Peers(world.comm) as peers:
        found = send_records(peers, goal[here], [a[here] for a in whole])
    sent = np.concatenate(world.comm.allgather(here))  # in the order of the ranks that have them
    expected = [a[sent[goal[sent] == world.rank]] for a in whole]
    same = [
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(found, expected, strict=True)
    ]
    assert everywhere(world, all(same))


@pytest.mark.several
def test_arrays_of_other_types_are_no_rows_of_other_numbers(world):
    kind = np.int32 if world.rank % 2 else np.int64
    raised = False
    with Peers(world.comm) as peers:
        try:
            send_records(peers, np.array([(world.rank + 1) % world.size]), [np.ones(1, kind)])
        except TypeError:
            raised = True
    from_other = (world.rank - 1) % world.size % 2 != world.rank % 2
    assert everywhere(world, raised == from_other)


def test_messages_of_other_widths_are_refused(world):
    with pytest.raises(TypeError, match="int64 or float64"):
        sparse_exchange(world.comm, {0: np.ones(2, dtype=np.int32)}, 1)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int32, np.bool_])
def test_numbers_are_looked_up_where_they_are(world, dtype):
    n = 41
    table = (np.random.default_rng(2).random(n) * 3).astype(dtype)
    offsets = np.sort(np.random.default_rng(3).integers(0, n, world.size + 1))
    offsets[[0, -1]] = 0, n
    first, last = offsets[world.rank : world.rank + 2]
    numbers = np.random.default_rng(world.rank).integers(0, n, 70).astype(np.int32)
    wanted = np.unique(numbers)
    with Peers(world.comm) as peers:
        found = look_up(peers, offsets, table[first:last], numbers)
        fetch = Fetch(peers, offsets, wanted)
        once, again = fetch(table[first:last]), fetch(2.0 * table[first:last])
    assert everywhere(world, found.dtype == dtype and (found == table[numbers]).all())
    assert everywhere(world, (once == table[wanted]).all() and (again == 2.0 * table[wanted]).all())


def test_owners(world):
    offsets = np.array([0, 0, 3, 3, 7, 7])
    assert owners(offsets, np.arange(7)).tolist() == [1, 1, 1, 3, 3, 3, 3]
    assert owners(offsets, np.arange(7)).dtype == np.int32


def test_arrays_one_after_another(world):
    part = np.arange(world.rank, dtype=np.float64)
    with Peers(world.comm) as peers:
        first, every = peers.gather(part), peers.allgather(part)
    whole = np.concatenate([np.arange(r, dtype=np.float64) for r in range(world.size)])
    assert everywhere(world, np.array_equal(every, whole))
    assert everywhere(world, np.array_equal(first, whole if world.rank == 0 else whole[:0]))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_each_number_once(kind):
    for some in ([], [7], [3, 3, 3], [5, -1, 5, 2**31 - 1, 0, -1]):
        numbers = np.array(some, dtype=kind)
        found = distinct(numbers)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, np.unique(numbers))
