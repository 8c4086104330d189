"""A rank-local matrix as the compiled loops take it, however it is stored: `matrix.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch

CSR, ROWS, PATTERNS, NODES, SHORT, CODED_8, CODED_16, SLICED, SLICED_8, SLICED_16 = range(10)
TILED = 32
IN_SLICES = SLICED, SLICED_8, SLICED_16


class RankMatrix(Protocol):
    """A rank-local matrix: what serves every form of one, compiled and in torch."""

    n_rows: int

    @property
    def matrix(self) -> Matrix | None:
        """As compiled loops take it; None where they cannot."""

    @property
    def bytes(self) -> int:
        """What is held, indices included."""

    def matmul(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable."""


_Parts = ctypes.c_void_p * 12


class Matrix(ctypes.Structure):
    """`hpc_sla_matrix` of matrix.h, and the tensors it points to, which it keeps.

    Parameters
    ----------
    form : int
        `CSR`, or another of matrix.h.
    rows, columns, entries : int
    parts : sequence of torch.Tensor
        By form: see matrix.h. Of `CSR` indptr (int32), indices (int32), values.
    block : int
        Rows of a node, where the form goes by nodes.
    """

    reach: torch.Tensor | None = None
    """What transfer.c is to know of it besides, kept here: see `Tiles.transfer`."""

    _fields_ = [
        ("form", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("entries", ctypes.c_int64),
        ("parts", _Parts),
        ("block", ctypes.c_int64),
    ]

    def __init__(
        self,
        form: int,
        rows: int,
        columns: int,
        entries: int,
        parts: Sequence[torch.Tensor],
        block: int = 1,
    ) -> None:
        pointers = _Parts(*[part.data_ptr() for part in parts])
        super().__init__(form, rows, columns, entries, pointers, block)
        self.tensors = tuple(parts)

    @property
    def address(self) -> int:
        """Where it is, while this object lives."""
        return ctypes.addressof(self)
