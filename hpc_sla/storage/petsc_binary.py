"""PETSc's binary files, read without PETSc.

A file is a run of objects, all big-endian. With I the width of PETSc's integers (4 bytes, or 8
in builds with 64-bit indices; a file does not mix them):

========  =====================================================================================
AIJ Mat   I 1211216, I rows, I columns, I entries; I[rows] entries of each row;
          I[entries] columns from 0; float64[entries] values, both row by row
Vec       I 1211214, I rows; float64[rows] values
========  =====================================================================================

Builds of PETSc for other numbers write those in the place of float64, and nothing in the file says
so but its length: objects of the right width follow one another to its end. Complex numbers of
single precision are as long as float64; those are told by their values, but for few or equal ones.

The ``.info`` file that PETSc writes beside it holds options only and is not looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.complex_single import looks_complex

_MAT, _VEC, _INDEX_SET = 1211216, 1211214, 1211218
_DENSE = -1  # in the place of the number of entries


def read_petsc(path: str) -> tuple[Any, np.ndarray | None]:
    """The AIJ matrix that `path` begins with, and the first vector after it, if any.

    Further vectors are left unread: PETSc's examples put initial guesses and exact solutions
    there, in no fixed order.

    Returns
    -------
    matrix : SciPy CSR array, float64
    rhs : ndarray, float64 [m], or None
        Of whatever length it is.
    """
    with open(path, "rb") as stream:
        reader = _PetscReader(stream, path)
        matrix = reader.matrix()
        if reader.at_end():
            return matrix, None
        rhs = reader.vector()
        reader.check_rest()
    return matrix, rhs


def read_petsc_vector(path: str) -> np.ndarray:
    """The vector that `path` holds, and nothing besides: float64 ``[rows]``."""
    with open(path, "rb") as stream:
        reader = _PetscReader(stream, path)
        vector = reader.vector()
        if not reader.at_end():
            reader.check_rest()
            raise _several(path)
    return vector


@dataclass(frozen=True)
class PetscLayout:
    """Where a file has what: for those who read parts of it.

    Attributes
    ----------
    integer : str
        The dtype of its integers.
    matrix : ((rows, columns), entries, places) or None
        Places of row lengths, columns and values, in bytes.
    vector : (place, rows) or None
        The first one, behind the matrix.
    """

    integer: str
    matrix: tuple[tuple[int, int], int, tuple[int, int, int]] | None
    vector: tuple[int, int] | None


def petsc_layout(path: str, matrix: bool) -> PetscLayout:
    """What lies where in a file of a matrix, or of a vector and nothing else. Local.

    Raises
    ------
    InputError
        What `read_petsc` and `read_petsc_vector` find wrong with the headers and lengths.
    """
    with open(path, "rb") as stream:
        reader = _PetscReader(stream, path)
        found = reader.skip_matrix() if matrix else None
        vector = None
        if not (matrix and reader.at_end()):
            vector = reader.skip_vector()
            reader.check_rest()
            if not (matrix or reader.at_end()):
                raise _several(path)
        return PetscLayout(reader.integer, found, vector)


def petsc_error(path: str, problem: str, remedy: str = "") -> InputError:
    """The error about a damaged file."""
    return InputError(
        problem,
        file=path,
        remedy=remedy or "Check that the file is complete and a PETSc binary file.",
    )


def complex_single(path: str, example: float) -> InputError:
    """The error about numbers that are better read as complex64."""
    return petsc_error(
        path,
        "holds complex numbers of single precision, as it seems: as real ones, which take "
        f"as many bytes, they would be {example:.6g} and the like",
        "Write it with a PETSc of real scalars in double precision; if they are real, "
        "convert the file to .npz or .npy.",
    )


def _several(path: str) -> InputError:
    return petsc_error(
        path,
        "holds several objects where one vector is needed",
        "Write the vector into a file of its own.",
    )


class _PetscReader:
    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._path = path
        self._stream = stream
        self._size = self._left = os.fstat(stream.fileno()).st_size
        # The first word is a class id: 4 bytes long, or 8 of which the upper 4 are zero.
        wide = stream.read(4) == bytes(4)
        stream.seek(0)
        self._integer: np.dtype[Any] = np.dtype(">i8" if wide else ">i4")
        if not self._fits(0, 8):
            for width, what in ((16, "complex (or quadruple precision)"), (4, "single-precision")):
                if self._fits(0, width):
                    raise self._error(
                        f"holds {what} numbers, {width} bytes each",
                        "Write it with a PETSc of real scalars in double precision.",
                    )
        stream.seek(0)

    def at_end(self) -> bool:
        return self._left == 0

    def check_rest(self) -> None:
        """The rest of the file must be objects, too: else numbers read may not be those written."""
        if not self._fits(self._size - self._left, 8):
            raise self._error(f"ends with {self._left} bytes that are not a PETSc object")

    def _fits(self, start: int, scalar: int) -> bool:
        """Whether objects with numbers of that many bytes lead from `start` to the file's end."""
        integer = self._integer.itemsize
        while start < self._size:
            self._stream.seek(start)
            kind, *sizes = self._integers(4)
            if kind == _VEC and len(sizes) >= 1:
                length = 2 * integer + sizes[0] * scalar
            elif kind == _INDEX_SET and len(sizes) >= 1:
                length = (2 + sizes[0]) * integer
            elif kind == _MAT and len(sizes) == 3 and sizes[2] != _DENSE:
                length = (4 + sizes[0] + sizes[2]) * integer + sizes[2] * scalar
            else:
                return False
            if min(sizes[: 1 if kind != _MAT else 3]) < 0:
                return False
            start += length
        return start == self._size

    def _integers(self, count: int) -> list[int]:
        """The next ones, or as many as there are; 0 where there is none."""
        found = self._stream.read(count * self._integer.itemsize)
        whole = len(found) - len(found) % self._integer.itemsize
        return np.frombuffer(found[:whole], dtype=self._integer).tolist() or [0]

    @property
    def integer(self) -> str:
        return self._integer.str

    def matrix(self) -> Any:
        rows, columns, entries = self._matrix_header()
        lengths = self._array(self._integer, rows, "row lengths").astype(np.int64)
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        # The sum may have gone past the largest integer and come back.
        if (lengths < 0).any() or (indptr < 0).any() or indptr[-1] != entries:
            raise self._error("row lengths do not add up to the number of entries")
        indices = self._array(self._integer, entries, "columns")
        if entries and (indices.min() < 0 or indices.max() >= columns):
            raise self._error(f"a column is outside 0 to {columns - 1}")
        indices = indices.astype(np.int32 if columns < 2**31 else np.int64)
        data = self._numbers(entries)
        return sp.csr_array((data.astype(np.float64), indices, indptr), shape=(rows, columns))

    def skip_matrix(self) -> tuple[tuple[int, int], int, tuple[int, int, int]]:
        """Sizes of the matrix that comes, and where its arrays are; the stream is behind it."""
        rows, columns, entries = self._matrix_header()
        lengths = self._skip(self._integer, rows, "row lengths")
        indices = self._skip(self._integer, entries, "columns")
        values = self._skip(np.dtype(">f8"), entries, "values")
        return (rows, columns), entries, (lengths, indices, values)

    def skip_vector(self) -> tuple[int, int]:
        """The place of the values of the vector that comes, and how many there are."""
        rows = self._vector_header()
        return self._skip(np.dtype(">f8"), rows, "values"), rows

    def vector(self) -> np.ndarray:
        return self._numbers(self._vector_header()).astype(np.float64)

    def _matrix_header(self) -> tuple[int, int, int]:
        self._class_id(_MAT, "a matrix")
        rows, columns, entries = (int(word) for word in self._array(self._integer, 3, "header"))
        if entries == _DENSE:
            raise self._error("holds a dense matrix", "Convert it to AIJ before writing it.")
        if min(rows, columns, entries) < 0:
            raise self._error(f"declares {rows} x {columns} with {entries} entries")
        return rows, columns, entries

    def _vector_header(self) -> int:
        self._class_id(_VEC, "a vector")
        rows = int(self._array(self._integer, 1, "header")[0])
        if rows < 0:
            raise self._error(f"declares a vector of {rows} rows")
        return rows

    def _numbers(self, count: int) -> np.ndarray:
        data = self._array(np.dtype(">f8"), count, "values")
        if looks_complex(data):
            raise complex_single(self._path, data[data != 0][0])
        return data

    def _class_id(self, wanted: int, what: str) -> None:
        found = int(self._array(self._integer, 1, "class id")[0])
        if found != wanted:
            raise self._error(
                f"has {found} where {what} begins with {wanted}",
                "Write it with PETSc's binary viewer, real scalars, double precision.",
            )

    def _array(self, dtype: np.dtype[Any], count: int, what: str) -> np.ndarray:
        return np.frombuffer(self._stream.read(self._taken(dtype, count, what)), dtype=dtype)

    def _skip(self, dtype: np.dtype[Any], count: int, what: str) -> int:
        """Where an array begins; the stream is then behind it."""
        place = self._stream.tell()
        self._stream.seek(place + self._taken(dtype, count, what))
        return place

    def _taken(self, dtype: np.dtype[Any], count: int, what: str) -> int:
        """The bytes of an array that comes, which are then no longer left."""
        size = count * dtype.itemsize
        # Before allocating: a damaged count must not ask for all the memory there is.
        if size > self._left:
            raise self._error(
                f"ends inside the {what}: {size} bytes are declared, {self._left} left"
            )
        self._left -= size
        return size

    def _error(self, problem: str, remedy: str = "") -> InputError:
        return petsc_error(self._path, problem, remedy)
