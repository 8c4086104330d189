"""PETSc's binary files, read without PETSc.

A file is a run of objects, all big-endian. With I the width of PETSc's integers (4 bytes, or 8
in builds with 64-bit indices; a file does not mix them):

========  =====================================================================================
AIJ Mat   I 1211216, I rows, I columns, I entries; I[rows] entries of each row;
          I[entries] columns from 0; float64[entries] values, both row by row
Vec       I 1211214, I rows; float64[rows] values
========  =====================================================================================

The ``.info`` file that PETSc writes beside it holds options only and is not looked at.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError

_MAT, _VEC = 1211216, 1211214
_DENSE = -1  # in the place of the number of entries


def read_petsc(path: str) -> tuple[Any, np.ndarray | None]:
    """The AIJ matrix that `path` begins with, and the first vector after it, if any.

    Further vectors are left unread: PETSc's examples put initial guesses and exact solutions
    there, in no fixed order.

    Returns
    -------
    matrix : SciPy CSR array, float64
    rhs : ndarray, float64 [rows], or None
    """
    with open(path, "rb") as stream:
        reader = _Reader(stream, path)
        matrix = reader.matrix()
        if reader.at_end():
            return matrix, None
        rhs = reader.vector()
    if len(rhs) != matrix.shape[0]:
        raise InputError(
            f"its vector has {len(rhs)} rows, its matrix {matrix.shape[0]}",
            file=path,
            remedy="Store a right-hand side that belongs to the matrix.",
        )
    return matrix, rhs


def read_petsc_vector(path: str) -> np.ndarray:
    """The vector that `path` begins with, float64 ``[rows]``."""
    with open(path, "rb") as stream:
        return _Reader(stream, path).vector()


class _Reader:
    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._path = path
        self._stream = stream
        self._left = os.fstat(stream.fileno()).st_size
        # The first word is a class id: 4 bytes long, or 8 of which the upper 4 are zero.
        wide = stream.read(4) == bytes(4)
        stream.seek(0)
        self._integer: np.dtype[Any] = np.dtype(">i8" if wide else ">i4")

    def at_end(self) -> bool:
        return self._left == 0

    def matrix(self) -> Any:
        self._class_id(_MAT, "a matrix")
        rows, columns, entries = (int(word) for word in self._array(self._integer, 3, "header"))
        if entries == _DENSE:
            raise self._bad("holds a dense matrix", "Convert it to AIJ before writing it.")
        if min(rows, columns, entries) < 0:
            raise self._bad(f"declares {rows} x {columns} with {entries} entries")
        lengths = self._array(self._integer, rows, "row lengths").astype(np.int64)
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        # The sum may have gone past the largest integer and come back.
        if (lengths < 0).any() or (indptr < 0).any() or indptr[-1] != entries:
            raise self._bad("row lengths do not add up to the number of entries")
        indices = self._array(self._integer, entries, "columns")
        if entries and (indices.min() < 0 or indices.max() >= columns):
            raise self._bad(f"a column is outside 0 to {columns - 1}")
        indices = indices.astype(np.int32 if columns < 2**31 else np.int64)
        data = self._array(np.dtype(">f8"), entries, "values")
        return sp.csr_array((data.astype(np.float64), indices, indptr), shape=(rows, columns))

    def vector(self) -> np.ndarray:
        self._class_id(_VEC, "a vector")
        rows = int(self._array(self._integer, 1, "header")[0])
        if rows < 0:
            raise self._bad(f"declares a vector of {rows} rows")
        return self._array(np.dtype(">f8"), rows, "values").astype(np.float64)

    def _class_id(self, wanted: int, what: str) -> None:
        found = int(self._array(self._integer, 1, "class id")[0])
        if found != wanted:
            raise self._bad(
                f"has {found} where {what} begins with {wanted}",
                "Write it with PETSc's binary viewer, real scalars, double precision.",
            )

    def _array(self, dtype: np.dtype[Any], count: int, what: str) -> np.ndarray:
        size = count * dtype.itemsize
        # Before allocating: a damaged count must not ask for all the memory there is.
        if size > self._left:
            raise self._bad(f"ends inside the {what}: {size} bytes are declared, {self._left} left")
        self._left -= size
        return np.frombuffer(self._stream.read(size), dtype=dtype)

    def _bad(self, problem: str, remedy: str = "") -> InputError:
        return InputError(
            problem,
            file=self._path,
            remedy=remedy or "Check that the file is complete and a PETSc binary file.",
        )
