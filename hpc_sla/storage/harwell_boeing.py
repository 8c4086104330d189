"""Harwell-Boeing and Rutherford-Boeing files (.rb, .hb, .rua, .rsa and their like).

Numbers stand in columns of the width that the header's Fortran formats give, often without a blank
between them, so they are cut out by width and each is checked in whole. SciPy's reader splits at
blanks, and leaves symmetric matrices with one triangle.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage import number_text as text
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.compressed import Open
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.triangles import given_twice, mirrored

_FORMAT = re.compile(
    r"\(\s*(?:(?P<scale>[+-]?\d+)\s*P\s*,?)?\s*(?P<count>\d*)\s*(?P<kind>[IEDFG])\s*(?P<width>\d+)"
    r"(?:\.(?P<digits>\d+)(?:E\d+)?)?\s*\)",
    re.IGNORECASE,
)
_REAL = re.compile(rb" *" + text.REAL + rb" *")
_INTEGER = re.compile(rb" *" + text.INTEGER + rb" *")
_NO_POINT = re.compile(rb"[^.]*")
_NO_EXPONENT = re.compile(rb" *[+-]?[0.]+ *")
_LONGEST_LINE = 1 << 16
_REMEDY = "Check that the file is complete, or convert it to MatrixMarket."


@dataclass(frozen=True)
class _Format:
    """``(count kind width.digits)``: so many numbers a line, so many characters a number."""

    count: int
    width: int
    digits: int
    scale: int
    integer: bool


def read_harwell_boeing(path: str, opener: Open) -> tuple[Any, np.ndarray | None]:
    """The assembled matrix, float64, its triangle mirrored, and the right-hand sides, if any.

    Returns
    -------
    matrix : SciPy COO matrix [m, n]
    rhs : float64 [m] or [m, k], or None
        Those stored in full; guesses and exact solutions after them are left unread.

    Raises
    ------
    InputError
        Naming the line and its text, where there is one to blame.
    """
    with opener() as stream:
        return _BoeingReader(stream, path).read()


class _BoeingReader:
    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream, self._path, self._line = stream, path, 0

    def read(self) -> tuple[Any, np.ndarray | None]:
        self._next()  # the title
        cards = self._counts(self._next())
        third = self._next()
        kind, sizes = third[:3].lower(), self._counts(third[3:])
        if len(sizes) < 3 or not re.fullmatch(r"[a-z]{3}", kind):
            raise self._error("does not give a type and the numbers of rows, columns and entries")
        rows, columns, entries = sizes[:3]
        self._check_kind(kind, rows, columns)
        formats = [self._format(found) for found in _FORMAT.finditer(self._next())]
        valued = kind[0] not in "pq"
        rhs_lines = cards[4] if len(cards) > 4 else 0
        if len(formats) < 2 + valued + (rhs_lines > 0):
            raise self._error("gives too few formats such as (26I3) or (5E15.8)")
        rhs_kind = self._next() if rhs_lines else ""
        check_fits(24 * entries + 8 * (rows + columns), self._path)
        starts = self._numbers(columns + 1, formats[0], integer=True) - 1
        if starts[0] != 0 or starts[-1] != entries or (np.diff(starts) < 0).any():
            raise self._error(f"column pointers do not rise from 1 to {entries + 1}")
        row = self._numbers(entries, formats[1], integer=True) - 1
        if entries and (row.min() < 0 or row.max() >= rows):
            raise self._error(f"a row is outside 1 to {rows}")
        values = np.ones(entries)
        if valued:
            values = self._numbers(entries, formats[2], integer=kind[0] == "i")
        col = np.repeat(np.arange(columns, dtype=row.dtype), np.diff(starts))
        if kind[1] in "shz":
            row, col, values = self._whole(row, col, values.astype(np.float64), kind)
        matrix = sp.coo_matrix((values.astype(np.float64), (row, col)), shape=(rows, columns))
        return matrix, self._rhs(rhs_kind, rows, formats[-1])

    def _check_kind(self, kind: str, rows: int, columns: int) -> None:
        if kind[0] == "c":
            raise complex_values(self._path, f"line {self._line}")
        if kind[2] == "e":
            raise self._error(
                f"is of type {kind}: element matrices", "Assemble it, and write it as MatrixMarket."
            )
        if kind[0] not in "ripq" or kind[1] not in "ushzr" or kind[2] != "a" or kind[:2] == "pz":
            raise self._error(f"is of type {kind!r}, which is not known")
        if kind[1] in "shz" and rows != columns:
            raise self._error(f"a matrix of {rows} x {columns} cannot be of type {kind}")

    def _whole(
        self, row: np.ndarray, col: np.ndarray, values: np.ndarray, kind: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        twice = given_twice(row, col)
        if twice is not None:
            i, j = int(row[twice[1]]) + 1, int(col[twice[1]]) + 1
            raise self._error(
                f"entry ({i}, {j}) of a matrix of type {kind} is given in both triangles",
                f"Keep one triangle, or write {kind[0]}ua for the type.",
            )
        if kind[1] == "z" and values[row == col].any():
            raise self._error("an entry on the diagonal of a skew-symmetric matrix is not 0")
        return mirrored(row, col, values, -1 if kind[1] == "z" else 1)

    def _rhs(self, kind: str, rows: int, layout: _Format) -> np.ndarray | None:
        if kind[:1].lower() != "f":
            return None
        count = (self._counts(kind[3:]) or [1])[0]
        check_fits(8 * rows * count, self._path)
        found = self._numbers(rows * count, layout, integer=False)
        return found if count == 1 else np.ascontiguousarray(found.reshape(count, rows).T)

    def _format(self, found: re.Match[str]) -> _Format:
        width, count = int(found["width"]), int(found["count"] or 1)
        if not 0 < width * count <= _LONGEST_LINE:
            raise self._error(f"has the format {found[0]}")
        return _Format(
            count,
            width,
            int(found["digits"] or 0),
            int(found["scale"] or 0),
            found["kind"].upper() == "I",
        )

    def _numbers(self, count: int, layout: _Format, integer: bool) -> np.ndarray:
        """The next `count` numbers: int64 or float64."""
        pieces, left = [], count
        integer = integer or layout.integer
        known: set[bytes] = set()
        while left:
            here = min(left, layout.count)
            line = self._next().encode("latin-1")
            fields = self._cut(line, here, layout, integer, known)
            pieces += fields
            left -= here
        spelt = text.plain(b" ".join(field.strip() for field in pieces), b" ".join(known)).split()
        return np.array(spelt, dtype="S").astype(np.int64 if integer else np.float64)

    def _cut(
        self, line: bytes, count: int, layout: _Format, integer: bool, known: set[bytes]
    ) -> list[bytes]:
        """The numbers of a line; their shapes join those known."""
        try:
            return self._cut_at(layout.width, line, count, layout, integer, known)
        except InputError:
            # SciPy writes reals a character narrower than its header says. Lines of the announced
            # width are longer than such ones.
            if integer or layout.width == 1:
                raise
            with suppress(InputError):
                return self._cut_at(layout.width - 1, line, count, layout, integer, known)
            raise

    def _cut_at(
        self,
        width: int,
        line: bytes,
        count: int,
        layout: _Format,
        integer: bool,
        known: set[bytes],
    ) -> list[bytes]:
        fields = [line[k * width : (k + 1) * width] for k in range(count)]
        for field in fields:
            shape = text.shape(field)
            if shape not in known:
                self._check(field.decode("latin-1"), shape, layout, integer)
                known.add(shape)
        if line[count * width :].strip():
            # Numbers wider than the format says would be cut into others.
            raise self._error(f"has more than {count} numbers of {layout.width} characters")
        return fields

    def _check(self, field: str, shape: bytes, layout: _Format, integer: bool) -> None:
        if not (_INTEGER if integer else _REAL).fullmatch(shape):
            why = text.why_not_number(field.strip(), integer)
            raise self._error(why or f"{field!r} is not a number")
        if integer:
            return
        # Fortran reads 15 as 1.5 under F2.1, and divides by ten under 1P where there is no
        # exponent; other programs do not.
        if (layout.digits and _NO_POINT.fullmatch(shape)) or (
            layout.scale and _NO_EXPONENT.fullmatch(shape)
        ):
            raise self._error(f"{field.strip()!r} means different things to different readers")

    def _counts(self, line: str) -> list[int]:
        words = line.split()
        if not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
            raise self._error("has something other than whole numbers")
        return [int(word) for word in words]

    def _next(self) -> str:
        line = self._stream.readline(_LONGEST_LINE)
        self._line += 1
        self._text = line.decode("latin-1").rstrip("\r\n")
        if not line:
            raise self._error("the file ends early")
        if len(line) == _LONGEST_LINE:
            raise self._error(f"is longer than {_LONGEST_LINE} characters")
        return self._text

    def _error(self, problem: str, remedy: str = _REMEDY) -> InputError:
        shown = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        return InputError(
            f"{problem} (the line is {shown!r})" if shown else problem,
            file=self._path,
            field=f"line {self._line}",
            remedy=remedy,
        )
