"""Hold a DSparseMatrix and its solver against a reference: what differs, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import noise
from hpc_sla.reference.base import Reference, ReferenceSolution
from hpc_sla.sparse.matrix import DSparseMatrix

_SEED = 20240229
# Room for the few roundings around the sums that the bounds below count.
_SLACK = 8


@dataclass(frozen=True)
class Check:
    """One comparison of ours with a reference: how far apart they are, and how far they may be.

    Attributes
    ----------
    name : str
    difference, tolerance : float
    note : str
        What the difference is, in a few words.
    """

    name: str
    difference: float
    tolerance: float
    note: str

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN


def compare_products(A: DSparseMatrix, reference: Reference, seed: int = _SEED) -> list[Check]:
    """A x and A^T x for a random x. **Collective.**

    Two correct products may differ in row i by 2 n_i eps (|A| |x|)_i, where n_i is the number of
    terms of the sum (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., (3.12)):
    so the difference is taken relative to (|A| |x|)_i, row by row, and a single wrong entry
    shows however small it is beside the rest of the matrix.

    Parameters
    ----------
    A : DSparseMatrix
    reference : Reference
        Of the same layout.
    seed : int
    """
    layout = A.layout
    eps = float(torch.finfo(A.dtype).eps)
    x = torch.from_numpy(noise(layout.rows, seed)).to(device=A.device, dtype=A.dtype)
    exact_x, ones = _numpy(x), np.ones(layout.n_owned)
    size, pattern = reference.map_entries(np.abs), reference.map_entries(np.ones_like)
    checks = []
    for name, ours, theirs, scale, terms in (
        (
            "A x",
            A @ x,
            reference.multiply(exact_x),
            size.multiply(np.abs(exact_x)),
            pattern.multiply(ones),
        ),
        (
            "A^T x",
            A.T @ x,
            reference.multiply_transpose(exact_x),
            size.multiply_transpose(np.abs(exact_x)),
            pattern.multiply_transpose(ones),
        ),
    ):
        longest = _largest(layout, terms)
        difference = _largest(layout, _relative(_numpy(ours) - theirs, scale))
        tolerance = (2 * longest + _SLACK) * eps
        checks.append(Check(name, difference, tolerance, "largest, relative to |A| |x|"))
    size.close()
    pattern.close()
    return checks


def compare_solutions(
    A: DSparseMatrix,
    b: torch.Tensor,
    x: torch.Tensor,
    iterations: int | None,
    reference: Reference,
    theirs: ReferenceSolution,
    rtol: float,
    atol: float,
) -> list[Check]:
    """Our solution of A x = b and the reference's. **Collective.**

    - Our residual, recomputed with the reference's product, meets the tolerance.
    - The solutions differ by no more than two residuals of that size allow: twice
      ||A^-1|| ||r|| / ||x||, and never less than ten times the tolerance.
    - The iteration counts agree within 1 %, or one iteration.

    Parameters
    ----------
    b, x : torch.Tensor [n_owned]
    iterations : int or None
        Ours; None when there is nothing to compare them with.
    reference, theirs
        The reference, and what it answered for the same b, rtol and atol.
    rtol, atol : float
    """
    layout = A.layout
    eps = float(torch.finfo(A.dtype).eps)
    right, ours = _numpy(b), _numpy(x)
    b_norm = _norm(layout, right) or 1.0
    target = max(rtol, atol / b_norm)

    residual = right - reference.multiply(ours)
    size = reference.map_entries(np.abs)
    rounding = _norm(layout, size.multiply(np.abs(ours))) / b_norm
    size.close()
    checks = [
        Check(
            "residual",
            _norm(layout, residual) / b_norm,
            1.001 * target + _SLACK * eps * rounding,
            f"of our solution, by {reference.name}'s product",
        )
    ]
    if not theirs.converged:
        return [*checks, Check("solution", math.nan, 0.0, f"{reference.name}: {theirs.reason}")]
    x_norm = _norm(layout, theirs.x) or 1.0
    difference = _norm(layout, ours - theirs.x) / x_norm
    moved = 2 * target * theirs.inverse_norm * b_norm / x_norm
    if not math.isfinite(moved):
        moved = 0.0
    checks.append(Check("solution", difference, max(10 * target, moved), "relative, 2-norm"))
    if iterations is not None and theirs.iterations is not None:
        note = f"{iterations} here, {theirs.iterations} in {reference.name}"
        apart = abs(iterations - theirs.iterations)
        allowed = max(1.0, 0.01 * theirs.iterations)
        checks.append(Check("iterations", float(apart), allowed, note))
    return checks


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().numpy().astype(np.float64)


def _relative(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """|difference| / scale; 0 where both are 0, infinite where only the scale is."""
    ratio = np.full(len(scale), np.inf)
    np.divide(np.abs(difference), scale, out=ratio, where=scale > 0)
    ratio[(scale == 0) & (difference == 0)] = 0.0
    return ratio


def _largest(layout: RowLayout, values: np.ndarray) -> float:
    """The largest entry over all ranks; NaN if there is one. **Collective.**"""
    here = float(np.max(values, initial=0.0))
    # MPI's maximum may lose a NaN, so it travels as an infinity.
    return layout.world.max(math.inf if math.isnan(here) else here)


def _norm(layout: RowLayout, values: np.ndarray) -> float:
    """The Euclidean norm over all ranks. **Collective.**"""
    return math.sqrt(layout.world.sum(float(values @ values)))
