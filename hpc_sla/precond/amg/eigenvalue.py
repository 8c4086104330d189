"""The largest eigenvalue of a level's D^-1 A, cheaply."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.kernels import native
from hpc_sla.kernels.pages import empty
from hpc_sla.kernels.passes import minres_lanczos
from hpc_sla.precond.amg.products import LevelOperator
from hpc_sla.precond.spectrum import start_vector

STEPS = 8

EARLY, CLOSE = 3, 0.1
"""After so many steps a new estimate may be the old one, corrected by up to this part of it."""


@dataclass(frozen=True)
class Estimate:
    """A largest eigenvalue, about, and what it takes to bring it up to date. Replicated.

    Attributes
    ----------
    largest : float
        From below; NaN where the matrix is not finite.
    full, early : float
        The estimate that it goes back to, and that one's after the first few steps.
    """

    largest: float
    full: float
    early: float


def largest_eigenvalue(
    operator: LevelOperator,
    layout: RowLayout,
    inverse: torch.Tensor,
    before: Estimate | None = None,
    steps: int = STEPS,
) -> Estimate:
    """The largest eigenvalue of D^-1 A, from below, by Lanczos' method. **Collective.**

    In D's inner product, in which D^-1 A is symmetric where A is (Saad, Numerical Methods for
    Large Eigenvalue Problems, 2nd ed., section 6.6), without re-orthogonalisation: the largest
    Ritz value does not suffer from its lack. Few vectors are kept. The first has entries of one
    size in D^-1/2 A D^-1/2: then no row is out of sight, whatever its scale.

    Parameters
    ----------
    operator : LevelOperator
    layout : RowLayout
    inverse : torch.Tensor [n_owned]
        The diagonal of D^-1; 0 in rows that are not looked at.
    before : Estimate, optional
        For other values of A. The steps start from the same vector, so that where the first few
        come to nearly the same, all of them would: the rest is spared.
    """
    world = layout.world
    steps = min(steps, layout.n_global)
    # M^-1 = D^-1 of the preconditioned Lanczos method; u is left unscaled, its norm is beta.
    u, z, previous, q = (empty(inverse.shape, inverse) for _ in range(4))
    forced, sums = u.new_empty(()), u.new_empty(3)
    _start(layout, inverse, u, z, sums[0])
    previous.zero_()
    beta = _norm(world, sums[0].clone())
    diagonal: list[float] = []
    off: list[float] = []
    past, early = 1.0, 0.0
    for _ in range(steps):
        if not beta > 0:
            break
        operator.matmul(z, q, forced)
        world.transport.all_reduce_sum(forced)
        alpha = float(forced) / beta**2
        diagonal.append(alpha)
        # u_next = A z / beta - alpha u / beta - beta u_before / past
        minres_lanczos(q, previous, u, u, beta**2 / past, alpha, 1 / beta, inverse, sums)
        past, (u, previous, z, q) = beta, (previous, u, q, z)
        beta = _norm(world, sums[0].clone())
        off.append(beta)
        if not math.isfinite(beta):
            return Estimate(math.nan, math.nan, math.nan)
        if len(diagonal) == EARLY:
            early = largest_ritz(diagonal, off)
            if before and abs(early - before.early) <= CLOSE * before.early > 0:
                largest = before.full * (early / before.early)
                return Estimate(largest, before.full, before.early)
        if beta < 1e-5 * abs(diagonal[0]):  # an invariant subspace
            break
    largest = largest_ritz(diagonal, off)
    if before:  # what it goes back to stays, so that no update depends on those between
        return Estimate(largest, before.full, before.early)
    return Estimate(largest, largest, early)


def _start(
    layout: RowLayout, inverse: torch.Tensor, u: torch.Tensor, z: torch.Tensor, dot: torch.Tensor
) -> None:
    """`u = noise / sqrt |inverse|`, 0 where inverse is; `z = inverse u; dot = u . z`. Local."""
    if native.serves(inverse):
        wide = torch.empty(1, dtype=torch.float64, device="cpu")
        numbers = None if layout.natural else torch.from_numpy(layout.rows)
        vectors = (numbers, inverse, u, z, wide)
        native.call("lanczos_start", inverse, len(inverse), layout.start, *vectors)
        dot.copy_(wide[0])
        return
    size = inverse.abs()
    torch.mul(start_vector(layout).to(inverse), torch.where(size > 0, size.rsqrt(), 0.0), out=u)
    torch.mul(u, inverse, out=z)
    dot.copy_(torch.dot(u, z))


def largest_ritz(diagonal: list[float], off: list[float]) -> float:
    m = len(diagonal)
    if m == 0:
        return 0.0
    tridiagonal = np.diag(diagonal) + np.diag(off[: m - 1], 1) + np.diag(off[: m - 1], -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


def _norm(world: World, square: torch.Tensor) -> float:
    world.transport.all_reduce_sum(square)
    return math.sqrt(square) if square >= 0 else math.nan
