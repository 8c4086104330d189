"""The basis [X | P | W] of distributed vectors and its images under A and B."""

from __future__ import annotations

import torch

from hpc_sla.sparse.operator import Operator

_CHUNK = 1 << 14
"""Rows that are summed in double precision at a time, of vectors in single."""


class Space:
    """Blocks of vectors and what A and B make of them, in memory that stays.

    [X | P | W] lie side by side in one row-major block, so that a matrix product reads a row of
    memory once for all of them: such tall blocks are bound by memory.

    Parameters
    ----------
    A : Operator
    B : Operator or None
        None is the identity: then every B X is X itself.
    like : torch.Tensor
        Of the dtype and on the device of the vectors.
    kept, new : int
        Columns that [X | P] and W have at most.

    Attributes
    ----------
    kept, A_kept, B_kept : torch.Tensor [n_owned, m + p]
        [X | P] and its images: views.
    new : torch.Tensor [n_owned, j]
        W, contiguous.
    """

    def __init__(
        self, A: Operator, B: Operator | None, like: torch.Tensor, kept: int, new: int
    ) -> None:
        self.A, self.B = A, B
        n = A.layout.n_owned
        images = 2 if B is None else 3
        self._blocks = [[like.new_empty((n, kept + new)) for _ in range(2)] for _ in range(images)]
        self._work = [like.new_empty(n * new) for _ in range(2)]
        self._turn = self._columns = self._joined = 0
        self._before = 0, 0, 0
        self.room(0)

    def _view(self, image: int, first: int, count: int) -> torch.Tensor:
        return self._blocks[image][self._turn].narrow(1, first, count)

    @property
    def kept(self) -> torch.Tensor:
        return self._view(0, 0, self._columns)

    @property
    def A_kept(self) -> torch.Tensor:
        return self._view(1, 0, self._columns)

    @property
    def B_kept(self) -> torch.Tensor:
        return self._view(0 if self.B is None else 2, 0, self._columns)

    def blocks(self) -> dict[str, torch.Tensor]:
        """[X | P] and its images by name; that under B where it is another. Local."""
        blocks = {"kept": self.kept, "A_kept": self.A_kept}
        return blocks if self.B is None else {**blocks, "B_kept": self.B_kept}

    def hold(self, columns: int) -> None:
        """Room for what is kept and its images, to be filled. Local."""
        self._columns = columns
        self.room(0)

    def keep(self, vectors: torch.Tensor) -> None:
        """Make `vectors` [n_owned, m] what is kept, with fresh images. **Collective.**"""
        self._columns = vectors.shape[1]
        self.room(0)
        self.kept.copy_(vectors)
        self.refresh()

    def refresh(self, columns: int | None = None) -> None:
        """Fresh images of (the first columns of) what is kept, free of accumulated rounding.

        **Collective.**
        """
        columns = self._columns if columns is None else columns
        x = self._view(0, 0, columns).contiguous()
        y = torch.empty_like(x)
        for image, operator in self._operators():
            operator(x, y)
            self._view(image, 0, columns).copy_(y)

    def replace(self, coefficients: torch.Tensor) -> None:
        """X becomes combinations, [q, m], of the first q of [X | P]. **Collective.**

        With fresh images.
        """
        q, m = coefficients.shape
        self._view(0, 0, m).copy_(self._view(0, 0, q) @ coefficients.to(self.new))
        self.refresh(m)

    def combination(self, coefficients: torch.Tensor) -> torch.Tensor:
        """S coefficients of the whole basis, [q, j]: [n_owned, j]. Local."""
        whole = self._view(0, 0, self._columns + self._joined)
        return whole @ coefficients.to(whole)

    def _operators(self) -> list[tuple[int, Operator]]:
        return [(1, self.A)] + ([] if self.B is None else [(2, self.B)])

    def room(self, columns: int) -> torch.Tensor:
        """Where to put W: [n_owned, columns]. Local."""
        n = self.A.layout.n_owned
        self.new, self._image = (
            memory.narrow(0, 0, n * columns).view(n, columns) for memory in self._work
        )
        self._joined = 0
        return self.new

    def multiply(self) -> None:
        """Put W into the basis, with its images. **Collective.**"""
        first, self._joined = self._columns, self.new.shape[1]
        if not self._joined:
            return
        self._view(0, first, self._joined).copy_(self.new)
        for image, operator in self._operators():
            operator(self.new, self._image)
            self._view(image, first, self._joined).copy_(self._image)

    def grams(
        self, extra: torch.Tensor, columns: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """S^T A S, S^T B S of the basis S (or its first columns) and the sum of `extra`.

        **Collective**, in one reduction. All of double precision on the host; symmetric but for
        rounding, and for images that no longer are what A and B make of the vectors.
        """
        q = self._columns + self._joined if columns is None else columns
        whole = [self._view(image, 0, q) for image in range(len(self._blocks))]
        parts = [inner(whole[0], whole[image]) for image in (1, -1 if self.B else 0)]
        packed = torch.cat([*(part.reshape(-1) for part in parts), extra.double()])
        self.A.world.transport.all_reduce_sum(packed)
        gram_A, gram_B, sums = packed.cpu().split([q * q, q * q, len(extra)])
        return gram_A.view(q, q), gram_B.view(q, q), sums

    def combine(self, coefficients: torch.Tensor) -> None:
        """[X | P] = S coefficients, [q, m + p], and its images alike. Local."""
        c = coefficients.to(self._blocks[0][0])
        q, columns = c.shape
        self._before = self._turn, self._columns, self._joined
        for blocks in self._blocks:
            here, there = blocks[self._turn], blocks[1 - self._turn]
            torch.mm(here.narrow(1, 0, q), c, out=there.narrow(1, 0, columns))
        self._turn, self._columns = 1 - self._turn, columns
        self.room(0)

    def uncombine(self) -> None:
        """The basis as it was before the last `combine`, which nothing has followed. Local."""
        self._turn, self._columns, joined = self._before
        self.room(joined)
        self._joined = joined


def inner(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """This rank's part of x^T y, in double precision: [m, k]. Local."""
    if x.dtype == torch.float64:
        return x.T @ y
    sums = torch.zeros((x.shape[1], y.shape[1]), dtype=torch.float64, device=x.device)
    for a, b in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        sums.addmm_(a.double().T, b.double())
    return sums


def symmetric(gram: torch.Tensor) -> torch.Tensor:
    return (gram + gram.T) * 0.5
