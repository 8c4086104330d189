"""How good a solution is beside its relative residual: by rows, and beside rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hpc_sla.linear.info import worst
from hpc_sla.operators import Operator
from hpc_sla.world import World

_ROUNDING = 10.0
"""What a method at its limit leaves of |A||x| + |b|, in units of rounding, at most. The
best x there is in its dtype leaves half of one or less, cg three where it takes long."""

_UNEVEN = 1e3
"""How much more than that a single row may be left with."""

_HIDDEN = 1e4
"""By how much a row's error may exceed the relative residual before somebody should be told."""


@dataclass(frozen=True)
class Accuracy:
    """Of one right-hand side; replicated.

    Attributes
    ----------
    backward_error : float or None
        max_i |b - A x|_i / (|A||x| + |b|)_i: how far the entries of A and b would have to be
        changed, relative to each, for x to be exact (W. Oettli and W. Prager, Numer. Math. 6,
        1964). None where A has no entries to see.
    at_rounding : bool
        Whether b - A x is what rounding makes of a product, by norms and, to some thousand times
        as much, row by row: no better x can be expected in this dtype.
    hidden : bool
        Whether there are rows whose error the norm of the residual hides.
    """

    backward_error: float | None
    at_rounding: bool
    hidden: bool = False


def accuracy(
    operator: Operator, b: torch.Tensor, x: torch.Tensor, r: torch.Tensor, rtol: float
) -> list[Accuracy]:
    """Of each column, for r = b - A x of a square operator. **Collective**: one product or two.

    Parameters
    ----------
    operator : Operator
    b, x, r : torch.Tensor [n_owned] or [n_owned, k]
        Not modified.
    rtol : float
        Replicated. A row that is as good as that has no error to hide.
    """
    # Of a factorisation they may lie in memory by columns.
    b, x, r = b.contiguous(), x.contiguous(), r.contiguous()
    scale = torch.empty_like(b)
    if not operator.absolute(x, scale):
        return _without_entries(operator, b, x, r)
    scale.add_(b.abs())
    errors = r.abs()
    componentwise, squares = _maxima(_ratio(errors, scale)), _squares(errors, scale, b)
    told = operator.world.comm.allgather((componentwise, squares))
    found = [worst(column) for column in zip(*(c for c, _ in told), strict=True)]
    sums = _summed([s for _, s in told])
    unit = _ROUNDING * torch.finfo(b.dtype).eps
    rounded, relative = [], []
    for errors2, scale2, b2 in zip(*sums, strict=True):
        rounded.append(_root_ratio(errors2, scale2) <= unit)
        relative.append(_root_ratio(errors2, b2))
    rows = found
    if any(
        error > _HIDDEN * norm or (low and error > _UNEVEN * unit)
        for error, norm, low in zip(found, relative, rounded, strict=True)
    ):
        # An x that decays has rows of tiny numbers that nobody asks of: beside the largest of x
        # their errors are none (M. Arioli, J. W. Demmel and I. S. Duff, SIAM J. Matrix Anal.
        # Appl. 10, 1989).
        sizes = torch.empty_like(b)
        largest = _agreed_maxima(operator.world, x.abs())
        operator.absolute(torch.ones_like(x), sizes)
        scale.addcmul_(sizes, b.new_tensor(largest).reshape(b.shape[1:]))
        rows = _agreed_maxima(operator.world, _ratio(errors, scale))
    return [
        Accuracy(error, low and row <= _UNEVEN * unit, row > _HIDDEN * norm and row > rtol)
        for error, row, norm, low in zip(found, rows, relative, rounded, strict=True)
    ]


def _without_entries(
    operator: Operator, b: torch.Tensor, x: torch.Tensor, r: torch.Tensor
) -> list[Accuracy]:
    """By norms, that of A from its product with a vector of noise. **Collective.**"""
    noise = operator.noise(1, b.dtype).reshape(-1, *[1] * (b.dim() - 1)).expand_as(x).contiguous()
    image = torch.empty_like(b)
    operator(noise, image)
    mine = _squares(r, x, b, image, noise)
    sums = _summed(operator.world.comm.allgather(mine))
    unit = _ROUNDING * torch.finfo(b.dtype).eps
    found = []
    for r2, x2, b2, image2, noise2 in zip(*sums, strict=True):
        size = _root_ratio(image2, noise2) * math.sqrt(x2) + math.sqrt(b2)
        found.append(Accuracy(None, math.sqrt(r2) <= unit * size))
    return found


def _ratio(errors: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """By rows; 0 where there is no error, NaN where the scale overflows."""
    ratio = torch.where(errors > 0, errors / scale, errors)
    return torch.where(scale.isinf(), torch.nan, ratio)


def _columns(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor


def _maxima(tensor: torch.Tensor) -> list[float]:
    """This rank's largest by columns: NaN where there is one."""
    columns = _columns(tensor)
    return columns.amax(dim=0).tolist() if len(columns) else [0.0] * columns.shape[1]


def _agreed_maxima(world: World, tensor: torch.Tensor) -> list[float]:
    """**Collective.**"""
    told = world.comm.allgather(_maxima(tensor))
    return [worst(column) for column in zip(*told, strict=True)]


def _squares(*tensors: torch.Tensor) -> list[list[float]]:
    """This rank's parts of the square norms, of each tensor by columns."""
    squares = [_columns(tensor).double().square().sum(dim=0) for tensor in tensors]
    return torch.stack(squares).tolist()


def _summed(told: list[list[list[float]]]) -> list[list[float]]:
    """Every rank's squares, added up."""
    rows = zip(*told, strict=True)
    return [[math.fsum(parts) for parts in zip(*row, strict=True)] for row in rows]


def _root_ratio(square: float, other: float) -> float:
    """The ratio of the norms that belong to two squares; infinite, or 0, beside nothing."""
    if not other:
        return math.inf if square else 0.0
    ratio = square / other
    return math.sqrt(ratio) if ratio >= 0 else math.nan
