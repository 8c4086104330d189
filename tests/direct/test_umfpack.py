"""UMFPACK through cvxopt: matrices of other libraries, beside SciPy's spsolve; cvxopt's ways."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import spsolve

import hpc_sla as hs
from hpc_sla.direct import factorize, umfpack

cvxopt = pytest.importorskip("cvxopt")


def graded(n: int = 200) -> sp.csr_matrix:
    """Rows of very unlike units."""
    rng = np.random.default_rng(0)
    units = 10.0 ** rng.integers(-9, 9, n)
    return sp.csr_matrix(sp.diags(units) @ (sp.random(n, n, 0.03, rng=rng) + sp.eye(n)))


def wilkinson(n: int = 50) -> sp.csr_matrix:
    """Partial pivoting lets entries grow to 2^(n-1)."""
    dense = np.eye(n) - np.tril(np.ones((n, n)), -1)
    dense[:, -1] = 1
    return sp.csr_matrix(dense)


def arrow(n: int = 2000) -> sp.csr_matrix:
    """One column that most rows meet, as of a mean that is prescribed."""
    ones = np.ones((n, 1))
    return sp.csr_matrix(sp.bmat([[sp.diags(np.full(n, 4.0)), ones], [ones.T, None]]))


OWN = {
    "rows of unlike units": graded,
    "growth": wilkinson,
    "a long column": arrow,
    "Hilbert": lambda: sp.csr_matrix(scipy.linalg.hilbert(9)),
}
PYAMG = {
    "airfoil": lambda g: g.load_example("airfoil")["A"],
    "recirculating flow": lambda g: g.load_example("recirc_flow")["A"],
    "bar": lambda g: g.load_example("bar")["A"],
    "discontinuous Galerkin": lambda g: g.load_example("local_disc_galerkin_diffusion")["A"],
    "elasticity": lambda g: g.linear_elasticity((9, 9))[0],
    "anisotropic": lambda g: g.stencil_grid(g.diffusion_stencil_2d(1e-6, 0.3, "FE"), (25, 25)),
}


def beside_spsolve(matrix: sp.csr_matrix) -> None:
    """Solve as well as SuperLU does, by the componentwise backward error, both ways."""
    matrix = sp.csr_matrix(matrix, dtype=float)
    b = np.random.default_rng(1).standard_normal(matrix.shape[0])
    factors = factorize(matrix, backend="scipy", method="umfpack")
    for transpose in (False, True):
        A = sp.csc_matrix(matrix.T if transpose else matrix)
        ours = factors.solve(torch.from_numpy(b), transpose).numpy()
        theirs = spsolve(A, b, use_umfpack=False)
        errors = [(abs(b - A @ x) / (abs(A) @ abs(x) + abs(b))).max() for x in (ours, theirs)]
        assert errors[0] <= max(1e-14, 10 * errors[1]), errors


@pytest.mark.parametrize("name", OWN)
def test_hard_ones(name):
    beside_spsolve(OWN[name]())


@pytest.mark.parametrize("name", PYAMG)
def test_matrices_of_pyamg(name):
    beside_spsolve(PYAMG[name](pytest.importorskip("pyamg.gallery")))


def test_stokes_of_scikit_fem():
    """A saddle point: no diagonal of the pressure is stored, but for the one that is fixed."""
    skfem = pytest.importorskip("skfem")
    from skfem.models.general import divergence
    from skfem.models.poisson import vector_laplace

    mesh = skfem.MeshTri().refined(3)
    velocity = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=3)
    pressure = velocity.with_element(skfem.ElementTriP1())
    B = -divergence.assemble(velocity, pressure)
    stokes = sp.bmat([[vector_laplace.assemble(velocity), B.T], [B, None]], format="csr")
    free = np.setdiff1d(np.arange(stokes.shape[0]), [*velocity.get_dofs().all(), velocity.N])
    beside_spsolve(stokes[free][:, free])
    with pytest.raises(hs.SingularMatrixError, match="umfpack"):
        factorize(sp.bmat([[None, B.T], [B, None]]), method="umfpack")


def test_gradients_through_sparse_tensor():
    """Of a matrix of pyamg, in single precision, beside those of SuperLU."""
    gallery = pytest.importorskip("pyamg.gallery")
    coo = gallery.load_example("recirc_flow")["A"].tocoo()
    found = {}
    for method in ("umfpack", "lu"):
        values = torch.from_numpy(coo.data.astype(np.float32)).requires_grad_()
        S = hs.SparseTensor(values, torch.from_numpy(coo.row), torch.from_numpy(coo.col), coo.shape)
        x = S.solve(torch.ones(coo.shape[0]), backend="scipy", method=method)
        x.square().sum().backward()
        found[method] = x.detach(), values.grad
    for ours, theirs in zip(*found.values(), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("dense", [0.0, 1.0, 0.4])
def test_cvxopt_gets_the_very_matrix(dense):
    """Columns of every length, some longer than a piece; zeros that are stored, too."""
    rng = np.random.default_rng(3)
    n = 3 * umfpack._PIECE
    columns = [rng.choice(n, length, replace=False) for length in (0, 1, 256, 257, 512, 600)]
    columns += [np.flatnonzero(rng.random(n) < dense) for _ in range(n - len(columns))]
    lengths = [len(rows) for rows in columns]
    data = rng.standard_normal(sum(lengths))
    data[::7] = 0
    indptr = np.cumsum([0, *lengths])
    csc = sp.csc_matrix((data, np.concatenate(columns), indptr), shape=(n, n))
    csc.sort_indices()
    found = [np.asarray(part).ravel() for part in umfpack._of_cvxopt(csc).CCS]
    for ours, theirs in zip(found, (csc.indptr, csc.indices, csc.data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_column_that_cvxopt_takes_a_square_of_time_for(monkeypatch):
    longest = []
    made = cvxopt.spmatrix

    def spmatrix(values, rows, columns, *rest):
        longest.append(int(np.bincount(columns).max()))
        return made(values, rows, columns, *rest)

    monkeypatch.setattr(cvxopt, "spmatrix", spmatrix)
    factorize(arrow(), method="umfpack")
    assert max(longest) <= umfpack._PIECE


def test_more_entries_than_cvxopt_can_count(monkeypatch):
    monkeypatch.setattr(umfpack, "_MOST", 10)
    factorize(sp.eye(10, format="csr"), method="umfpack")
    with pytest.raises(hs.InputError, match="11 entries"):
        factorize(sp.eye(11, format="csr"), method="umfpack")


def test_stored_zeros_make_no_pivot():
    matrix = sp.csr_matrix((np.array([1.0, 0, 0, 0]), ([0, 0, 1, 1], [0, 1, 0, 1])), (2, 2))
    with pytest.raises(hs.SingularMatrixError, match="umfpack"):
        factorize(matrix, method="umfpack")
