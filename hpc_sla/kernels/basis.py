"""Gram-Schmidt on a basis of distributed vectors: this rank's part of the work.

A basis is `[m, n]` or, for several right-hand sides, `[m, n, k]`; coefficients are `[j]` or
`[j, k]`, each column by itself. On the CPU the two hot functions are C (`basis.c`).
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.vectors import dot_into


def dots(basis: torch.Tensor, count: int, first: int, out: torch.Tensor) -> None:
    """`out[t, i] = basis[i] . basis[first + t]`: inner products with one or two vectors. Local.

    Parameters
    ----------
    basis : torch.Tensor [m, n] or [m, n, k]
    count : int
        Vectors i to take.
    first : int
    out : torch.Tensor [targets, count] or [targets, count, k]
    """
    like = basis.select(0, 0)
    if native.serves(like):
        sums = torch.empty(out.shape, dtype=torch.float64)
        numbers = (count, first, out.shape[0])
        native.call("basis_dots", like, basis.shape[1], *numbers, basis, sums)
        out.copy_(sums)
        return
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
    """Orthogonalise `u = basis[j]` for good and `w = basis[j + 1]` for a first time. Local.

    `u = (u - sum_i s_i basis[i]) inverse`, then
    `w = (w - sum_i c_i basis[i] - last u) inverse`, over i < j.

    Parameters
    ----------
    s, c : torch.Tensor [j] or [j, k]
    last, inverse : torch.Tensor [] or [k]
    """
    u, w = basis.select(0, j), basis.select(0, j + 1)
    if native.serves(u):
        coefficients = (t.contiguous() for t in (s, c, last, inverse))
        native.call("basis_update", u, basis.shape[1], j, basis, *coefficients)
        return
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
