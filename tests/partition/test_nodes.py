"""Nodes found in a matrix's pattern, in matrices of others where there are any."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.partition.nodes import block_size_of
from hpc_sla.problems import make

pyamg = pytest.importorskip("pyamg")


def grid(*shape: int) -> sp.csr_matrix:
    return pyamg.gallery.poisson(shape, format="csr")


def nine_point(n: int) -> sp.csr_matrix:
    stencil = pyamg.gallery.diffusion_stencil_2d(epsilon=0.01, theta=0.5)
    return pyamg.gallery.stencil_grid(stencil, (n, n), format="csr")


def banded(width: int) -> sp.csr_matrix:
    offsets = range(-width, width + 1)
    return sp.csr_matrix(sp.diags_array([1.0] * len(offsets), offsets=offsets, shape=(840, 840)))


def identity_rows(matrix: sp.csr_matrix, rows, columns: bool = True) -> sp.csr_matrix:
    kept = np.ones(matrix.shape[0])
    kept[rows] = 0
    keep = sp.diags_array(kept)
    return sp.csr_matrix(keep @ matrix @ (keep if columns else sp.eye_array(len(kept))))


SCALAR = {
    **{f"5-point {n}": grid(n, n) for n in (8, 9, 12, 30)},
    **{f"9-point {n}": nine_point(n) for n in (8, 9, 12, 30)},
    "lines of six": grid(9, 6),
    "lines of three": grid(8, 8, 3),
    "chain": grid(60),
    "dense": sp.csr_matrix(np.ones((60, 60)) + 60 * np.eye(60)),
    "diagonal": sp.csr_matrix(sp.diags_array(np.arange(1.0, 61.0))),
    "dense blocks": sp.csr_matrix(sp.kron(sp.eye_array(20), np.ones((6, 6)))),
    "fields apart": sp.csr_matrix(sp.kron(grid(9, 9), np.eye(3))),
    "star": sp.csr_matrix(60 * np.eye(60) - np.outer(np.eye(60)[0], np.ones(60))),
    "rectangular": sp.csr_matrix(np.ones((6, 12))),
    "nothing": sp.csr_matrix((6, 6)),
    "unstructured": sp.csr_matrix(make("unstructured3d:n=6").matrix()),
    "graph": sp.csr_matrix(make("graph_laplacian:n=600").matrix()),
    **{f"bandwidth {k}": banded(k) for k in range(1, 15)},
    **{f"lower bandwidth {k}": sp.csr_matrix(sp.tril(banded(k))) for k in range(1, 8)},
}


@pytest.mark.parametrize("name", SCALAR)
def test_one_unknown_a_node(name):
    assert block_size_of(SCALAR[name]) == 1


@pytest.mark.parametrize("b", range(2, 8))
@pytest.mark.parametrize("coupling", ["full", "at the node", "one-sided", "chain"])
def test_several_fields(b, coupling):
    full = np.random.default_rng(b).random((b, b)) + np.eye(b)
    matrix = {
        "full": lambda: sp.kron(grid(20, 21), full),
        "at the node": lambda: sp.kron(grid(20, 21), np.eye(b)) + sp.kron(sp.eye_array(420), full),
        "one-sided": lambda: sp.kron(grid(20, 21), np.triu(full)),
        "chain": lambda: sp.kron(grid(50), full),
    }[coupling]()
    assert block_size_of(sp.csr_matrix(matrix)) == b


def test_elasticity_of_others():
    assert block_size_of(sp.csr_matrix(pyamg.gallery.linear_elasticity((20, 30))[0])) == 2
    assert block_size_of(sp.csr_matrix(pyamg.gallery.load_example("bar")["A"])) == 3


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rows", [np.arange(30), np.arange(0, 90, 3), np.array([4, 8, 77])])
def test_dirichlet_rows_hide_nothing(rows, columns):
    matrix = sp.csr_matrix(make("elasticity3d:n=5,clamped=false").matrix())
    found = identity_rows(matrix, rows, columns)
    assert block_size_of(sp.csr_matrix(found + sp.eye_array(found.shape[0]))) == 3
    found.eliminate_zeros()
    assert block_size_of(sp.csr_matrix(found + sp.eye_array(found.shape[0]))) == 3


def test_zeros_that_were_dropped_hide_nothing_and_rounding_shows_nothing():
    matrix = sp.csr_matrix(make("elasticity3d:n=5").matrix())
    matrix.data[np.abs(matrix.data) < 1e-12 * np.abs(matrix.data).max()] = 0
    dropped = matrix.copy()
    dropped.eliminate_zeros()
    assert dropped.nnz < matrix.nnz
    assert block_size_of(dropped) == 3
    noise = matrix.copy()
    noise.data[matrix.data == 0] = 1e-16 * np.abs(matrix.data).max()
    noise.data[::7] *= matrix.data[::7] != 0
    noise.eliminate_zeros()
    assert block_size_of(noise) == 3


def test_units_of_their_own():
    matrix = sp.csr_matrix(make("elasticity3d:n=5").matrix())
    units = sp.diags_array(np.tile([1.0, 1e9, 1e-6], matrix.shape[0] // 3))
    assert block_size_of(sp.csr_matrix(units @ matrix @ units)) == 3
