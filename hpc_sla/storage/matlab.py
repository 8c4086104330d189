"""MATLAB's .mat files: version 7.3, which is HDF5, and versions 5 to 7, read here.

Versions 5 to 7 are a header of 128 bytes and one element a variable, compressed by zlib or not. An
element is a tag (kind and length, 4 bytes each; or 2 each, with up to 4 bytes of data in the same
8) and its data, filled up to 8 bytes. (SciPy's reader trusts them, and damaged ones end the
process.)
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.hdf5 import is_hdf5
from hpc_sla.storage.hdf5_sparse import read_hdf5_sparse
from hpc_sla.storage.limits import check_fits

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_STRUCT, _SPARSE = 2, 5
_FULL = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
_COMPLEX = 8
_HEAD = 1 << 12  # of a variable: its class and name stand in there
_A, _B, _PROBLEM = "A", "b", "Problem"


def read_mat(path: str) -> tuple[Any, np.ndarray | None]:
    """The only sparse matrix, or the one called ``A`` or ``Problem.A``, and ``b`` beside it.

    Returns
    -------
    matrix : SciPy sparse array [m, n]
        Indices checked, values in the file's type.
    rhs : ndarray [m] or [m, k], or None

    Raises
    ------
    InputError, ValueError
        No sparse matrix, or several; complex; damaged.
    """
    if is_hdf5(path):
        return read_hdf5_sparse(path), None
    with open(path, "rb") as stream:
        file = _MatFile(stream, path)
        there = file.variables
        # As the SuiteSparse collection has it.
        if _PROBLEM in there and there[_PROBLEM].kind == _STRUCT:
            found = file.read(_PROBLEM, (_A, _B))
            if sp.issparse(found.get(_A)):
                return found[_A], _beside(found[_A], found.get(_B), path)
        sparse = [name for name, variable in there.items() if variable.kind == _SPARSE]
        if len(sparse) == 2 and _B in sparse:
            sparse.remove(_B)
        chosen = _A if _A in sparse else sparse[0] if len(sparse) == 1 else None
        if chosen is None:
            raise InputError(
                f"holds several sparse matrices ({', '.join(sparse[:8])})"
                if sparse
                else f"holds no sparse matrix (but {', '.join(list(there)[:8]) or 'nothing'})",
                file=path,
                remedy="Save the one you mean alone: save('A.mat', 'A'), sparse(A) of a full one.",
            )
        matrix = file.read(chosen)
        beside = chosen != _B and _B in there and there[_B].kind in (_SPARSE, *_FULL)
        return matrix, _beside(matrix, file.read(_B) if beside else None, path)


def read_mat_vector(path: str) -> np.ndarray:
    """The variable ``b``, or the only one that is a full array: ``[n]`` for one column or row."""
    if is_hdf5(path):
        raise InputError(
            "is a file of version 7.3, of which only matrices are read",
            file=path,
            remedy="Save the vector with save('b.mat', 'b', '-v7').",
        )
    with open(path, "rb") as stream:
        file = _MatFile(stream, path)
        full = [name for name, variable in file.variables.items() if variable.kind in _FULL]
        chosen = _B if _B in full else full[0] if len(full) == 1 else None
        if chosen is None:
            raise InputError(
                f"holds {len(full)} full arrays" + (f" ({', '.join(full[:8])})" if full else ""),
                file=path,
                remedy="Save the one you mean alone: save('b.mat', 'b').",
            )
        return _column(file.read(chosen))


def _beside(matrix: Any, rhs: Any, path: str) -> np.ndarray | None:
    """What is called b as a right-hand side, if it can be one: full or sparse, a row or columns."""
    if sp.issparse(rhs) and matrix.shape[0] in rhs.shape:
        check_fits(rhs.dtype.itemsize * math.prod(rhs.shape), path, _B)
        rhs = rhs.toarray()
    if not isinstance(rhs, np.ndarray):
        return None
    rhs = _column(rhs)
    return rhs if rhs.ndim in (1, 2) and len(rhs) == matrix.shape[0] else None


def _column(array: np.ndarray) -> np.ndarray:
    """MATLAB knows no vectors, and one row is as good as one column."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


@dataclass
class _Variable:
    """Where a variable stands, and its class."""

    kind: int
    place: int
    size: int
    compressed: bool


@dataclass
class _MatFile:
    stream: BinaryIO
    path: str
    order: str = "<"
    variables: dict[str, _Variable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = os.fstat(self.stream.fileno()).st_size
        head = self.stream.read(128)
        if len(head) < 128 or head[126:] not in (b"IM", b"MI"):
            raise InputError(
                "is of MATLAB's version 4, or not a .mat file",
                file=self.path,
                remedy="Save it again: save('A.mat', 'A', '-v7').",
            )
        self.order = "<" if head[126:] == b"IM" else ">"
        place = 128
        while place < size:
            self.stream.seek(place)
            kind, length = struct.unpack(f"{self.order}II", self.stream.read(8))
            if place + 8 + length > size:
                raise ValueError(f"it ends inside the variable at byte {place}")
            variable = _Variable(0, place, length, kind == _COMPRESSED)
            if kind in (_MATRIX, _COMPRESSED):
                name, variable.kind = self._name(variable)
                self.variables[name] = variable
            place += 8 + length

    def read(self, name: str, fields: tuple[str, ...] = ()) -> Any:
        """An array, sparse array, or those `fields` of a struct that are arrays, as a dict."""
        parts = _Parts(self._bytes(self.variables[name]), self.order, self.path)
        return parts.value(fields)

    def _name(self, variable: _Variable) -> tuple[str, int]:
        parts = _Parts(self._bytes(variable, _HEAD), self.order, self.path)
        kind, _, _, name = parts.header()
        return name, kind

    def _bytes(self, variable: _Variable, most: int | None = None) -> bytes:
        """The matrix's parts, all or the first `most` bytes."""
        self.stream.seek(variable.place + (8 if variable.compressed else 0))
        if not variable.compressed:
            return self.stream.read(8 + min(variable.size, most or variable.size))[8:]
        packed = self.stream.read(variable.size)
        inflate = zlib.decompressobj()
        kind, size = struct.unpack(f"{self.order}II", inflate.decompress(packed, 8))
        if kind != _MATRIX:
            raise ValueError(f"a compressed element is of kind {kind}")
        if most is not None:
            return inflate.decompress(inflate.unconsumed_tail, min(size, most) or 1)
        check_fits(2 * size, self.path)
        found = inflate.decompress(inflate.unconsumed_tail, size or 1)
        rest = inflate.decompress(inflate.unconsumed_tail, 1)
        if len(found) != size or rest or not inflate.eof:
            raise ValueError("a compressed variable is of another length than it says")
        return found


class _Parts:
    """The elements inside a matrix's, one after another."""

    def __init__(self, content: bytes, order: str, path: str) -> None:
        self._content, self._order, self._path, self._at = content, order, path, 0

    def header(self) -> tuple[int, int, tuple[int, ...], str]:
        """Class, flags, dimensions and name."""
        flags = self._numbers()
        if len(flags) < 1:
            raise ValueError("a variable has no class")
        shape = tuple(int(n) for n in self._numbers())
        _, name = self._element()
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"a variable has the shape {shape}")
        return int(flags[0]) & 255, int(flags[0]) >> 8 & 255, shape, name.decode("latin-1")

    def value(self, fields: tuple[str, ...] = ()) -> Any:
        kind, flags, shape, _ = self.header()
        if kind == _STRUCT:
            return self._fields(shape, fields)
        if flags & _COMPLEX:
            raise complex_values(self._path)
        if kind == _SPARSE:
            return self._sparse(shape)
        if kind in _FULL:
            found = self._numbers().astype(_FULL[kind], copy=False)
            return found.reshape(shape, order="F")
        return None

    def _sparse(self, shape: tuple[int, ...]) -> Any:
        rows, starts, data = self._numbers(), self._numbers(), self._numbers()
        check_fits(8 * sum(shape), self._path)
        if rows.dtype.kind == "f" or starts.dtype.kind == "f" or len(starts) != shape[1] + 1:
            raise ValueError("a sparse matrix has no usable indices")
        count = int(starts[-1])  # there may be room for more
        matrix = sp.csc_array((data[:count], rows[:count], starts), shape=shape)
        matrix.check_format(full_check=True)
        return matrix

    def _fields(self, shape: tuple[int, ...], wanted: tuple[str, ...]) -> dict[str, Any]:
        width = int(self._numbers()[0])
        _, text = self._element()
        if width < 1 or any(n != 1 for n in shape):
            return {}
        names = [text[k : k + width] for k in range(0, len(text), width)]
        found = {}
        for name in (name.split(b"\0")[0].decode("latin-1") for name in names):
            kind, content = self._element()
            if kind == _MATRIX and name in wanted and content:
                found[name] = _Parts(content, self._order, self._path).value()
        return found

    def _numbers(self) -> np.ndarray:
        kind, content = self._element()
        if kind not in _NUMBERS:
            raise ValueError(f"an element of kind {kind} stands where numbers belong")
        dtype = np.dtype(self._order + _NUMBERS[kind])
        return np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)

    def _element(self) -> tuple[int, bytes]:
        tag = self._content[self._at : self._at + 8]
        if len(tag) < 8:
            raise ValueError("a variable ends early")
        kind, size = struct.unpack(f"{self._order}II", tag)
        if kind >> 16:  # the short form
            kind, size, start = kind & 0xFFFF, kind >> 16, self._at + 4
            self._at += 8
        else:
            start = self._at + 8
            self._at = start + size + -size % 8
        content = self._content[start : start + size]
        if len(content) < size or (start % 8 and size > 4):
            raise ValueError("a variable ends early")
        return kind, content
