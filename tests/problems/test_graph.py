"""The random graph, against all pairs of its nodes; and the numbers it is drawn with."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems


@pytest.mark.parametrize("spec", ["n=120", "n=64,degree=3,seed=7", "n=33,degree=0,shift=0.5"])
def test_against_all_pairs(spec):
    problem = problems.make(f"graph_laplacian:{spec}")
    n, shift = problem.n_rows, problem.parameters["shift"]
    points = problem.coordinates(0, n)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    linked = apart <= np.sqrt(problem.parameters["degree"] / (np.pi * n))
    for i in range(1, n):
        half = 2 ** (i.bit_length() - 1)
        nearest = apart[i, :half].argmin()
        linked[i, nearest] = linked[nearest, i] = True
    np.fill_diagonal(linked, False)
    expected = np.diag(linked.sum(axis=1) + shift) - linked
    np.testing.assert_allclose(problem.matrix().toarray(), expected, rtol=1e-15)


def test_it_is_connected_and_about_as_dense_as_asked():
    matrix = problems.make("graph_laplacian:n=3000,shift=0").matrix()
    assert sp.csgraph.connected_components(matrix)[0] == 1
    assert abs(matrix.sum(axis=1)).max() == 0
    assert 7 < matrix.diagonal().mean() < 9.5
    sparse = problems.make("graph_laplacian:n=3000,degree=0,shift=0").matrix()
    assert sp.csgraph.connected_components(sparse)[0] == 1
    assert sparse.nnz == 3 * 3000 - 2  # a tree


def test_another_seed_another_graph():
    one, other = (problems.make(f"graph_laplacian:n=50,seed={s}").matrix() for s in (0, 1))
    assert (one != other).nnz
