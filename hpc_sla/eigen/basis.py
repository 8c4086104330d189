"""Rayleigh and Ritz on the Gram matrices of a basis [X | P | W]: all of it in coefficients.

The small matrices are the same on every rank, in double precision on the host. Choosing the basis
there needs no communication: Duersch, Shao, Yang and Gu, "A robust and efficient implementation
of LOBPCG", SIAM J. Sci. Comput. 40 (2018), from which come the orthogonal P (section 4.3) and
the dropping of directions that rounding has made of nothing (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hpc_sla.eigen.inverse import improved

_NOISE = 8.0
"""Squares below so many units of rounding error are nothing."""

_TURNS = 3
"""Steps of inverse iteration, where LAPACK's vectors are not good enough."""

_NEGATIVE = 1e3
"""Squares below so many times that, negative, ask for an explanation."""


@dataclass(frozen=True)
class Ritz:
    """What comes next.

    Attributes
    ----------
    values : float64 tensor [m]
        Ritz values, the wanted end of the spectrum first.
    coefficients : float64 tensor [q, m + p]
        Of the next X, and of the next P after it, in the basis: together orthonormal.
    """

    values: torch.Tensor
    coefficients: torch.Tensor


@dataclass(frozen=True)
class Selection:
    """An orthonormal basis of the span.

    Attributes
    ----------
    basis : float64 tensor [q, r]
        Its coefficients.
    first, before : int
        How many of its members span the first group, and all groups but the last.
    kept : float
        The least squared part of a member of the last group outside the groups before it,
        relative to its own square.
    noise : float
        Squares below are rounding.
    negative : float64 tensor [q] or None
        Coefficients of a combination whose square is negative beyond rounding.
    """

    basis: torch.Tensor
    first: int
    before: int
    kept: float
    noise: float
    negative: torch.Tensor | None


def select(gram: torch.Tensor, sizes: Sequence[int], eps: float, doubt: float = 0.0) -> Selection:
    """An orthonormal basis out of groups of vectors, earlier groups first.

    Block Gram-Schmidt, and within a group the eigenvectors of its Gram matrix (SVQB: A.
    Stathopoulos and K. Wu, SIAM J. Sci. Comput. 23, 2002), both in coefficients.

    Parameters
    ----------
    gram : float64 tensor [q, q]
    sizes : sequence of int
        Of the groups; they sum to q.
    eps : float
        The rounding error of the vectors. That of their sums is double precision's.
    doubt : float
        How far the matrix is from what it should be, of a unit diagonal.
    """
    q = gram.shape[0]
    squares = gram.diagonal()
    negative = (
        torch.eye(q, dtype=gram.dtype, device="cpu")[int(squares.argmin())]
        if (squares < 0).any()
        else None
    )
    scale = torch.where(squares > 0, squares.clamp(min=0).sqrt().reciprocal(), 0.0)
    gram = gram * scale * scale.unsqueeze(1)
    noise = _NOISE * max(q * torch.finfo(gram.dtype).eps, q * _NOISE * eps**2, doubt)
    basis, start, first, before, kept = gram.new_zeros((q, 0)), 0, 0, 0, 1.0
    for group, size in enumerate(sizes):
        members = torch.eye(q, dtype=gram.dtype, device="cpu")[:, start : start + size]
        members = members[:, scale[start : start + size] > 0]
        start, before = start + size, basis.shape[1]
        for turn in range(2):
            members = members - basis @ (basis.T @ (gram @ members))
            own = members.T @ gram @ members
            left = own.diagonal()
            # Squares of parts outside; at first each member is of length one.
            if turn == 0:
                kept = min(left.tolist(), default=1.0)
                if negative is None and kept < -_NEGATIVE * noise:
                    negative = members[:, int(left.argmin())] * scale
                members, own = _only(left > noise, members, own)
            members, least = _orthonormal(members, own, noise)
            if negative is None and least is not None:
                negative = least * scale
        basis = torch.cat([basis, members], dim=1)
        if group == 0:
            first = basis.shape[1]
    basis = basis * scale.unsqueeze(1)
    return Selection(basis, first, before, max(kept, 0.0), noise, negative)


def _only(
    which: torch.Tensor, members: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return members[:, which], own[which][:, which]


def _orthonormal(
    members: torch.Tensor, own: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """SVQB: combinations of the members that are orthonormal, for their Gram matrix `own`.

    And one whose square is negative beyond rounding, if there is one.
    """
    if not members.shape[1]:
        return members, None
    scale = own.diagonal().clamp(min=torch.finfo(own.dtype).tiny).rsqrt()
    values, vectors = torch.linalg.eigh(own * scale * scale.unsqueeze(1))
    keep = values > noise
    least = (members * scale) @ vectors[:, 0] if values[0] < -_NEGATIVE * noise else None
    return (members * scale) @ (vectors[:, keep] * values[keep].rsqrt()), least


def rayleigh_ritz(
    gram: torch.Tensor,
    chosen: Selection,
    m: int,
    active: torch.Tensor,
    sign: float,
    allowed: float,
    probe: bool = False,
) -> Ritz:
    """The m Ritz pairs at the wanted end, and directions to remember.

    Parameters
    ----------
    gram : float64 tensor [q, q]
        S^T A S.
    chosen : Selection
        Of at least m members.
    m : int
    active : bool tensor [m]
        Which pairs still change: P is of these.
    sign : {1.0, -1.0}
        1 for the smallest values, -1 for the largest.
    allowed : float
        How far a value may be off.
    probe : bool
        Whether the last vector is to be of all directions that the others leave.
    """
    T, first = chosen.basis, chosen.first
    small = T.T @ gram @ T
    values, Z = torch.linalg.eigh((small + small.T) * (0.5 * sign))
    X, rest = Z[:, :m], Z[:, m:]
    if 8 * torch.finfo(values.dtype).eps * float(values.abs().max()) > 0.1 * allowed:
        X = improved((small + small.T) * (0.5 * sign), None, X, m, _TURNS)
        values = sign * (X * (small @ X)).sum(dim=0)
    if probe:
        last = X[:, -1] + rest.sum(dim=1)
        last = last / torch.linalg.vector_norm(last)
        X = torch.cat([X[:, :-1], last.unsqueeze(1)], dim=1)
        values = sign * (X * (small @ X)).sum(dim=0)
    # The change X - (its part in the old X), orthogonal to the new X: in the span of the rest.
    change = rest[:first].T @ X[:first][:, active]
    lengths = torch.linalg.vector_norm(change, dim=0)
    moved = lengths > 1e-13
    change = change[:, moved] / lengths[moved]
    P = rest[:, :0]
    if change.numel():
        U, s, _ = torch.linalg.svd(change, full_matrices=False)
        P = rest @ U[:, s > 1e-8 * s[0]]
    return Ritz(sign * values[:m], T @ torch.cat([X, P], dim=1))
