"""What is asked of a solution row by row, in one pass over its vectors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.burst import Distributed

PIECE = 1 << 22
"""Rows that are looked at together where nothing is compiled."""


def judge(b: torch.Tensor, x: torch.Tensor, r: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`scale += |b|`; then how the errors r compare with it, on this rank. Local.

    Parameters
    ----------
    b, x, r, scale : torch.Tensor [n] or [n, k]
        Contiguous, or of b what `dense` leaves.

    Returns
    -------
    float64 tensor [5, k] on the CPU
        The largest `ratio` of r to scale and the largest of |x|, none below 0, NaN where there is
        one; the sums of the squares of r, scale and b.
    """
    if native.serves(b):
        found = b.new_empty((5, 1 if b.dim() == 1 else b.shape[1]), dtype=torch.float64)
        step = 1 if b.is_contiguous() else 0
        native.call("judge", b, b.shape[0], step, b, x, r, scale, found)
        return found

    def of(b: torch.Tensor, x: torch.Tensor, r: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        scale.add_(b.abs())
        errors = r.abs()
        return torch.cat([maxima(ratio(errors, scale), x.abs()), squares(errors, scale, b)])

    found = torch.stack(_in_pieces(of, b, x, r, scale))
    return torch.cat([found[:, :2].amax(dim=0), found[:, 2:].sum(dim=0)]).cpu()


def examine(
    A: Distributed,
    b: torch.Tensor,
    x: torch.Tensor,
    r: torch.Tensor,
    scale: torch.Tensor | None,
) -> np.ndarray:
    """`r = b - A x`, in one call with what is to be known of it. **Collective.** Compiled.

    Parameters
    ----------
    b, x, r : torch.Tensor [n]
        Contiguous, or of b what `dense` leaves.
    scale : torch.Tensor [n] or None
        Overwritten with |A| |x| + |b|.

    Returns
    -------
    float64 array [5, 1] or [1, 1]
        Replicated: what `judge` finds of all rows; without `scale` r . r.
    """
    found = np.empty((1 if scale is None else 5, 1))
    vectors = b.data_ptr(), x.data_ptr(), r.data_ptr(), None if scale is None else scale.data_ptr()
    entry = native.entry_for("examine", b.dtype)
    whether = scale is not None, b.is_contiguous()
    code = entry(*whether, ctypes.addressof(A), *vectors, found.ctypes.data)
    if code == -1:
        raise MemoryError(f"no room for a row of {A.longest} entries")
    if code:
        A.calls.raise_error(code)
    return found


def guard(
    b: torch.Tensor,
    r: torch.Tensor,
    scale: torch.Tensor,
    sizes: torch.Tensor,
    rtol: float,
    largest: Sequence[float],
) -> torch.Tensor:
    """How errors r compare with scale, where that counts beside the `sizes` of rows. Local.

    Parameters
    ----------
    b, r, scale : torch.Tensor [n] or [n, k]
        Contiguous, or of b what `dense` leaves. Not modified.
    sizes : torch.Tensor [n]
        Contiguous; not modified.
    rtol : float
    largest : sequence of float [k]
        By columns, what `sizes` is to be multiplied by.

    Returns
    -------
    float64 tensor [2, k] on the CPU
        The largest ratios to scale, or to scale + sizes where it is below rtol (sizes + |b|); and
        to scale + sizes. None below 0, NaN where there is one.
    """
    if native.serves(b):
        found = b.new_empty((2, len(largest)), dtype=torch.float64)
        numbers, step = native.numbers(b, rtol, *largest), 1 if b.is_contiguous() else 0
        native.call("guard", b, b.shape[0], step, numbers, b, r, scale, sizes, found)
        return found
    factors = b.new_tensor(largest).reshape(b.shape[1:])

    def of(b: torch.Tensor, r: torch.Tensor, scale: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        sizes = s.reshape(-1, *[1] * (b.dim() - 1)) * factors
        safe, errors = scale + sizes, r.abs()
        componentwise = torch.where(scale < rtol * sizes.add_(b.abs()), safe, scale)
        return maxima(ratio(errors, componentwise), ratio(errors, safe))

    return torch.stack(_in_pieces(of, b, r, scale, sizes)).amax(dim=0).cpu()


def _in_pieces(function: Callable[..., torch.Tensor], *vectors: torch.Tensor) -> list[torch.Tensor]:
    """What it says of some rows of each at a time: vectors on the way are no longer. Local."""
    n = len(vectors[0])
    return [
        function(*(v.narrow(0, first, min(PIECE, n - first)) for v in vectors))
        for first in range(0, max(n, 1), PIECE)
    ]


def ratio(errors: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """By rows; 0 where there is no error, NaN where the scale overflows. Local."""
    found = torch.where(errors > 0, errors / scale, errors)
    return torch.where(scale.isinf(), torch.nan, found)


def maxima(*tensors: torch.Tensor) -> torch.Tensor:
    """The largest of each tensor, none below 0, by columns: NaN where there is one. Local."""
    columns = [_columns(tensor) for tensor in tensors]
    found = [c.amax(dim=0) if len(c) else c.new_zeros(c.shape[1]) for c in columns]
    return torch.stack(found).double()


def squares(*tensors: torch.Tensor) -> torch.Tensor:
    """The square norms of each tensor by columns. Local."""
    return torch.stack([_columns(tensor).double().square().sum(dim=0) for tensor in tensors])


def _columns(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor
