"""Derivatives of derivatives where some rank's halo, or all it owns, is empty.

A rank that leaves a collective out of its backward pass hangs the others: these tests end or not.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.collective import MATRICES, distribute, full, spread

pytestmark = pytest.mark.mpi


def upper(n: int):
    """Rows need values of later ranks only: by contiguous parts, the last rank needs none."""
    rng = np.random.default_rng(5)
    bands = [rng.uniform(1, 2, n), rng.uniform(1, 2, n - 1)]
    return sp.csr_matrix(sp.diags_array(bands, offsets=[0, 1]))


CASES = {
    "no halo on the last rank": (lambda: upper(11), "contiguous"),
    "nothing but on the last rank": (lambda: upper(11), "all on the last"),
    "fewer rows than ranks": (MATRICES["fewer rows than ranks"], "contiguous"),
    "no entries": (MATRICES["no entries"], "contiguous"),
}
JOINS = {
    "with_halo": lambda A, x: A.with_halo(x),
    "cat": lambda A, x: torch.cat([x, A.halo(x)]),
}


def _local(A):
    owned, halo = A.pattern.owned, A.pattern.halo
    return torch.cat([owned.indices.long(), halo.indices.long() + A.columns.n_owned])


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("case", CASES)
def test_hessian_of_an_energy(world, case, join):
    """E = sum over entries of a_ij (u_i^2 + u_i u_j^3): its Hessian with a vector, by hand."""
    matrix, partition = CASES[case]
    csr = matrix()
    A = distribute(csr, world, partition)
    n = csr.shape[0]
    rng = np.random.default_rng(0)
    u_all, v_all = rng.standard_normal((2, n))
    rows, local = A.pattern.local_rows(), _local(A)

    def energy(u):
        near = JOINS[join](A, u)[local]
        mine = u[rows]
        return world.all_sum((A.values * (mine.square() + mine * near**3)).sum())

    u = spread(A.layout, u_all).requires_grad_()
    (g,) = torch.autograd.grad(energy(u), u, create_graph=True)
    (product,) = torch.autograd.grad(A.layout.dot(g, spread(A.layout, v_all)), u)

    dense = torch.from_numpy(csr.toarray())

    def dense_energy(u):
        return (dense * (u[:, None].square() + u[:, None] * u[None, :] ** 3)).sum()

    H = torch.autograd.functional.hessian(dense_energy, torch.from_numpy(u_all))
    assert np.allclose(full(A.layout, product.detach()), H @ torch.from_numpy(v_all))


@pytest.mark.parametrize("case", CASES)
def test_mixed_second_derivative(world, case):
    """Of E = t sum a_ij u_i u_j^2, by u and then by t, which the exchanged values do not know."""
    matrix, partition = CASES[case]
    csr = matrix()
    A = distribute(csr, world, partition)
    u_all, v_all = np.random.default_rng(0).standard_normal((2, csr.shape[0]))
    u = spread(A.layout, u_all).requires_grad_()
    t = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    near = A.with_halo(u)[_local(A)]
    mine = u[A.pattern.local_rows()]
    energy = world.all_sum(world.replicate(t) * (A.values * mine * near.square()).sum())
    (g,) = torch.autograd.grad(energy, u, create_graph=True)
    (found,) = torch.autograd.grad(A.layout.dot(g, spread(A.layout, v_all)), t)
    expected = v_all @ (csr @ u_all**2) + v_all @ (2 * u_all * (csr.T @ u_all))
    assert np.isclose(float(found), expected)
