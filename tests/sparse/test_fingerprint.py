"""A digest is that of the entries, however they are held, and takes no memory of their length."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.sparse import fingerprint
from hpc_sla.sparse.fingerprint import layout_fingerprint, matrix_fingerprint, vector_fingerprint
from tests.collective import MATRICES as COLLECTIVE
from tests.collective import distribute, everywhere

pytestmark = pytest.mark.mpi


def wide(world, shuffled):
    """Rectangular, some rows without entries, in any order of rows."""
    rng = np.random.default_rng(0)
    matrix = sp.random_array((57, 23), density=0.2, rng=rng).tocsr()
    partition = "metis" if shuffled else "contiguous"
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, partition)


MATRICES = {
    "short rows": lambda world: problems.distribute(problems.make("poisson2d:n=40"), world),
    "blocks": lambda world: problems.distribute(problems.make("elasticity3d:n=4"), world),
    "rectangular": lambda world: wide(world, False),
    "rectangular, shuffled": lambda world: wide(world, True),
    "all on the last": lambda world: distribute(COLLECTIVE["random"](), world, "all on the last"),
}


@pytest.mark.parametrize("block", [7, 1 << 15])
@pytest.mark.parametrize("name", MATRICES)
def test_it_is_made_of_all_entries_and_of_nothing_else(name, block, world, monkeypatch):
    monkeypatch.setattr(fingerprint, "_BLOCK", block)
    A = MATRICES[name](world)
    rows, columns = A.entries()
    values = A.held.plain.numpy()
    found = matrix_fingerprint(A)
    mine = fingerprint._sum(world, [(rows, columns, values)])
    assert everywhere(world, found == f"{A.shape[0]}x{A.shape[1]}:{'float64'}:{mine}")
    changed = A.held.plain.clone()
    last = world.max(float(world.rank if len(changed) else -1))
    if world.rank == last:
        changed[-1] *= 1 + 2.0**-52
    assert everywhere(world, matrix_fingerprint(A.with_values(changed)) != found)


@pytest.mark.parametrize("columns", [None, 0, 1, 3])
@pytest.mark.parametrize("name", ["rectangular, shuffled", "all on the last"])
def test_of_a_vector_it_is_made_of_its_places(name, columns, world, monkeypatch):
    A = MATRICES[name](world)
    x = torch.from_numpy(np.sqrt(A.layout.rows + 1.0))
    x = x if columns is None else x[:, None] * torch.arange(1.0, columns + 1)
    whole = vector_fingerprint(A.layout, x), layout_fingerprint(A.layout)
    monkeypatch.setattr(fingerprint, "_BLOCK", 5)
    assert (vector_fingerprint(A.layout, x), layout_fingerprint(A.layout)) == whole
    even = hs.RowLayout.even(A.layout.n_global, world)
    y = torch.from_numpy(np.sqrt(even.rows + 1.0))
    y = y if columns is None else y[:, None] * torch.arange(1.0, columns + 1)
    assert everywhere(world, vector_fingerprint(even, y) == whole[0])
    if columns != 0:
        assert everywhere(world, vector_fingerprint(even, -y) != whole[0])


def test_it_takes_little_memory(world):
    """NumPy's is counted: a row and a column of every entry would be 80 bytes a row."""
    A = problems.distribute(problems.make("poisson2d:n=600"), world)
    assert A.held.packed is not None
    matrix_fingerprint(A)
    tracemalloc.start()
    try:
        matrix_fingerprint(A)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * A.layout.n_owned + (4 << 20)
    assert A.held.packed is not None and not A.pattern.owned.written
