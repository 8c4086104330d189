"""MatrixMarket files: checked line by line, then read by SciPy.

SciPy's reader is fast, but it runs past the end of a file that was cut inside a line, or has zero
bytes in it or something odd in a last line without an end, and takes the process with it. So the
shape of every line is looked at before, and the last one given an end.
"""

from __future__ import annotations

import gzip
import io
import math
from typing import Any, BinaryIO, cast

import numpy as np
import scipy.io

from hpc_sla.errors import InputError
from hpc_sla.storage.limits import check_fits

_BLOCK = 1 << 22
_LONGEST_LINE = 1 << 20
_FIELDS = ("real", "double", "integer", "unsigned-integer", "pattern")
_SYMMETRIES = ("general", "symmetric", "skew-symmetric")

_OTHER, _SPACE, _NEWLINE, _NUMBER = range(4)
_CLASS = np.zeros(256, dtype=np.uint8)
_CLASS[list(b" \t\r")] = _SPACE
_CLASS[list(b"\n")] = _NEWLINE
_CLASS[list(b"0123456789+-.eEnNaAiIfFtTyY")] = _NUMBER  # NaN and infinity are refused later


def read_matrix_market(path: str) -> Any:
    """A SciPy COO matrix (``coordinate``) or a dense array [rows, columns] (``array``).

    Symmetric and skew-symmetric storage is expanded, pattern entries are ones, repeated entries
    stay separate.
    """
    with _open(path) as stream:
        form, field, symmetry = _header(stream, path)
        sizes = _size_line(stream, 3 if form == "coordinate" else 2)
        if symmetry != "general" and sizes[0] != sizes[1]:
            raise ValueError(f"a matrix of {sizes[0]} x {sizes[1]} cannot be {symmetry}")
        width = 1 if form == "array" else 2 if field == "pattern" else 3
        # Coordinates, values and pointers to rows, as SciPy will hold them.
        held = 24 * sizes[-1] + 8 * sizes[0] if form == "coordinate" else 8 * math.prod(sizes)
        check_fits(held, path)
        lines, ended = _count_lines(stream, width)
    announced = sizes[2] if form == "coordinate" else _dense_lines(sizes, symmetry)
    if lines != announced:
        raise ValueError(f"{announced} entries are announced, {lines} are there")
    if ended:
        return scipy.io.mmread(path)
    with _open(path) as stream:
        return scipy.io.mmread(io.BytesIO(stream.read() + b"\n"))


def _open(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    return open(path, "rb")


def _header(stream: BinaryIO, path: str) -> tuple[str, str, str]:
    words = stream.readline(1024).decode("latin-1").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise ValueError("the first line is not a MatrixMarket header")
    form, field, symmetry = words[2:]
    if field == "complex" or symmetry == "hermitian":
        raise InputError(
            "holds complex values",
            file=path,
            field="values",
            remedy="Only real numbers are handled: split real and imaginary parts.",
        )
    known = form in ("coordinate", "array") and field in _FIELDS and symmetry in _SYMMETRIES
    if not known or (form, field) == ("array", "pattern"):
        raise ValueError(f"the header says {form} {field} {symmetry}")
    return form, field, symmetry


def _size_line(stream: BinaryIO, count: int) -> list[int]:
    while line := stream.readline(1 << 16):
        text = line.decode("latin-1").strip()
        if text and not text.startswith("%"):
            sizes = [int(word) for word in text.split()]
            if len(sizes) != count or min(sizes) < 0:
                break
            return sizes
    raise ValueError(f"there is no line with the {count} sizes")


def _dense_lines(sizes: list[int], symmetry: str) -> int:
    rows, columns = sizes
    if symmetry == "general":
        return rows * columns
    return rows * (rows + (1 if symmetry == "symmetric" else -1)) // 2


def _count_lines(stream: BinaryIO, width: int) -> tuple[int, bool]:
    """Number of lines that are not blank, and whether the last one is ended.

    Each must have `width` numbers and nothing else.
    """
    lines = 0
    rest = b""
    while block := stream.read(_BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ValueError(f"line {lines + 1} of the numbers is longer than {_LONGEST_LINE}")
        lines += _check_lines(whole + newline, width, lines)
    return lines + _check_lines(rest + b"\n", width, lines), not rest


def _check_lines(text: bytes, width: int, before: int) -> int:
    kinds = _CLASS[np.frombuffer(text, dtype=np.uint8)]
    if not kinds.all():
        odd = text[int(np.argmin(kinds)) :][:1]
        raise ValueError(f"there is {odd!r} among the numbers")
    # Before the first byte stands a line's end.
    number = np.concatenate([[False], kinds == _NUMBER])
    begins = np.flatnonzero(number[1:] & ~number[:-1])
    ends = np.flatnonzero(kinds == _NEWLINE)
    counts = np.diff(np.searchsorted(begins, ends), prepend=0)
    if ((counts != width) & (counts != 0)).any():
        wrong = int(np.argmax((counts != width) & (counts != 0)))
        entry = before + int(np.count_nonzero(counts[:wrong])) + 1
        raise ValueError(f"entry {entry} has {counts[wrong]} numbers instead of {width}")
    return int(np.count_nonzero(counts))
