"""The basis [X | P | W] of distributed vectors and its images under A and B."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_sla.operators import Operator

_CHUNK = 1 << 14
"""Rows that are summed in double precision at a time, of vectors in single."""


class Space:
    """Blocks [n_owned, m] and what A and B make of them, in memory that stays.

    Parameters
    ----------
    A : Operator
    B : Operator or None
        None is the identity: then every B X is X itself.
    like : torch.Tensor
        Of the dtype and on the device of the vectors.
    width : int
        Columns that [X | P] and W have at most: twice and once that.

    Attributes
    ----------
    kept, A_kept, B_kept : torch.Tensor [n_owned, m + p]
        [X | P] and its images.
    new, A_new, B_new : torch.Tensor [n_owned, j]
        W and its images.
    """

    def __init__(self, A: Operator, B: Operator | None, like: torch.Tensor, width: int) -> None:
        self.A, self.B = A, B
        self._n, self._like = A.layout.n_owned, like
        images = 2 if B is None else 3
        self._kept = [[self._empty(2 * width) for _ in range(2)] for _ in range(images)]
        self._new = [self._empty(width) for _ in range(images)]
        self._turn = 0
        self.new = self.A_new = self.B_new = self._shaped(self._new[0], 0)
        self.kept = self.A_kept = self.B_kept = self._shaped(self._kept[0][0], 0)

    def _empty(self, columns: int) -> torch.Tensor:
        return self._like.new_empty(self._n * columns)

    def _shaped(self, memory: torch.Tensor, columns: int) -> torch.Tensor:
        return memory.narrow(0, 0, self._n * columns).view(self._n, columns)

    def keep(self, vectors: torch.Tensor) -> None:
        """Make `vectors` [n_owned, m] what is kept, with fresh images. **Collective.**"""
        columns = vectors.shape[1]
        views = [self._shaped(memory[self._turn], columns) for memory in self._kept]
        views[0].copy_(vectors)
        self._images(views)
        self._set_kept(views)

    def refresh(self) -> None:
        """Fresh images of what is kept, free of accumulated rounding. **Collective.**"""
        images = [self.kept, self.A_kept, self.B_kept]
        self._images(images[: 2 if self.B is None else 3])

    def room(self, columns: int) -> torch.Tensor:
        """Where to put W: [n_owned, columns]. Local."""
        self.new = self._shaped(self._new[0], columns)
        return self.new

    def multiply(self) -> None:
        """The images of W. **Collective.**"""
        views = [self._shaped(memory, self.new.shape[1]) for memory in self._new]
        self._images(views)
        self.A_new, self.B_new = views[1], views[-1] if self.B is not None else views[0]

    def _images(self, views: Sequence[torch.Tensor]) -> None:
        self.A(views[0], views[1])
        if self.B is not None:
            self.B(views[0], views[2])

    def _set_kept(self, views: Sequence[torch.Tensor]) -> None:
        self.kept, self.A_kept = views[:2]
        self.B_kept = views[0] if self.B is None else views[2]

    def grams(self, extra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """S^T A S, S^T B S of the whole basis S, and the sum of `extra`, in one reduction.

        **Collective.** All of double precision and, but for the last, on the host.
        """
        groups = (self.kept, self.new)
        sizes = [g.shape[1] for g in groups]
        parts = []
        for images in ((self.A_kept, self.A_new), (self.B_kept, self.B_new)):
            parts += [inner(groups[i], images[j]).reshape(-1) for i, j in ((0, 0), (0, 1), (1, 1))]
        packed = torch.cat([*parts, extra.double()])
        self.A.world.transport.all_reduce_sum(packed)
        host = packed.cpu()
        r, j = sizes
        shapes = [(r, r), (r, j), (j, j)] * 2
        blocks = [
            flat.view(shape)
            for flat, shape in zip(
                host.split([*(a * b for a, b in shapes), len(extra)]), shapes, strict=False
            )
        ]
        return _joined(*blocks[:3]), _joined(*blocks[3:]), host[len(host) - len(extra) :]

    def combine(self, coefficients: torch.Tensor) -> None:
        """[X | P] = S coefficients, [q, m + p], and its images alike. Local."""
        c = coefficients.to(self._like.device, self._like.dtype)
        rows, columns = self.kept.shape[1], c.shape[1]
        self._turn = 1 - self._turn
        views = []
        pairs = [(self.kept, self.new), (self.A_kept, self.A_new), (self.B_kept, self.B_new)]
        for memory, (kept, new) in zip(self._kept, pairs, strict=False):
            out = self._shaped(memory[self._turn], columns)
            torch.mm(kept, c[:rows], out=out)
            if new.shape[1]:
                out.addmm_(new, c[rows:])
            views.append(out)
        self._set_kept(views)


def inner(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """This rank's part of x^T y, in double precision: [m, k]. Local."""
    if x.dtype == torch.float64:
        return x.T @ y
    sums = torch.zeros((x.shape[1], y.shape[1]), dtype=torch.float64, device=x.device)
    for a, b in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        sums.addmm_(a.double().T, b.double())
    return sums


def _joined(first: torch.Tensor, across: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    whole = torch.cat([torch.cat([first, across], 1), torch.cat([across.T, last], 1)])
    return (whole + whole.T) * 0.5
