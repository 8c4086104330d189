"""MatrixMarket files: every line checked on its way to SciPy's reader.

SciPy's reader is fast, but it takes what a number begins with for the number, runs past the end of
a file that was cut inside a line, and takes the process with it where there are zero bytes. So it
is handed whole lines whose every character has been accounted for, in the spelling it knows, under
a header that leaves symmetry to us.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.compressed import Open, open_bytes
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.matrix_market_lines import CheckedLines, cut, line_of_entry
from hpc_sla.storage.triangles import given_twice, mirrored

_FIELDS = ("real", "double", "integer", "unsigned-integer", "pattern")
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
_BOM = b"\xef\xbb\xbf"
_COUNT = re.compile(r"\+?[0-9]+")
PLAIN_LINES = 2
SCIPYS_LINE = re.compile(r"Line (\d+): (.*)")

_GENERAL = "Keep one triangle, or write general in the header, which takes entries as they stand."


@dataclass(frozen=True)
class MarketHeader:
    """What a file says before its numbers, in `lines` lines; `sizes` as they are written there."""

    form: str
    field: str
    symmetry: str
    sizes: tuple[int, ...]
    lines: int

    @property
    def width(self) -> int:
        """Numbers in a line."""
        if self.form == "array":
            return 1
        return 2 if self.field == "pattern" else 3

    @property
    def entries(self) -> int:
        if self.form == "coordinate":
            return self.sizes[2]
        rows, columns = self.sizes
        if self.symmetry == "general":
            return rows * columns
        return rows * (rows + (-1 if self.symmetry == "skew-symmetric" else 1)) // 2

    @property
    def sign(self) -> int:
        return -1 if self.symmetry == "skew-symmetric" else 1

    def plain(self, entries: int | None = None) -> bytes:
        """A header of as many lines for SciPy, which says nothing but where the numbers go.

        Of a piece of the file with so many of the entries: of two lines.
        """
        kind = "pattern" if self.width == 2 else "real"
        count = self.entries if entries is None else entries
        sizes = (count, 1) if self.form == "array" else (*self.sizes[:2], count)
        first = f"%%MatrixMarket matrix {self.form} {kind} general\n"
        lines = self.lines if entries is None else PLAIN_LINES
        text = first + " ".join(map(str, sizes)) + "\n" * max(1, lines - 1)
        return text.encode()


def read_matrix_market(path: str, opener: Open | None = None) -> Any:
    """A SciPy COO matrix (``coordinate``) or a dense array [rows, columns] (``array``).

    Float64. Symmetric, skew-symmetric and hermitian storage is expanded, pattern entries are ones,
    integers the nearest float64, repeated entries stay separate.

    Parameters
    ----------
    path : str
        What messages call it.
    opener : callable, optional
        What opens it; by default the file `path`, decompressed by its suffix.

    Raises
    ------
    InputError
        Naming the line and its text, where there is one to blame.
    """
    opener = opener or (lambda: open_bytes(path))
    with opener() as stream:
        header = read_header(stream, path)
        rows, columns = header.sizes[:2]
        if header.form == "coordinate":
            # Coordinates, values and pointers to rows, as SciPy will hold them.
            copies = 1 if header.symmetry == "general" else 2
            check_fits(24 * copies * header.entries + 8 * rows, path)
        else:
            check_fits(8 * math.prod(header.sizes), path)
        integer = "integer" in header.field
        lines = CheckedLines(stream, path, header.width, integer, header.entries, header.lines)
        feed = io.BufferedReader(_Joined(header.plain(), iter(lines)), 1 << 20)
        try:
            found: Any = np.zeros(0)
            # SciPy divides by the number of an array's values, which ends the process at 0.
            if header.form == "coordinate" or header.entries:
                found = scipy.io.mmread(feed)
            while feed.read(1 << 20):  # what SciPy had no use for is checked all the same
                pass
        except (ValueError, OverflowError) as error:
            named = SCIPYS_LINE.match(str(error))
            if isinstance(error, InputError) or named is None:
                raise
            number, problem = int(named[1]), named[2].rstrip(".").lower()
            raise _error_at(opener, path, header, number=number, problem=problem) from error
    values = found.data if header.form == "coordinate" else found.reshape(-1)
    if not np.isfinite(values).all():
        entry = int(np.argmin(np.isfinite(values)))
        raise _error_at(opener, path, header, entry, problem="the number is beyond float64")
    if header.form == "array":
        return _dense(values, header)
    row, col = found.row, found.col
    if header.symmetry == "general":
        return found
    _check_triangle(row, col, values, header, path, opener)
    row, col, values = mirrored(row, col, values, header.sign)
    return sp.coo_matrix((values, (row, col)), shape=(rows, columns))


def read_dense_matrix_market(path: str, opener: Open | None = None) -> np.ndarray:
    """Either form as a float64 array [rows, columns], or [rows] where there is one column."""
    found = read_matrix_market(path, opener)
    if sp.issparse(found):
        check_fits(8 * math.prod(found.shape), path)
        found = found.toarray()
    dense: np.ndarray = found
    return dense[:, 0] if dense.shape[1] == 1 else dense


def _check_triangle(
    row: np.ndarray,
    col: np.ndarray,
    values: np.ndarray,
    header: MarketHeader,
    path: str,
    opener: Open,
) -> None:
    twice = given_twice(row, col)
    if twice is not None:
        raise both_triangles(opener, path, header, twice[1], int(row[twice[1]]), int(col[twice[1]]))
    wrong = (row == col) & (values != 0) if header.sign < 0 else None
    if wrong is not None and wrong.any():
        raise on_diagonal(opener, path, header, int(np.argmax(wrong)))


def both_triangles(
    opener: Open, path: str, header: MarketHeader, entry: int, row: int, col: int
) -> InputError:
    """The error about an entry (counted from 0) whose mirror image comes before it."""
    return _error_at(
        opener,
        path,
        header,
        entry,
        problem=f"entry ({row + 1}, {col + 1}) of a {header.symmetry} matrix is given in both "
        "triangles",
        remedy=_GENERAL,
    )


def on_diagonal(opener: Open, path: str, header: MarketHeader, entry: int) -> InputError:
    """The error about an entry (counted from 0) that a skew-symmetric matrix cannot have."""
    return _error_at(
        opener,
        path,
        header,
        entry,
        problem="an entry on the diagonal of a skew-symmetric matrix is not 0",
        remedy="Leave the diagonal out, or write general in the header, with all entries.",
    )


def _dense(values: np.ndarray, header: MarketHeader) -> np.ndarray:
    """Columns one after another, of symmetric matrices from the diagonal down (skew: below it)."""
    rows, columns = header.sizes
    if header.symmetry == "general":
        return np.ascontiguousarray(values.reshape(columns, rows).T)
    found = np.zeros((rows, rows))
    upper = np.triu_indices(rows, 1 if header.sign < 0 else 0)
    found[upper] = header.sign * values
    found.T[upper] = values
    return found


def _error_at(
    opener: Open,
    path: str,
    header: MarketHeader,
    entry: int | None = None,
    number: int | None = None,
    problem: str = "",
    remedy: str = "Correct the line.",
) -> InputError:
    """The error about an entry, or about a line."""
    with opener() as stream:
        number, text = line_of_entry(stream, header.lines, entry, number)
    return InputError(
        f"{problem} (the line is {cut(text)!r})", file=path, field=f"line {number}", remedy=remedy
    )


def read_header(stream: BinaryIO, path: str) -> MarketHeader:
    """What a file says before its numbers; the stream is then at the first line of these. Local.

    Raises
    ------
    InputError
    """
    first = stream.readline(1024)
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            "is written in UTF-16", file=path, remedy="Save it as plain text (ASCII or UTF-8)."
        )
    for magic, suffix in ((b"\x1f\x8b", ".gz"), (b"BZh", ".bz2"), (b"\xfd7zXZ", ".xz")):
        if first.startswith(magic):
            raise InputError("is compressed", file=path, remedy=f"Let its name end in {suffix}.")
    words = first.removeprefix(_BOM).decode("latin-1").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise InputError(
            "the first line is not a MatrixMarket header",
            file=path,
            field="line 1",
            remedy="It reads: %%MatrixMarket matrix coordinate real general.",
        )
    form, field, symmetry = words[2:]
    if field == "complex":
        raise complex_values(path)
    known = form in ("coordinate", "array") and field in _FIELDS and symmetry in _SYMMETRIES
    # The format has no skew-symmetric patterns: of which sign would they be?
    signless = field == "pattern" and (form == "array" or symmetry == "skew-symmetric")
    if not known or signless:
        raise InputError(
            f"the header says {form} {field} {symmetry}",
            file=path,
            field="line 1",
            remedy="Read are coordinate and array, real, integer and pattern (with coordinate), "
            "general, symmetric, skew-symmetric (not pattern) and hermitian.",
        )
    sizes, lines = _size_line(stream, 3 if form == "coordinate" else 2, path)
    if symmetry != "general" and sizes[0] != sizes[1]:
        raise InputError(
            f"a matrix of {sizes[0]} x {sizes[1]} cannot be {symmetry}",
            file=path,
            field=f"line {lines}",
            remedy="Write general in the header.",
        )
    return MarketHeader(form, field, symmetry, sizes, lines)


def _size_line(stream: BinaryIO, count: int, path: str) -> tuple[tuple[int, ...], int]:
    """The sizes, and the number of their line."""
    number = 1
    while line := stream.readline(1 << 16):
        number += 1
        text = line.decode("latin-1").strip()
        if text.startswith("%"):
            while line and not line.endswith(b"\n"):  # a comment may be of any length
                line = stream.readline(1 << 16)
            continue
        if not text:
            continue
        words = text.split()
        if len(words) != count or not all(map(_COUNT.fullmatch, words)):
            break
        return tuple(int(word) for word in words), number
    else:
        text = ""
    raise InputError(
        f"there is no line with the {count} sizes"
        + (f" ({cut(text)!r} stands there)" * bool(text)),
        file=path,
        field=f"line {number}",
        remedy="After the header and the comments stand rows, columns"
        + (" and the number of entries." if count == 3 else "."),
    )


class _Joined(io.RawIOBase):
    """A header and blocks of lines as one stream."""

    def __init__(self, first: bytes, blocks: Iterator[bytes]) -> None:
        self._left = memoryview(first)
        self._blocks = blocks

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
