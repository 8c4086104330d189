"""Rows brought to their parts by many ranks, against what one process does with the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.messages.peers import Peers
from hpc_sla.partition import quality, reorder, stored_order
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.partition.parallel import partition_quality
from hpc_sla.partition.parallel.stored import stored_rows
from hpc_sla.problems import make
from hpc_sla.storage.parallel.local_rows import LocalRows
from tests.collective import everywhere

pytestmark = pytest.mark.mpi


def scattered(n, seed, block=1):
    """A grid whose numbering says nothing: within parts rows are ordered anew."""
    matrix = make(f"poisson2d:n={n}").matrix()
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    matrix = sp.csr_array(matrix[order][:, order])
    matrix = sp.csr_array(sp.kron(matrix, np.ones((block, block)), format="csr"))
    matrix.data = np.random.default_rng(seed).standard_normal(matrix.nnz)
    matrix.sum_duplicates()
    return matrix


def unsymmetric(n, seed):
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(sp.random_array((n, n), density=0.05, rng=rng, format="csr"))
    matrix.sum_duplicates()
    return matrix


CASES = {
    "scattered": (scattered(13, 1), 1),
    "nodes of 3": (scattered(7, 2, 3), 3),
    "unsymmetric": (unsymmetric(61, 3), 1),
    "no entries": (sp.csr_array((20, 20)), 1),
    "one row": (sp.csr_array(np.array([[2.0]])), 1),
}


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("case", CASES)
def test_as_one_process_does_it(world, case, parts):
    matrix, block = CASES[case]
    n = matrix.shape[0]
    part = np.repeat(np.random.default_rng(parts).integers(0, parts, n // block), block)
    part[part == 1] = 0  # which leaves one empty
    others = np.random.default_rng(4).random((n, 2))
    with Peers(world.comm) as peers:
        offsets = even_offsets(n // block, world.size) * block
        mine = slice(int(offsets[world.rank]), int(offsets[world.rank + 1]))
        rows = LocalRows(offsets, matrix[mine])
        found = stored_rows(peers, rows, part[mine], parts, [others[mine]], block)
    own = np.arange(*found.offsets[world.rank : world.rank + 2])
    its_part = np.searchsorted(found.part_offsets, own, side="right") - 1
    pattern = found.matrix.indptr, found.matrix.indices
    judged = partition_quality(world.comm, found.offsets, *pattern, its_part, parts)

    gathered = world.comm.allgather
    permutation = np.concatenate(gathered(found.permutation))
    order = stored_order(matrix, part, parts, block_size=block)
    assert everywhere(world, np.array_equal(found.part_offsets, order.part_offsets))
    if parts >= world.size:
        assert everywhere(world, np.array_equal(permutation, order.permutation))
        # Whole parts.
        assert set(found.offsets) <= set(found.part_offsets)
    else:
        by_part = np.argsort(part, kind="stable")
        assert everywhere(world, np.array_equal(permutation, by_part))
        share = np.diff(found.offsets).max()
        assert share <= 2 * n / world.size + 2 * block
    expected = reorder(matrix, permutation)
    whole = sp.vstack(gathered(found.matrix), format="csr")
    assert everywhere(world, all_equal(whole, expected))
    moved = np.concatenate(gathered(found.others[0]))
    assert everywhere(world, np.array_equal(moved, others[permutation]))
    alone = quality(expected, found.part_offsets)
    for field in dataclasses.fields(alone):
        one, other = getattr(judged, field.name), getattr(alone, field.name)
        assert everywhere(world, np.array_equal(one, other)), field.name


def test_the_scattered_rows_are_ordered_anew():
    """Else the cases above would not show that ranks do so, too."""
    for case in ("scattered", "nodes of 3"):
        matrix, block = CASES[case]
        n = matrix.shape[0]
        order = stored_order(matrix, np.zeros(n, dtype=np.int32), 1, block_size=block)
        assert not np.array_equal(order.permutation, np.arange(n))


def all_equal(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("indptr", "indices", "data")
    )
