"""Sums of products over pairs of entries, which a product of two sparse matrices is.

The entry c_ij of A B is the sum of a_ik b_kj over k. With one number for each entry of A, B and
C = A B, these are triples (p, q, r): c_r is the sum of a_p b_q over the triples that end in r. In
any two of the three roles this is bilinear, and each one's derivative is another of them, so that
derivatives of any order exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.kernels.function import Function

_ROOM = 1 << 21
"""Triples that are looked at together: their numbers take some 100 MiB."""

Roles = tuple[int, int, int]
"""What is given first, given second and found: 0 for A, 1 for B, 2 for C."""


@dataclass(frozen=True, eq=False)
class Triples:
    """The triples of one rank, written out a few at a time. int64 tensors on one device.

    Attributes
    ----------
    entries, rows, columns : [nnz_A]
        Entries of A by rows, their rows, and which of B's rows each one meets.
    first, count, entries_of : [rows of B], [rows of B], [entries of B]
        Row k of B has the entries `entries_of[first[k] : first[k] + count[k]]`.
    column : [entries of B]
        Of each of B's entries, in any numbering below `width`.
    width : int
    keys, place : [nnz_C]
        `row * width + column` of each entry of C, ascending, and where C's values have it. None
        until they are known.
    """

    entries: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    entries_of: torch.Tensor
    column: torch.Tensor
    width: int
    keys: torch.Tensor | None = None
    place: torch.Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Entries of A, of B and of C. Local."""
        found = 0 if self.keys is None else len(self.keys)
        return len(self.entries), len(self.column), found

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """p, q and r; of r the key where `keys` is not known. Local."""
        counts = self.count.index_select(0, self.columns)
        ends = counts.cumsum(0)
        begin, done = 0, 0
        while begin < len(counts):
            limit = torch.tensor([done + _ROOM], device=ends.device)
            stop = max(int(torch.searchsorted(ends, limit, right=True)), begin + 1)
            here = counts[begin:stop]
            several = torch.repeat_interleave(torch.arange(begin, stop, device=ends.device), here)
            within = torch.arange(len(several), device=ends.device) + done
            within = within - (ends - counts).index_select(0, several)
            start = self.first.index_select(0, self.columns.index_select(0, several))
            q = self.entries_of.index_select(0, start + within)
            key = self.rows.index_select(0, several) * self.width + self.column.index_select(0, q)
            p = self.entries.index_select(0, several)
            if self.keys is None or self.place is None:
                yield p, q, key
            else:
                yield p, q, self.place.index_select(0, torch.searchsorted(self.keys, key))
            begin, done = stop, int(ends[stop - 1])

    def distinct(self) -> torch.Tensor:
        """The keys that there are, ascending. Local."""
        parts = [torch.unique(key) for _, _, key in self]
        return torch.unique(torch.cat([*parts, self.rows.new_zeros(0)]))


def contract(u: torch.Tensor, v: torch.Tensor, triples: Triples) -> torch.Tensor:
    """The values of A B, for those of A and B. Local. Differentiable, any number of times."""
    found: torch.Tensor = _Contract.apply(u, v, triples, (0, 1, 2))
    return found


class _Contract(Function):
    @staticmethod
    def forward(u: torch.Tensor, v: torch.Tensor, triples: Triples, roles: Roles) -> torch.Tensor:
        first, second, third = roles
        out = u.new_zeros(triples.sizes[third])
        for triple in triples:
            part = u.index_select(0, triple[first]) * v.index_select(0, triple[second])
            if out.is_cuda:  # which adds in an order of its own by the other
                out.index_put_((triple[third],), part, accumulate=True)
            else:
                out.index_add_(0, triple[third], part)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        u, v, ctx.triples, ctx.roles = inputs
        ctx.save_for_backward(u, v)
        ctx.save_for_forward(u, v)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (u, v), (first, second, third), c = ctx.saved_tensors, ctx.roles, grads[0]
        d_u = d_v = None
        if ctx.needs_input_grad[0]:
            d_u = _Contract.apply(c, v, ctx.triples, (third, second, first))
        if ctx.needs_input_grad[1]:
            d_v = _Contract.apply(u, c, ctx.triples, (first, third, second))
        return d_u, d_v, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        (u, v), (d_u, d_v) = ctx.saved_tensors, tangents[:2]
        one: torch.Tensor = _Contract.apply(d_u, v, ctx.triples, ctx.roles)
        two: torch.Tensor = _Contract.apply(u, d_v, ctx.triples, ctx.roles)
        return one + two
