"""Rows that ranks hand each other, whatever types each of them has its own in."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.messages.peers import Peers
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.storage.parallel.local_rows import even_runs, moved
from tests.collective import everywhere
from tests.storage.files import random_square

pytestmark = pytest.mark.mpi


def test_ranks_whose_indices_are_wider_than_those_of_others(world):
    n = 26
    whole = sp.csr_array(random_square(3, n=n, density=0.3))
    position = np.random.default_rng(4).permutation(n)
    offsets = even_offsets(n, world.size)
    first, last = (int(cut) for cut in offsets[world.rank : world.rank + 2])
    mine = whole[first:last]
    kind = np.int64 if world.rank % 2 else np.int32
    mine.indices, mine.indptr = mine.indices.astype(kind), mine.indptr.astype(kind)
    with Peers(world.comm) as peers:
        places, found, _ = moved(peers, offsets, position[first:last], mine, [])
    expected = whole.toarray()[np.argsort(position)][first:last]
    assert everywhere(world, places.tolist() == list(range(first, last)))
    assert everywhere(world, np.array_equal(found.toarray(), expected))


@pytest.mark.parametrize("n", [0, 1, 7, 2**62 + 5, 2**63 - 1])
def test_even_runs(world, n):
    with Peers(world.comm) as peers:
        found = even_runs(peers, n)
    expected = [n * r // world.size for r in range(world.size + 1)]
    assert everywhere(world, found.tolist() == expected and found.dtype == np.int64)
