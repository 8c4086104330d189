"""A step of gmres in one sweep over its basis: `sweep.h`, `basis.c`."""

from __future__ import annotations

import ctypes
from enum import IntEnum

import torch

from hpc_sla.kernels import native, pages
from hpc_sla.kernels.basis import Basis
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import Matrix

ROWS = 2048
"""Rows of a piece: long enough for the processor to see streams, short enough for the cache."""


_SENT = 8
"""Rows to send that are made at a time: `WIDTH` of native.h."""


class Phase(IntEnum):
    """What a call of `BasisSweep` does: see `sweep.h`."""

    SEND = 0
    MAIN = 1
    RECEIVE = 2
    UPDATE = 3
    END = 4


class _Sweep(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "count", "n_sent", "n_boundary")),
        *((name, ctypes.c_void_p) for name in ("reach", "sent", "boundary", "matrix")),
        *((name, ctypes.c_void_p) for name in ("basis", "z", "inverse", "room")),
    ]


class BasisSweep:
    """The part of one rank: orthogonalise, precondition, multiply, inner products. Local.

    Each of these on its own reads all the vectors so far from memory, or writes one to be read by
    the next. Here a piece of rows is brought up to date and preconditioned; a few pieces behind,
    where all is there that a piece of the product reads, it is multiplied, and the inner products
    find the vectors in the cache.

    Parameters
    ----------
    basis : Basis
        Of `[n]`.
    pattern : CsrPattern [n, n]
    matrix : Matrix
        On that pattern.
    inverse : torch.Tensor [n] or None
        The pointwise preconditioner.
    sent, boundary : int32 tensor
        Rows that other ranks are sent, and rows that get something from them.

    Attributes
    ----------
    part : torch.Tensor [len(boundary)]
        Room for what they get.
    address : int
        Of `hpc_sla_sweep`.
    """

    def __init__(
        self,
        basis: Basis,
        pattern: CsrPattern,
        matrix: Matrix,
        inverse: torch.Tensor | None,
        sent: torch.Tensor,
        boundary: torch.Tensor,
    ) -> None:
        self._like = like = basis.vectors[0]
        self._n = n = len(like)
        z = None if inverse is None else pages.empty((n,), like)
        rows = ROWS - ROWS % matrix.block
        room = like.new_empty(_SENT * len(basis.vectors), dtype=torch.float64)
        reach = pattern.reach(rows)
        self.part = like.new_empty(len(boundary))
        self._keep = (matrix, reach, sent, boundary, basis.tensor, z, inverse, room)
        pointers = (reach, sent, boundary, matrix, basis.tensor, z, inverse, room)
        self._sweep = _Sweep(
            rows, len(reach), len(sent), len(boundary), *(_address(p) for p in pointers)
        )
        self.address = ctypes.addressof(self._sweep)

    def __call__(
        self,
        phase: Phase,
        j: int,
        sums: torch.Tensor | None,
        found: torch.Tensor | None,
        part: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> None:
        """`SEND`, `MAIN` and `RECEIVE` are step j; after the last step comes `END`.

        Parameters
        ----------
        sums, found : torch.Tensor or None
            Of step j - 1, which vectors j - 1 and j are yet to be updated with, as by
            `Basis.update`; None where they have been.
        part : torch.Tensor [len(sent)] of `SEND`, [len(boundary)] of `RECEIVE`
            Overwritten with what others are sent; what they gave.
        out : torch.Tensor [2, j + 2] of `RECEIVE`, [1, j + 1] of `END`
            Overwritten as by `Basis.dots` of first = j.
        """
        native.call(
            "basis_sweep", self._like, self._n, phase, j, self.address, sums, found, part, out
        )


def pays(n: int, *scattered: torch.Tensor) -> bool:
    """Whether a sweep reads less than the operations one by one, n rows, these by themselves.

    It reads each vector once and not twice; but of each row that is reached by itself a cache line
    of every vector, a line of 8 rows.
    """
    lines = sum(len(torch.unique(torch.div(rows, 8, rounding_mode="floor"))) for rows in scattered)
    return 16 * lines <= n


def _address(what: torch.Tensor | Matrix | None) -> int | None:
    if what is None:
        return None
    return what.address if isinstance(what, Matrix) else what.data_ptr()
