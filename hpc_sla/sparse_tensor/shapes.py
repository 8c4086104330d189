"""Which systems a right-hand side means: the rules for batches and columns.

A matrix or a batch of B, times one vector or several:

=================  =====================  =======================
values             vectors                result
=================  =====================  =======================
[nnz]              [n]                    [m]
[nnz]              [n, k]                 [m, k]
[nnz]              [B, n, k]              [B, m, k]
[B, nnz]           [n]                    [B, m]
[B, nnz]           [B, n]                 [B, m]
[B, nnz]           [B, n, k]              [B, m, k]
=================  =====================  =======================

So two dimensions are columns for one matrix and a batch for a batch. A batch of several dimensions,
[*batch, nnz], goes with [n], [*batch, n] and [*batch, n, k] alike. Where both sides are batched,
either size may be 1 and goes with every one of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from hpc_sla.distributed.arguments import empty_result
from hpc_sla.errors import InputError

M = TypeVar("M")


@dataclass(frozen=True)
class Vectors:
    """Vectors taken apart.

    Attributes
    ----------
    columns : torch.Tensor [S, n, k]
        S is 1 where all matrices share the vectors.
    batch : int or None
        Of the result; None where it has none.
    flat : bool
        Whether the result has no dimension k.
    shape : tuple of int
        Of the result's batch.
    """

    columns: torch.Tensor
    batch: int | None
    flat: bool
    shape: tuple[int, ...]

    def join(self, result: torch.Tensor) -> torch.Tensor:
        """The result's shape, from [S, m, k]."""
        joined = result[0] if self.batch is None else result.unflatten(0, self.shape)
        return joined.squeeze(-1) if self.flat else joined


def take_apart(x: torch.Tensor, shape: Sequence[int], n: int, field: str) -> Vectors:
    """Apply the rules to `x`, for values of the batch `shape` (none: one matrix).

    Raises
    ------
    InputError
        A shape that the rules do not know.
    """
    if len(shape) > 1:
        return _of_several(x, tuple(shape), n, field)
    batch = shape[0] if shape else None
    if x.dim() == 1:
        columns, flat, own = x[None, :, None], True, None
    elif x.dim() == 2 and batch is None:
        columns, flat, own = x[None], False, None
    elif x.dim() == 2:
        columns, flat, own = x[:, :, None], True, x.shape[0]
    elif x.dim() == 3:
        columns, flat, own = x, False, x.shape[0]
    else:
        raise InputError(
            f"shape {tuple(x.shape)} has {x.dim()} dimensions, not 1 to 3", field=field
        )
    if columns.shape[1] != n:
        kind = "matrix" if batch is None else f"batch of {batch} matrices"
        raise InputError(
            f"shape {tuple(x.shape)} does not go with a {kind}: vectors have {n} entries here",
            field=field,
            remedy="Two dimensions are [n, k] for one matrix, [B, n] for a batch",
        )
    if None not in (batch, own) and batch != own and 1 not in (batch, own):
        raise InputError(f"a batch of {own} does not go with one of {batch} matrices", field=field)
    size = own if batch in (None, 1) and own is not None else batch
    return Vectors(columns, size, flat, () if size is None else (size,))


def _of_several(x: torch.Tensor, batch: tuple[int, ...], n: int, field: str) -> Vectors:
    """For a batch of several dimensions."""
    dims = len(batch)
    flat = x.dim() in (1, dims + 1)
    expected = (*batch, n) if flat else (*batch, n, x.shape[-1] if x.dim() else 0)
    try:
        if x.dim() not in (1, dims + 1, dims + 2):
            raise RuntimeError
        x.expand(expected)
    except RuntimeError:
        raise InputError(
            f"shape {tuple(x.shape)} does not go with a batch {list(batch)} of matrices: vectors "
            f"have {n} entries here",
            field=field,
            remedy=f"Pass [{n}], [*batch, {n}] or [*batch, {n}, k]",
        ) from None
    if x.dim() == 1:
        columns = x[None, :, None]
    else:
        x = x.expand(expected)
        columns = (x.unsqueeze(-1) if flat else x).flatten(0, dims - 1)
    return Vectors(columns, math.prod(batch), flat, batch)


def for_each_system(
    function: Callable[..., torch.Tensor],
    matrices: Sequence[M],
    n_results: int,
    batch: int | None,
    *columns: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """`function(matrix, [n, k], ...)` for each member of a batch: [S, n_results, k].

    One matrix gets all members at once, side by side, as columns.

    Parameters
    ----------
    function : callable(matrix, *tensors [n, k']) -> tensor [n_results, k']
    matrices : sequence
        One, or one for each member.
    n_results : int
    batch : int or None
        As of `Vectors`.
    *columns : torch.Tensor [S, n, k]
        Of each, S is 1 or the size of the batch; k is the same.
    values : torch.Tensor
        What the matrices were made of: the result depends on it where there is none, too.
    """
    size, k = 1 if batch is None else batch, columns[0].shape[2]
    if size * k == 0:
        return empty_result((size, n_results, k), *columns, values)
    if len(matrices) == 1:
        wide = [
            c.expand(size, -1, -1).permute(1, 0, 2).reshape(c.shape[1], size * k) for c in columns
        ]
        result = function(matrices[0], *wide)
        return result.reshape(n_results, size, k).permute(1, 0, 2)
    return torch.stack(
        [function(A, *(c[i % len(c)] for c in columns)) for i, A in enumerate(matrices)]
    )
