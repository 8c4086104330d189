"""A rank-local matrix as the compiled loops take it, however it is stored: `matrix.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

CSR = 0


_Parts = ctypes.c_void_p * 12


class Matrix(ctypes.Structure):
    """`hpc_sla_matrix` of matrix.h, and the tensors it points to, which it keeps.

    Parameters
    ----------
    form : int
        `CSR`, or another of matrix.h.
    rows, columns, entries : int
    parts : sequence of torch.Tensor
        By form: of `CSR` indptr (int32), indices (int32), values.
    """

    _fields_ = [
        ("form", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("entries", ctypes.c_int64),
        ("parts", _Parts),
    ]

    def __init__(
        self, form: int, rows: int, columns: int, entries: int, parts: Sequence[torch.Tensor]
    ) -> None:
        pointers = _Parts(*[part.data_ptr() for part in parts])
        super().__init__(form, rows, columns, entries, pointers)
        self.tensors = tuple(parts)

    @property
    def address(self) -> int:
        """Where it is, while this object lives."""
        return ctypes.addressof(self)
