"""Second derivatives where a rank's part of a vector is empty, its halo or all it owns.

Autograd drops empty parts of a torch.cat from a graph. A rank that leaves a collective out of its
backward pass for that hangs the others: these tests end or not.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import distribute, full, spread

pytestmark = pytest.mark.mpi

PARTITIONS = {"no halo on the last rank": "contiguous", "all on the last rank": "all on the last"}


def _upper(n):
    """Rows need values of later ranks only."""
    rng = np.random.default_rng(260)
    return sp.csr_matrix(
        sp.diags_array([rng.uniform(2, 3, n), rng.uniform(-1, 1, n - 1)], offsets=[0, 1])
    )


def _by_halo(A, world):
    local = torch.cat(
        [A.pattern.owned.indices.long(), A.pattern.halo.indices.long() + A.layout.n_owned]
    )
    rows = A.pattern.local_rows()

    def residual(u, s, f):
        near = torch.cat([u, A.halo(u)])[local]
        terms = A.values * (near + world.replicate(s) * near * u[rows].square())
        return torch.zeros_like(u).index_add(0, rows, terms) - f

    return residual


def _by_products_of_parts(A, world):
    """Joined by cat: on a rank without rows all of it is lost sight of."""

    def residual(u, s, f):
        both = torch.cat([A @ u, A @ u**3 / 3, f])
        first, cubes, load = both.reshape(3, -1)
        return first + world.replicate(s) * cubes - load

    return residual


def _dense(form, a, u, s, f):
    if form is _by_halo:
        return a @ u + s * u.square() * (a @ u) - f
    return a @ u + s * (a @ u**3) / 3 - f


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("form", [_by_halo, _by_products_of_parts])
def test_products_in_reverse_mode_and_gradients_twice(world, form, partition):
    n, s0 = 9, 0.3
    csr = _upper(n)
    f_all, c_all = np.random.default_rng(261).standard_normal((2, n))
    A = distribute(csr, world, PARTITIONS[partition])
    s = torch.tensor(s0, dtype=torch.float64, requires_grad=True)
    f, c = spread(A.layout, f_all).requires_grad_(), spread(A.layout, c_all)
    u, info = hs.nonlinear_solve(
        form(A, world),
        torch.zeros_like(f).detach(),
        s,
        f,
        layout=A.layout,
        rtol=1e-13,
        adjoint_rtol=1e-12,
    )
    assert info.converged
    d_s, d_f = torch.autograd.grad(A.layout.dot(u, u.exp()), (s, f), create_graph=True)
    # d_s comes whole to every rank, so its use is replicated.
    second = torch.autograd.grad(A.layout.dot(d_f, c) + d_s, (s, f))

    a, f_whole = (torch.from_numpy(t) for t in (csr.toarray(), f_all))
    s_whole, start = torch.tensor(s0, dtype=torch.float64), full(A.layout, u.detach())

    def solve(s, f):
        """A root with a graph: two exact Newton steps from the root."""
        root = torch.from_numpy(start)
        for _ in range(2):
            jacobian = torch.func.jacrev(lambda v: _dense(form, a, v, s, f))
            root = root - torch.linalg.solve(jacobian(root), _dense(form, a, root, s, f))
        return root

    def slope(s, f):
        g_s, g_f = torch.func.grad(lambda s, f: _loss(solve(s, f)), argnums=(0, 1))(s, f)
        return g_f @ torch.from_numpy(c_all) + g_s, (g_s, g_f)

    def _loss(root):
        return root @ root.exp()

    expected, first = torch.func.grad(slope, argnums=(0, 1), has_aux=True)(s_whole, f_whole)
    assert np.isclose(d_s.item(), float(first[0]), atol=1e-9)
    assert np.allclose(full(A.layout, d_f.detach()), first[1], atol=1e-9)
    assert np.isclose(float(second[0]), float(expected[0]), atol=1e-8)
    assert np.allclose(full(A.layout, second[1]), expected[1], atol=1e-8)
