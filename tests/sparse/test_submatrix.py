"""Rows and columns of a mask as matrices of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_sla.sparse.submatrix import Part, submatrix
from tests.collective import (
    MATRICES,
    PARTITIONS,
    dense,
    distribute,
    everywhere,
    full,
    on,
    spread,
)

pytestmark = pytest.mark.mpi

MASKS = {
    "some": lambda n: np.random.default_rng(1).random(n) < 0.4,
    "all": lambda n: np.ones(n, dtype=bool),
    "none": lambda n: np.zeros(n, dtype=bool),
    "the last": lambda n: np.arange(n) == n - 1,
}


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("masks", [("some", "all"), ("none", "some"), ("the last", "some")])
@pytest.mark.parametrize("name", MATRICES)
def test_is_the_block_in_the_users_order(world, name, masks, partition):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, partition)
    chosen = [MASKS[mask](A.shape[0]) for mask in masks]
    parts = [Part(A.layout, on(world, mask[A.layout.rows])) for mask in chosen]
    for rows, r in zip(parts, chosen, strict=True):
        for columns, c in zip(parts, chosen, strict=True):
            found = submatrix(A, rows, columns)
            assert found.shape == (r.sum(), c.sum())
            np.testing.assert_array_equal(dense(found), matrix.toarray()[np.ix_(r, c)])
            assert (found.columns is found.layout) == (rows is columns)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_vectors_go_there_and_back(world, partition):
    A = distribute(MATRICES["random"](), world, partition)
    n = A.shape[0]
    mask = MASKS["some"](n)
    part = Part(A.layout, on(world, mask[A.layout.rows]))
    for shape in ((n,), (n, 3)):
        whole = np.random.default_rng(2).standard_normal(shape)
        x = spread(A.layout, whole)
        taken = part.take(x, x.new_empty((part.layout.n_owned, *shape[1:])))
        np.testing.assert_array_equal(full(part.layout, taken), whole[mask])
        back = part.put(taken, torch.zeros_like(x))
        np.testing.assert_array_equal(full(A.layout, back)[mask], whole[mask])
        assert everywhere(world, bool((back[~on(world, mask[A.layout.rows])] == 0).all()))
