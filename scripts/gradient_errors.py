"""Print how exact gradients are: beside dense formulas and beside central differences.

mpiexec -n 2 python scripts/gradient_errors.py
mpiexec -n 4 python scripts/gradient_errors.py --n 32

Of c . x with A x = b, c drawn, with respect to b and to A's entries, and of a weighted sum of the 6
smallest eigenvalues with respect to A's entries. Dense: LAPACK on the gathered matrix, the largest
difference relative to the largest entry. Differences: of our own solves, along a drawn direction,
relative; the best step of a ladder, as both truncation and rounding err.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems

STEPS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
WEIGHTS = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.2, 0.7], dtype=torch.float64)


def whole(A: hs.DSparseMatrix, values: torch.Tensor) -> np.ndarray:
    """Values on A's pattern as a dense matrix, on every rank. **Collective.**"""
    mine = sp.coo_matrix((values.detach().cpu().numpy(), A.entries()), shape=A.shape)
    summed: np.ndarray = A.world.comm.allreduce(mine.toarray())
    return summed


def beside(ours: np.ndarray, expected: np.ndarray) -> float:
    return float(abs(ours - expected).max() / abs(expected).max())


def differences(at: Callable[[float], float], slope: float) -> float:
    return min(abs((at(h) - at(-h)) / (2 * h) - slope) / abs(slope) for h in STEPS)


def drawn(layout: hs.RowLayout, seed: int) -> torch.Tensor:
    """The same vector on any number of ranks; this rank's entries."""
    vector = np.random.default_rng(seed).standard_normal(layout.n_global)
    return torch.from_numpy(vector[layout.rows]).to(layout.world.device)


def of_solve(A: hs.DSparseMatrix, method: str, precond: str) -> tuple[float, float]:
    """**Collective.**"""
    world, b, c = A.world, drawn(A.layout, 1), drawn(A.layout, 2)
    values, rhs = A.values.clone().requires_grad_(), b.clone().requires_grad_()

    def loss(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x, info = hs.solve(A.with_values(values), b, method, precond, rtol=1e-13)
        assert info.converged, info.status
        return A.layout.dot(c, x)

    loss(values, rhs).backward()
    assert values.grad is not None and rhs.grad is not None
    D = whole(A, A.values)
    x, y = (np.linalg.solve(M, A.layout.allgather(v).numpy()) for M, v in ((D, b), (D.T, c)))
    dense = max(
        beside(whole(A, values.grad), -np.outer(y, x) * (D != 0)),
        beside(A.layout.allgather(rhs.grad).numpy(), y),
    )
    # A symmetric matrix must stay so, for cg.
    near = drawn(A.layout, 3), drawn(A.layout, 4)
    along = symmetric(A, near[0])
    slope = float(world.all_sum((values.grad * along).sum() + (rhs.grad * near[1]).sum()))

    def at(h: float) -> float:
        with torch.no_grad():
            return float(loss(A.values + h * along, b + h * near[1]))

    return dense, differences(at, slope)


def symmetric(A: hs.DSparseMatrix, d: torch.Tensor) -> torch.Tensor:
    """A change of A: a_ij (d_i + d_j). **Collective.**"""
    whole_d = A.layout.allgather(d)
    rows, cols = (torch.from_numpy(i) for i in A.entries())
    return A.values * 0.1 * (whole_d[rows] + whole_d[cols]).to(A.values)


def of_eigenvalues(A: hs.DSparseMatrix, precond: str) -> tuple[float, float]:
    """**Collective.**"""
    values = A.values.clone().requires_grad_()

    def loss(values: torch.Tensor) -> torch.Tensor:
        w, _, info = hs.eigsh(A.with_values(values), k=6, precond=precond, tol=1e-11)
        assert info.converged, info.status
        return (w * WEIGHTS).sum()

    loss(values).backward()
    assert values.grad is not None
    D = whole(A, A.values)
    _, V = scipy.linalg.eigh(D, subset_by_index=(0, 5))
    dense = beside(whole(A, values.grad), (V * WEIGHTS.numpy()) @ V.T * (D != 0))
    along = symmetric(A, drawn(A.layout, 3))
    slope = float(A.world.all_sum((values.grad * along).sum()))

    def at(h: float) -> float:
        with torch.no_grad():
            return float(loss(A.values + h * along))

    return dense, differences(at, slope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n", type=int, default=24, help="points on a side")
    n = parser.parse_args().n
    world = hs.World()
    lines = []
    for source, method, precond in (
        (f"poisson2d:n={n}", "cg", "jacobi"),
        (f"poisson2d:n={n}", "cg", "amg"),
        (f"jumps2d:n={n},contrast=100", "minres", "jacobi"),
        (f"convection2d:n={n}", "bicgstab", "jacobi"),
        (f"convection2d:n={n}", "gmres", "additive_schwarz"),
        (f"jumps2d:n={n},contrast=100", "eigsh, k=6", "amg"),
    ):
        A = problems.distribute(problems.make(source), world)
        eigen = method.startswith("eigsh")
        errors = of_eigenvalues(A, precond) if eigen else of_solve(A, method, precond)
        lines.append((source, f"{method} + {precond}", *(f"{e:.1e}" for e in errors)))
    if world.rank == 0:
        print(f"{world.size} rank(s)")
        for line in (("matrix", "solver", "dense", "differences"), *lines):
            print(f"  {line[0]:28s}{line[1]:28s}{line[2]:>10s}{line[3]:>14s}")


if __name__ == "__main__":
    main()
