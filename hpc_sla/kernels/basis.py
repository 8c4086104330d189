"""Gram-Schmidt on a basis of distributed vectors: this rank's part of the work.

A basis is `[m, n]` or, for several right-hand sides, `[m, n, k]`; coefficients are `[j]` or
`[j, k]`, each column by itself. On the CPU the two hot functions are C (`basis.c`).
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native, pages
from hpc_sla.kernels.vectors import dot_into


class Basis:
    """Vectors of one kind, side by side in memory. Local.

    A sweep over the vectors leaves nothing else in the processor's caches, and a torch operation
    that has to come from memory first takes ten times as long. So whatever can be made once is:
    between two sweeps there is little but the calls.

    Parameters
    ----------
    count : int
    like : torch.Tensor [n] or [n, k]

    Attributes
    ----------
    tensor : torch.Tensor [count, n] or [count, n, k]
    vectors : tuple of torch.Tensor [n] or [n, k]
        Views of it.
    compiled : bool
        Whether C does the work.
    wide : torch.Tensor [2, count] or [2, count, k]
        Where it sums, in doubles.
    """

    def __init__(self, count: int, like: torch.Tensor) -> None:
        self.tensor = pages.empty((count, *like.shape), like)
        self.vectors = self.tensor.unbind()
        self._like, self._n = like, like.shape[0]
        self.compiled = native.serves(like)
        self._sums: dict[tuple[int, int], torch.Tensor] = {}
        if self.compiled:
            self.wide = torch.empty((2, count, *like.shape[1:]), dtype=torch.float64, device="cpu")
            self._address = self.tensor.data_ptr()

    def dots(self, count: int, first: int, targets: int) -> torch.Tensor:
        """`[targets, count]` inner products: `[t, i] = basis[i] . basis[first + t]`.

        `targets` is 1 or 2. The result, `[targets, count, k]` by columns, is overwritten by the
        next of its shape.
        """
        out = self.room(targets, count)
        if self.compiled:
            numbers, like = (count, first, targets), self._like
            native.call("basis_dots", like, self._n, *numbers, self._address, self.wide, out)
        else:
            dots(self.tensor, count, first, out)
        return out

    def room(self, targets: int, count: int) -> torch.Tensor:
        """Where inner products are put: `[targets, count]` or `[targets, count, k]`, kept."""
        out = self._sums.get((targets, count))
        if out is None:
            out = self._like.new_empty((targets, count, *self._like.shape[1:]))
            self._sums[targets, count] = out
        return out

    def update(self, j: int, sums: torch.Tensor, found: torch.Tensor) -> None:
        """Orthogonalise `u = basis[j]` for good and `w = basis[j + 1]` for a first time.

        With `s, c = sums[:, :j]` and `last, inverse, _ = found`: see the function `update`.

        Parameters
        ----------
        sums : torch.Tensor [2, j + 2] or [2, j + 2, k]
        found : torch.Tensor [3] or [3, k]
        """
        if self.compiled:
            native.call("basis_update", self._like, self._n, j, self._address, sums, found)
        else:
            s, c = sums.narrow(1, 0, j).unbind()
            update(self.tensor, j, s, c, found.select(0, 0), found.select(0, 1))


def dots(basis: torch.Tensor, count: int, first: int, out: torch.Tensor) -> None:
    """`Basis.dots` in torch operations, into `out`: the oracle."""
    for t in range(out.shape[0]):
        target, sums = basis.select(0, first + t), out.select(0, t)
        if target.dim() == 1:
            torch.mm(basis.narrow(0, 0, count), target.unsqueeze(1), out=sums.unsqueeze(1))
        else:
            for i in range(count):
                dot_into(sums.select(0, i), basis.select(0, i), target)


def update(
    basis: torch.Tensor,
    j: int,
    s: torch.Tensor,
    c: torch.Tensor,
    last: torch.Tensor,
    inverse: torch.Tensor,
) -> None:
    """`Basis.update` in torch operations: the oracle.

    `u = (u - sum_i s_i basis[i]) inverse`, then
    `w = (w - sum_i c_i basis[i] - last u) inverse`, over i < j.

    Parameters
    ----------
    s, c : torch.Tensor [j] or [j, k]
    last, inverse : torch.Tensor [] or [k]
    """
    u, w = basis.select(0, j), basis.select(0, j + 1)
    add_combination(basis, -s, u)
    u.mul_(inverse)
    add_combination(basis, -c, w)
    w.sub_(last * u).mul_(inverse)


def add_combination(basis: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> None:
    """`x += sum_i y_i basis[i]`, over the rows of y (`[j]` or `[j, k]`). Local."""
    j = y.shape[0]
    if j == 0:
        return
    if x.dim() == 1:
        x.addmv_(basis.narrow(0, 0, j).T, y)
    else:
        for i in range(j):
            x.addcmul_(basis.select(0, i), y.select(0, i))
