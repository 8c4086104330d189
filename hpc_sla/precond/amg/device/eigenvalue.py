"""The largest eigenvalue on a device: as `precond/amg/eigenvalue.py`, in one or two waits."""

from __future__ import annotations

import math

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.device.numbers import noise, user_rows
from hpc_sla.precond.amg.eigenvalue import CLOSE, EARLY, STEPS, Estimate, largest_ritz
from hpc_sla.precond.amg.products import LevelOperator

Tensor = torch.Tensor


def estimated(
    operator: LevelOperator,
    layout: RowLayout,
    inverse: Tensor,
    before: Estimate | None = None,
    steps: int = STEPS,
) -> Estimate:
    """As `largest_eigenvalue`, its coefficients left on the device till the end. **Collective.**

    Parameters and the result are those of `amg.eigenvalue.largest_eigenvalue`.
    """
    steps = min(steps, layout.n_global)
    lanczos = _Lanczos(operator, layout, inverse)
    if before is not None and steps >= EARLY:
        lanczos.go_on(EARLY)
        diagonal, off = lanczos.coefficients()
        if off and not math.isfinite(off[-1]):
            return Estimate(math.nan, math.nan, math.nan)
        early = largest_ritz(diagonal, off)
        if len(diagonal) == EARLY and abs(early - before.early) <= CLOSE * before.early > 0:
            return Estimate(before.full * (early / before.early), before.full, before.early)
    lanczos.go_on(steps)
    diagonal, off = lanczos.coefficients()
    if off and not math.isfinite(off[-1]):
        return Estimate(math.nan, math.nan, math.nan)
    largest = largest_ritz(diagonal, off)
    if before is not None:
        return Estimate(largest, before.full, before.early)
    early = largest_ritz(diagonal[:EARLY], off[:EARLY]) if len(diagonal) >= EARLY else 0.0
    return Estimate(largest, largest, early)


class _Lanczos:
    """The recurrence of `largest_eigenvalue`, which see for its vectors. **Collective.**"""

    def __init__(self, operator: LevelOperator, layout: RowLayout, inverse: Tensor) -> None:
        self._operator, self._transport, self._inverse = operator, layout.world.transport, inverse
        size = inverse.abs()
        start = noise(user_rows(layout, inverse.device) + 1).to(inverse.dtype)
        self._u = start.mul_(torch.where(size > 0, size.rsqrt(), 0.0))
        self._z = self._u * inverse
        self._previous, self._q = torch.zeros_like(self._u), torch.empty_like(self._u)
        self._past = self._u.new_ones(())
        self._diagonal: list[Tensor] = []
        self._norms = [self._norm()]

    def go_on(self, steps: int) -> None:
        """Until so many have been made. **Collective.**"""
        while len(self._diagonal) < steps:
            beta, forced = self._norms[-1], self._u.new_empty(())
            self._operator.matmul(self._z, self._q, forced)
            self._transport.all_reduce_sum(forced)
            alpha = forced / beta**2
            following = self._q.addcmul_(self._previous, beta**2 / self._past, value=-1)
            following.addcmul_(self._u, alpha, value=-1).div_(beta)
            # What u was before last is room for the next product.
            self._u, self._previous, self._q = following, self._u, self._previous
            torch.mul(following, self._inverse, out=self._z)
            self._past = beta
            self._diagonal.append(alpha)
            self._norms.append(self._norm())

    def coefficients(self) -> tuple[list[float], list[float]]:
        """Alpha and beta of the steps until there is no next one, or it is not finite. Local."""
        found = torch.stack([*self._diagonal, *self._norms]).double().tolist()
        alpha, beta = found[: len(self._diagonal)], found[len(self._diagonal) :]
        diagonal: list[float] = []
        off: list[float] = []
        for size, entry, following in zip(beta[:-1], alpha, beta[1:], strict=True):
            if not size > 0:
                break
            diagonal.append(entry)
            off.append(following)
            if not following >= 1e-5 * abs(diagonal[0]):  # an invariant subspace, or a NaN
                break
        return diagonal, off

    def _norm(self) -> Tensor:
        square = torch.dot(self._u, self._z)
        self._transport.all_reduce_sum(square)
        return square.sqrt()
