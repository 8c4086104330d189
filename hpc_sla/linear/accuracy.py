"""How good a solution is beside its relative residual: by rows, and beside rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from hpc_sla.kernels import accuracy as kernel
from hpc_sla.kernels.vectors import dense
from hpc_sla.linear.info import SolveInfo, root
from hpc_sla.sparse.operator import Operator

_ROUNDING = 10.0
"""What a method at its limit leaves of |A||x| + |b|, in units of rounding, at most. The
best x there is in its dtype leaves half of one or less, cg three where it takes long."""

_UNEVEN = 1e3
"""How much more than that a single row may be left with."""

_HIDDEN = 1e4
"""By how much a row's error may exceed the relative residual before somebody should be told."""


@dataclass(slots=True)  # frozen, each field would take as long as all of them
class Accuracy:
    """How accurate the solution for one right-hand side is; replicated.

    Attributes
    ----------
    backward_error : float or None
        max_i |b - A x|_i / (|A||x| + |b|)_i: how far the entries of A and b would have to be
        changed, relative to each, for x to be exact (W. Oettli and W. Prager, Numer. Math. 6,
        1964). Where that exceeds the relative residual, a row whose divisor is below rtol of
        (|A| max|x| + |b|)_i is measured by the sum of the two: of numbers that are nothing beside
        x, as where b = 0 in a decoupled row, nobody asks how exact they are (M. Arioli, J. W.
        Demmel and I. S. Duff, SIAM J. Matrix Anal. Appl. 10, 1989). None where A has no entries
        to see.
    at_rounding : bool
        Whether b - A x is what rounding makes of a product, by norms and, to some thousand times
        as much, row by row: no better x can be expected in this dtype.
    hidden : bool
        Whether there are rows whose error the norm of the residual hides.
    norm : float
        ||b - A x||_2.
    floor : float
        What rounding may make of b - A x in these norms, relative to ||b||: eps || |A||x| + |b| ||.
        From 1 on b is lost in it, and no residual that is computed says anything: A is singular to
        rounding, and x mostly of its kernel.
    """

    norm: float
    backward_error: float | None
    at_rounding: bool
    hidden: bool = False
    floor: float = 0.0


def accuracy(
    operator: Operator,
    b: torch.Tensor,
    x: torch.Tensor,
    r: torch.Tensor,
    rtol: float,
    again: bool = False,
    spare: Sequence[torch.Tensor] = (),
) -> list[Accuracy]:
    """That of each column, r = b - A x of a square operator. **Collective**: a product.

    Parameters
    ----------
    operator : Operator
    b, x, r : torch.Tensor [n_owned] or [n_owned, k]
        Not modified.
    rtol : float
        Replicated. A row that is as good as that has no error to hide.
    again : bool
        Replicated. Whether A x was the last product with A.
    spare : sequence of torch.Tensor like r
        To write to, in place of new ones: two at most are used.
    """
    # Of a factorisation they may lie in memory by columns.
    b, x, r = dense(b), x.contiguous(), r.contiguous()
    scale = room(spare, 0, b)
    if not operator.absolute(x, scale, again):
        return _without_entries(operator, b, x, r)
    mine, world = kernel.judge(b, x, r, scale).numpy(), operator.world
    judged = np.concatenate([world.largest(mine[:2]), world.sums(mine[2:])])
    return assess(judged, operator, b, r, scale, rtol, spare)


def room(spare: Sequence[torch.Tensor], which: int, like: torch.Tensor) -> torch.Tensor:
    """For a vector like that: one of those to spare, if it serves, or a new one. Local."""
    if which < len(spare):
        one = spare[which]
        alike = one.dtype == like.dtype and one.device == like.device
        if alike and one.is_contiguous() and one.shape == like.shape:
            return one  # by itself: views take as long as a small solve's steps
        if alike and one.is_contiguous() and one.numel() >= like.numel():
            return one.view(-1)[: like.numel()].view(like.shape)
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def assess(
    judged: np.ndarray,
    operator: Operator,
    b: torch.Tensor,
    r: torch.Tensor,
    scale: torch.Tensor,
    rtol: float,
    spare: Sequence[torch.Tensor] = (),
) -> list[Accuracy]:
    """`accuracy`, from what `judge` says of all rows. **Collective.**

    `judged` is a float64 array [5, k], replicated.
    """
    found, largest, errors2, scale2, b2 = judged.tolist()
    unit = _unit(b.dtype)
    rounded = [value <= unit for value in map(_root_ratio, errors2, scale2)]
    relative = list(map(_root_ratio, errors2, b2))
    rows, uneven = found, False
    for error, norm, low in zip(found, relative, rounded, strict=True):
        uneven |= error > norm or (low and error > _UNEVEN * unit)
    if uneven:
        # An x that decays has rows of tiny numbers that nobody asks of: beside the largest of x
        # their errors are none.
        sizes = room(spare, 1, r if r.dim() == 1 else r[:, 0])
        operator.absolute_row_sums(sizes)
        mine = kernel.guard(b, r, scale, sizes, rtol, largest)
        guarded, rows = operator.world.largest(mine.numpy()).tolist()
        pairs = zip(found, guarded, relative, strict=True)
        found = [other if error > norm else error for error, other, norm in pairs]
    shares = map(_root_ratio, scale2, b2)
    return [
        Accuracy(
            root(square),
            error,
            low and row <= _UNEVEN * unit,
            row > _HIDDEN * norm and row > rtol,
            share * unit / _ROUNDING,
        )
        for square, error, row, norm, low, share in zip(
            errors2, found, rows, relative, rounded, shares, strict=True
        )
    ]


def judge(
    infos: Sequence[SolveInfo],
    found: Sequence[Accuracy],
    b_norms: Sequence[float],
    loosest: float,
) -> None:
    """Take in how good the solutions are. Local.

    `loosest` is the relative residual up to which one that rounding stops has converged.
    """
    for info, one, b_norm in zip(infos, found, b_norms, strict=True):
        info.backward_error, info.hidden = one.backward_error, one.hidden
        info.at_rounding = one.at_rounding and info.status != "not_finite"
        if info.at_rounding and info.relative_residual <= loosest:
            info.status = "converged"
        if info.status == "converged" and one.floor >= 1:
            info.status, info.at_rounding = "stagnated", False
            info.relative_residual, info.residual_norm = one.floor, one.floor * b_norm


def _without_entries(
    operator: Operator, b: torch.Tensor, x: torch.Tensor, r: torch.Tensor
) -> list[Accuracy]:
    """By norms, that of A from its product with a vector of noise. **Collective.**"""
    noise = operator.noise(1, b.dtype).reshape(-1, *[1] * (b.dim() - 1)).expand_as(x).contiguous()
    image = torch.empty_like(b)
    operator(noise, image)
    mine = kernel.squares(r, x, b, image, noise).cpu()
    sums = zip(*operator.world.sums(mine.numpy()).tolist(), strict=True)
    unit = _unit(b.dtype)
    found = []
    for r2, x2, b2, image2, noise2 in sums:
        size = _root_ratio(image2, noise2) * math.sqrt(x2) + math.sqrt(b2)
        floor = size / math.sqrt(b2) * unit / _ROUNDING if b2 > 0 else 0.0
        found.append(Accuracy(root(r2), None, root(r2) <= unit * size, floor=floor))
    return found


@cache
def _unit(dtype: torch.dtype) -> float:
    """What a method at its limit leaves, at most."""
    return _ROUNDING * torch.finfo(dtype).eps


def _root_ratio(square: float, other: float) -> float:
    """The ratio of the norms that belong to two squares; infinite, or 0, beside nothing."""
    if not other:
        return math.inf if square else 0.0
    ratio = square / other
    return math.sqrt(ratio) if ratio >= 0 else math.nan
