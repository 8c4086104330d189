"""The largest eigenvalue of a level's D^-1 A, cheaply."""

from __future__ import annotations

import math

import numpy as np
import torch

from hpc_sla.layout import RowLayout
from hpc_sla.precond.amg.products import Operator
from hpc_sla.precond.spectrum import start_vector

STEPS = 8


def largest_eigenvalue(
    operator: Operator, layout: RowLayout, inverse: torch.Tensor, steps: int = STEPS
) -> float:
    """The largest eigenvalue of D^-1 A, from below, by Lanczos' method. **Collective.**

    In D's inner product, in which D^-1 A is symmetric where A is (Saad, Numerical Methods for
    Large Eigenvalue Problems, 2nd ed., section 6.6), without re-orthogonalisation: the largest
    Ritz value does not suffer from its lack. No vector but three is kept.

    Parameters
    ----------
    operator : Operator
    layout : RowLayout
    inverse : torch.Tensor [n_owned]
        The diagonal of D^-1.

    Returns
    -------
    float
        Replicated; NaN where A is not finite.
    """
    world = layout.world
    weights = inverse.abs().clamp(min=torch.finfo(inverse.dtype).tiny).reciprocal()
    steps = min(steps, layout.n_global)
    v = start_vector(layout).to(inverse)
    q, previous = torch.empty_like(v), torch.zeros_like(v)
    norm = _norm(world, weights, v)
    diagonal, off = [], [0.0]
    for _ in range(steps):
        if not norm > 0:
            break
        v /= norm
        operator.matmul(v, q)
        sums = torch.dot(v, q)
        world.transport.all_reduce_sum(sums)
        diagonal.append(float(sums))
        q.mul_(inverse).sub_(v, alpha=diagonal[-1]).sub_(previous, alpha=off[-1])
        previous, v, q = v, q, previous
        norm = _norm(world, weights, v)
        off.append(norm)
        if not math.isfinite(norm):
            return math.nan
        if norm < 1e-5 * abs(diagonal[0]):  # an invariant subspace
            break
    m = len(diagonal)
    if m == 0:
        return 0.0
    tridiagonal = np.diag(diagonal) + np.diag(off[1:m], 1) + np.diag(off[1:m], -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


def _norm(world, weights: torch.Tensor, v: torch.Tensor) -> float:  # type: ignore[no-untyped-def]
    square = torch.dot(v * weights, v)
    world.transport.all_reduce_sum(square)
    return math.sqrt(square) if square >= 0 else math.nan
