"""Matrices of any magnitude, brought near 1 by a power of two, so that no square is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.hashing import noise
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.operators import as_operator

_NEAR = {torch.float64: 64, torch.float32: 30}
"""Exponents of two up to which the largest entry is left as it is."""

_FAR = {torch.float64: 300, torch.float32: 60}
"""How far below 1 the smallest entry may come to lie for the sake of the largest."""


@dataclass(frozen=True)
class Exponents:
    """Powers of two that A and B were divided by; B's is even. Replicated."""

    A: int = 0
    B: int = 0

    @property
    def values(self) -> int:
        """The exponent that eigenvalues are scaled by."""
        return self.A - self.B

    @property
    def vectors(self) -> int:
        """The exponent of vectors, in the norm of B."""
        return -self.B // 2

    @property
    def residuals(self) -> int:
        return self.A - self.B // 2


NEAR_ONE = Exponents()


@torch.no_grad()
def exponent(A: Any, field: str, dtype: torch.dtype) -> int:
    """What to divide A by: 0 where its entries are of common size. **Collective**; replicated.

    Raises
    ------
    InputError
        On every rank, where an entry is not finite.
    """
    operator = as_operator(A)
    if isinstance(A, DSparseMatrix):
        sizes = A.values.detach().abs()
    else:
        x = torch.from_numpy(noise(operator.columns.rows, 1)).to(operator.device, dtype)
        sizes = torch.empty_like(x)
        operator(x, sizes)
        sizes = sizes.abs()
    extremes = [0.0, 0.0]
    if sizes.numel():
        least = torch.where(sizes > 0, sizes, math.inf).min()
        extremes = [float(sizes.max()), float(1 / least.double())]
    if math.isnan(extremes[0]):  # which MPI's maximum may drop
        extremes[0] = math.inf
    largest, inverse = (operator.world.max(value) for value in extremes)
    if largest == math.inf:
        raise InputError(
            "has entries, or products, that are not finite", field=field, remedy="Look at them"
        )
    if not largest:
        return 0
    top = math.frexp(largest)[1] - 1
    if abs(top) <= _NEAR[dtype]:
        return 0
    # The inverse of a subnormal number overflows; then the least is farther away than counts.
    bottom = -1074 if math.isinf(inverse) else 1 - math.frexp(inverse)[1]
    chosen = top - _FAR[dtype] if top - bottom > _FAR[dtype] else top
    return chosen // 2 * 2


def scaled(A: Any, power: int) -> Any:
    """A times 2^-power, A itself for 0."""
    if not power:
        return A
    if isinstance(A, DSparseMatrix):
        return A.with_values(times_power(A.values.detach(), -power))
    return _Scaled(as_operator(A), -power)


def times_power(x: torch.Tensor, power: int) -> torch.Tensor:
    """The product of x and 2^power, in steps of which none overflows by itself."""
    most = 1000 if x.dtype == torch.float64 else 100
    while power:
        step = max(-most, min(power, most))
        x = x * 2.0**step
        power -= step
    return x


def number_times_power(x: float, power: int) -> float:
    try:
        return math.ldexp(x, power)
    except OverflowError:
        return math.copysign(math.inf, x)


class _Scaled(Operator):
    """An operator times a power of two."""

    def __init__(self, operator: Operator, power: int) -> None:
        super().__init__(operator.layout, operator.columns, operator.dtype, operator.device)
        self._operator, self._power = operator, power

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        self._operator(x, out)
        out.copy_(times_power(out, self._power))

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        self._operator.adjoint(y, out)
        out.copy_(times_power(out, self._power))

    def diagonal(self) -> torch.Tensor:
        return times_power(self._operator.diagonal(), self._power)


class ScaledPreconditioner(Preconditioner):
    """One of A, for A 2^-power."""

    def __init__(self, of: Preconditioner, power: int) -> None:
        self._of, self._power = of, power
        self.name, self.symmetric, self.transposable = of.name, of.symmetric, of.transposable
        self.inverse = None if of.inverse is None else times_power(of.inverse, power)

    @property
    def pointwise(self) -> bool:
        return self._of.pointwise

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return times_power(self._of.apply(r, out), self._power)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return times_power(self._of.apply_transpose(r, out), self._power)


def unit_columns(x: torch.Tensor, world: World, field: str) -> torch.Tensor:
    """The block in float64 with each column's largest entry near 1. **Collective.** [n_owned, m].

    Raises
    ------
    InputError
        On every rank, where an entry is not finite.
    """
    x = x.detach().double()
    largest = x.abs().amax(dim=0).cpu().numpy() if len(x) else np.zeros(x.shape[1])
    largest[np.isnan(largest)] = np.inf
    largest = world.largest(largest)
    if not np.isfinite(largest).all():
        raise InputError("has entries that are not finite", field=field, remedy="Leave them out")
    powers = np.frexp(largest)[1]
    half = torch.from_numpy(np.ldexp(1.0, -(powers // 2))).to(x.device)
    return x * half * torch.from_numpy(np.ldexp(1.0, -(powers - powers // 2))).to(x.device)
