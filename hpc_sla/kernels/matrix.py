"""A rank-local matrix as the compiled loops take it, however it is stored: `matrix.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern

CSR = 0
ROWS = 1


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


class Matrix(ctypes.Structure):
    """`hpc_sla_matrix` of matrix.h, and the tensors it points to, which it keeps.

    Parameters
    ----------
    form : int
        `CSR`, or another of matrix.h.
    rows, columns, entries : int
    parts : sequence of torch.Tensor
        By form: of `CSR` indptr (int32), indices (int32), values; of the others see matrix.h.
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


class CsrMatrix:
    """A rank-local matrix as it is stored plainly: a pattern and its values.

    Parameters
    ----------
    pattern : CsrPattern
    values : torch.Tensor [nnz]
    """

    def __init__(self, pattern: CsrPattern, values: torch.Tensor) -> None:
        self.pattern, self.values = pattern, values
        self.n_rows = pattern.n_rows
        self._matrix: Matrix | None = None

    @property
    def matrix(self) -> Matrix | None:
        """As compiled loops take it, made once; None off the CPU. Local."""
        if self._matrix is None and native.can_take(self.values):
            pattern = self.pattern
            if pattern.indptr.dtype == torch.int32:
                parts = (pattern.indptr, pattern.indices, self.values)
                sizes = (self.n_rows, pattern.n_columns, pattern.nnz)
                self._matrix = Matrix(CSR, *sizes, parts)
        return self._matrix

    @property
    def bytes(self) -> int:
        """What is held, indices included."""
        pattern = self.pattern
        return sum(
            t.numel() * t.element_size() for t in (pattern.indptr, pattern.indices, self.values)
        )

    def matmul(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable."""
        self.pattern.matmul(self.values, x, out)
