"""A rank-local matrix as the compiled loops take it, however it is stored: `matrix.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

CSR, ROWS, PATTERNS, NODES, SHORT, CODED_8, CODED_16 = range(7)


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

    _fields_ = [
        ("form", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("entries", ctypes.c_int64),
        ("parts", ctypes.c_void_p * 12),
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
        super().__init__(form, rows, columns, entries)
        self.block = block
        self.tensors = tuple(parts)
        for i, part in enumerate(parts):
            self.parts[i] = part.data_ptr()

    @property
    def address(self) -> int:
        """Where it is, while this object lives."""
        return ctypes.addressof(self)
