"""Small nonlinear systems, their roots and gradients by dense formulas in one process."""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.sparse as sp
import torch

from tests.collective import distribute_once, random_matrix, spread

N = 19


def matrix(n: int = N, seed: int = 200) -> sp.csr_matrix:
    """Not symmetric, diagonally dominant."""
    off = random_matrix(n, 4.0 / n, seed)
    dominant = np.asarray(abs(off).sum(axis=1)).ravel() + 1.0
    return sp.csr_matrix(off + sp.diags_array(dominant))


def vector(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def dense_residual(A, u, d, s, f):
    """A u + s d u^3 + sin(A u) - f, on whole vectors."""
    return A @ u + s * d.square() * u**3 + torch.sin(A @ u) * 0.3 - f


def on_world(world):
    """`matrix()` on these ranks."""
    return distribute_once(matrix(), world)


class Dense:
    """The root and, of a loss c . u + u . u, every gradient; float64 on one process."""

    def __init__(self, csr: sp.csr_matrix, d, s, f, c) -> None:
        self.A = torch.from_numpy(csr.toarray())
        self.d, self.f, self.c = (torch.from_numpy(v) for v in (d, f, c))
        self.s = torch.tensor(s, dtype=torch.float64)
        u = torch.zeros_like(self.f)
        while float(self.residual(u).norm()) > 1e-12:
            J = torch.func.jacrev(lambda u: self.residual(u))(u)
            u = u - torch.linalg.solve(J, self.residual(u))
        self.u = u

    def residual(self, u):
        return dense_residual(self.A, u, self.d, self.s, self.f)

    def gradients(self):
        """Of the matrix (dense), d, s and f."""
        tensors = [t.clone().requires_grad_() for t in (self.A, self.d, self.s, self.f)]
        J = torch.func.jacrev(lambda u: self.residual(u))(self.u)
        y = torch.linalg.solve(J.T, self.c + 2 * self.u)
        r = dense_residual(tensors[0], self.u, *tensors[1:])
        return [-g for g in torch.autograd.grad(r, tensors, y)]


def on_ranks(world, A):
    """The same residual on this rank's entries."""

    def residual(u, A, d, s, f):
        Au = A @ u
        return Au + world.replicate(s) * d.square() * u**3 + torch.sin(Au) * 0.3 - f

    return residual


@cache
def known() -> Dense:
    """The system that most tests are about."""
    return Dense(matrix(), vector(201), 0.7, 3 * vector(202), vector(203))


def parameters(A, d, s, f):
    """Leaves on this rank: the matrix's values, d, s (replicated) and f."""
    values = A.values.clone().requires_grad_()
    d, f = (spread(A.layout, v).requires_grad_() for v in (d, f))
    return values, d, torch.tensor(s, dtype=torch.float64, requires_grad=True), f
