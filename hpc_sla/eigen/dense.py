"""Small problems: the whole matrix on every rank, and LAPACK."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from hpc_sla.eigen.inverse import improved
from hpc_sla.eigen.problem import EigenProblem
from hpc_sla.errors import InputError
from hpc_sla.sparse.operator import Operator

SMALL = 100
"""Rows that are few, whatever the number of pairs."""

_TURNS = 60
"""Steps of inverse iteration, at most."""


def serves(n: int, constraints: int, m: int) -> bool:
    """Whether the space is too small for a block of m vectors with two more beside it."""
    return n - constraints <= max(5 * m, SMALL)


def gathered_pairs(problem: EigenProblem) -> torch.Tensor:
    """This rank's rows of the vectors wanted, and of one more where there is one. **Collective.**

    Raises
    ------
    InputError
        On every rank: B is not positive definite.
    """
    layout = problem.A.layout
    A = _gathered(problem.A, problem.dtype)
    n = len(A)
    B = (
        torch.eye(n, dtype=A.dtype, device="cpu")
        if problem.B is None
        else _gathered(problem.B, problem.dtype)
    )
    mine = slice(layout.start, layout.start + layout.n_owned)
    B_Y = torch.zeros((n, 0), dtype=A.dtype, device="cpu")
    if problem.constraints:
        B_Y = torch.zeros((n, problem.constraints.count), dtype=A.dtype, device="cpu")
        B_Y[mine] = problem.constraints.B_Y.double().cpu()
        B_Y = problem.all_sum(B_Y.to(problem.A.device)).cpu()
    # By rank 0: another processor's LAPACK may choose other vectors of a multiple value.
    vectors = torch.from_numpy(
        layout.world.on_root(lambda: _by_parts(problem.sign * A, B, B_Y, problem.k + 1).numpy())
    )
    return vectors[mine].to(problem.A.device, problem.dtype).contiguous()


def _by_parts(A: torch.Tensor, B: torch.Tensor, B_Y: torch.Tensor, count: int) -> torch.Tensor:
    """As `_pairs`, each set of rows that are coupled by itself. Local.

    So rows without entries, or of other units, have none of the rounding errors of the others.
    """
    labels = connected_components(csr_array(((A != 0) | (B != 0)).numpy()), directed=False)[1]
    if B_Y.shape[1] or not labels.any():
        return _pairs(A, B, B_Y, count)
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    found, values = [], []
    for part in map(torch.from_numpy, parts):
        own, mass = A[part][:, part], B[part][:, part]
        X = _pairs(own, mass, B_Y[part], count)
        vectors = A.new_zeros((len(A), X.shape[1]))
        vectors[part] = X
        found.append(vectors)
        values.append((X * (own @ X)).sum(dim=0) / (X * (mass @ X)).sum(dim=0))
    lowest = torch.argsort(torch.cat(values), stable=True)[:count]
    return torch.cat(found, dim=1)[:, lowest].contiguous()


def _pairs(A: torch.Tensor, B: torch.Tensor, B_Y: torch.Tensor, count: int) -> torch.Tensor:
    """B-orthonormal vectors of the first values of a dense pencil, B-orthogonal to Y. Local."""
    basis = torch.eye(len(A), dtype=A.dtype, device="cpu")
    if B_Y.shape[1]:
        basis = torch.linalg.qr(B_Y, mode="complete")[0][:, B_Y.shape[1] :].contiguous()
        A, B = (basis.T @ matrix @ basis for matrix in (A, B))
    lower, failed = torch.linalg.cholesky_ex(B)
    if int(failed):
        raise InputError(
            "is not positive definite, or so near to it that rounding decides",
            field="B",
            remedy="Pass a matrix of which v . B v > 0 for every v",
        )
    half = torch.linalg.solve_triangular(lower, A, upper=False)
    small = torch.linalg.solve_triangular(lower, half.T, upper=False)
    if not bool(small.isfinite().all()):
        raise InputError("has entries that are too large beside those of B", field="A")
    Z = torch.linalg.eigh((small + small.T) * 0.5)[1]
    vectors = torch.linalg.solve_triangular(lower.T, Z[:, : count + 2], upper=True)
    return basis @ improved(A, B, vectors, min(count, len(A)), _TURNS)


def _gathered(operator: Operator, dtype: torch.dtype) -> torch.Tensor:
    """The matrix in stored order, symmetrised, in double precision. **Collective.**"""
    layout = operator.layout
    n = layout.n_global
    columns = torch.zeros((layout.n_owned, n), dtype=dtype, device=operator.device)
    columns[:, layout.start : layout.start + layout.n_owned].fill_diagonal_(1.0)
    rows = torch.empty_like(columns)
    operator(columns, rows)
    whole = torch.from_numpy(layout.world.stacked(rows.double().cpu().numpy()))
    return (whole + whole.T) * 0.5
