"""Small systems, their gradients by the dense formula, and functions of replicated inputs."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import dense, full, random_matrix, spread

N = 23


def _coupling(seed: int, symmetric: bool) -> sp.csr_matrix:
    coupling = random_matrix(N, 0.12, seed, symmetric).tolil()
    coupling.setdiag(0)
    return sp.csr_matrix(coupling / abs(coupling).sum(axis=1).max())


def _indefinite() -> sp.csr_matrix:
    signs = np.where(np.arange(N) % 3 == 0, -1.0, 1.0)
    size = np.random.default_rng(60).uniform(1.5, 3.0, N)
    return sp.csr_matrix(sp.diags_array(signs * size) + _coupling(61, True))


FAMILIES = {
    "spd": lambda: sp.csr_matrix(sp.diags_array(np.linspace(1.5, 4, N)) + _coupling(62, True)),
    "indefinite": _indefinite,
    "nonsymmetric": lambda: sp.csr_matrix(
        sp.diags_array(np.linspace(1.5, 3, N)) + _coupling(63, False)
    ),
}
"""Well conditioned, so that every method gets to the last digits."""


def random(shape, seed: int, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def leaves(A: hs.DSparseMatrix, b: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and right-hand side that require a gradient."""
    return A.values.clone().requires_grad_(), spread(A.layout, b).requires_grad_()


def dense_gradients(matrix, b, cotangent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, and the gradients of cotangent . x with respect to A (on its pattern) and b."""
    matrix = matrix.toarray() if sp.issparse(matrix) else matrix
    wide = matrix.astype(np.float64)
    x = torch.linalg.solve(torch.from_numpy(wide), torch.from_numpy(b.astype(np.float64)))
    adjoint = torch.linalg.solve(
        torch.from_numpy(wide.T.copy()), torch.from_numpy(cotangent.astype(np.float64))
    )
    x, y = (t.numpy().reshape(len(b), -1) for t in (x, adjoint))
    return x.reshape(b.shape), -(y @ x.T) * (matrix != 0), y.reshape(b.shape)


def error(ours: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(ours - expected).max() / max(np.abs(expected).max(), 1e-300))


def errors(A, values, b, matrix, rhs, cotangent, transposed=False) -> tuple[float, float]:
    """How far `values.grad` and `b.grad` are from the dense formula."""
    whole = matrix.T.toarray() if transposed else matrix.toarray()
    _, of_a, of_b = dense_gradients(whole, rhs, cotangent)
    layout = A.columns if transposed else A.layout
    mine = dense(A, values.grad)
    return error(mine.T if transposed else mine, of_a), error(full(layout, b.grad), of_b)


class Whole:
    """Distributed things as functions of whole ones that every rank holds, and back.

    gradcheck then does the same on every rank.
    """

    def __init__(self, A: hs.DSparseMatrix) -> None:
        self.A, self.world = A, A.world
        counts = self.world.comm.allgather(A.nnz_owned)
        self.start, self.nnz = sum(counts[: self.world.rank]), sum(counts)

    def values(self) -> torch.Tensor:
        pieces = self.world.comm.allgather(self.A.values.detach().numpy())
        return torch.from_numpy(np.concatenate(pieces))

    def own_values(self, whole: torch.Tensor) -> torch.Tensor:
        return self.world.replicate(whole)[self.start : self.start + self.A.nnz_owned]

    def own(self, whole: torch.Tensor) -> torch.Tensor:
        return self.world.replicate(whole)[torch.from_numpy(self.A.layout.rows)]

    def gathered(self, x: torch.Tensor) -> torch.Tensor:
        zeros = x.new_zeros((self.A.layout.n_global, *x.shape[1:]))
        return self.world.all_sum(zeros.index_add(0, torch.from_numpy(self.A.layout.rows), x))
