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

So two dimensions are columns for one matrix and a batch for a batch. Where both sides are batched,
either size may be 1 and goes with every one of the other.
"""

from __future__ import annotations

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
    """

    columns: torch.Tensor
    batch: int | None
    flat: bool

    def join(self, result: torch.Tensor) -> torch.Tensor:
        """The result's shape, from [S, m, k]."""
        joined = result[0] if self.batch is None else result
        return joined.squeeze(-1) if self.flat else joined


def take_apart(x: torch.Tensor, batch: int | None, n: int, field: str) -> Vectors:
    """Apply the rules to `x`, for values of batch size `batch` (None: one matrix).

    Raises
    ------
    InputError
        A shape that the rules do not know.
    """
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
    return Vectors(columns, size, flat)


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
