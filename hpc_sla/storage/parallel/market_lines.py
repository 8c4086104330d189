"""The entries of a MatrixMarket file, of which each rank parses some of the lines."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import scipy.io

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import on_root
from hpc_sla.storage.compressed import open_bytes
from hpc_sla.storage.importers import importing
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.matrix_market import PLAIN_LINES, SCIPYS_LINE, MarketHeader, read_header
from hpc_sla.storage.matrix_market_lines import (
    BLOCK,
    LONGEST_LINE,
    CheckedLines,
    cut,
    line_of_entry,
    miscounted,
)

_SCAN = 1 << 16


@dataclass(frozen=True)
class MarketEntries:
    """What one rank has parsed: runs of entries in the order of the file.

    Attributes
    ----------
    header : MarketHeader
        Replicated.
    number : int64 array [m]
        Per rank: which entry of the file each is, ascending.
    row, col : int64 array [m]
        Counted from 0. None of an array's, whose entries are values only.
    values : float64 array [m]
    """

    header: MarketHeader
    number: np.ndarray
    row: np.ndarray
    col: np.ndarray
    values: np.ndarray


def read_entries(peers: Peers, path: str) -> MarketEntries:
    """Each rank the lines of its run of bytes, cut where lines end. **Collective.**

    A compressed file every rank decompresses, and parses every size-th block of.

    Raises
    ------
    InputError
        On every rank: of the first line that is wrong.
    """
    header, begin = on_root(peers, lambda: _header(path))
    copies = 1 if header.symmetry == "general" else 2
    with peers.agree(), importing(path):
        check_fits(24 * copies * header.entries // peers.size, path)
    plain = begin is not None
    read: Iterable[_Block] = _dealt_lines(path, peers.rank, peers.size)
    if begin is not None:
        read = _numbered(_own_lines(path, begin, peers.rank, peers.size), peers.rank)
    found: list[tuple[np.ndarray, ...]] = []
    counts: list[tuple[int, int]] = []
    last = _Block(peers.rank if plain else 0, 0, b"")
    error: InputError | None = None
    try:
        with importing(path):
            for last in read:
                parsed = parse_block(last.text, header, path, last.before)
                found.append(parsed)
                counts.append((last.place, len(parsed[-1])))
    except InputError as caught:
        error = caught
    if peers.sum(np.array([error is not None], dtype=np.int64))[0]:
        _raise_first(peers, path, header, plain, error, last)
    total = sum(count for _, count in counts)
    whole = int(peers.sum(np.array([total], dtype=np.int64))[0])
    with peers.agree():
        if whole != header.entries:
            raise miscounted(path, header.entries, whole)
    if plain:
        first = int(peers.before(np.array([total], dtype=np.int64))[0])
        number = np.arange(first, first + total, dtype=np.int64)
    else:
        number = _dealt_numbers(peers, counts)
    nothing = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))
    arrays = (np.concatenate([nothing[k], *(one[k] for one in found)]) for k in range(3))
    return MarketEntries(header, number, *arrays)


def parse_block(
    block: bytes, header: MarketHeader, path: str, before: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of whole lines, each looked at. Local.

    `before` lines come before them in the file.
    """
    integer = "integer" in header.field
    lines = CheckedLines(
        io.BytesIO(block), path, header.width, integer, header.entries, before, part=True
    )
    text = b"".join(lines)
    if not lines.found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    try:
        parsed: Any = scipy.io.mmread(io.BytesIO(header.plain(lines.found) + text))
    except (ValueError, OverflowError) as error:
        named = SCIPYS_LINE.match(str(error))
        if named is None:
            raise
        problem = named[2].rstrip(".").lower()
        number = int(named[1]) - PLAIN_LINES
        raise _wrong_line(block, path, before, None, number, problem) from error
    values = parsed.data if header.form == "coordinate" else parsed.reshape(-1)
    if not np.isfinite(values).all():
        entry = int(np.argmin(np.isfinite(values)))
        raise _wrong_line(block, path, before, entry, None, "the number is beyond float64")
    if header.form == "array":
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), values
    return parsed.row.astype(np.int64), parsed.col.astype(np.int64), values


class _Block(NamedTuple):
    """Whole lines: how far on in the file, and how many lines come before them.

    Of blocks of a rank's own run the place is the rank's, and lines are counted in the run.
    """

    place: int
    before: int
    text: bytes


def _raise_first(
    peers: Peers,
    path: str,
    header: MarketHeader,
    plain: bool,
    error: InputError | None,
    last: _Block,
) -> None:
    """Raise the first of the ranks' errors, by its place in the file. **Collective.**

    `last` is the block that this rank has come to.
    """
    before = 0
    if plain:
        lines = last.before + last.text.count(b"\n")
        before = header.lines + int(peers.before(np.array([lines], dtype=np.int64))[0])
    place = 2**62 if error is None else last.place
    first = -int(peers.max(np.array([-place], dtype=np.int64))[0])
    with peers.agree(), importing(path):
        if error is not None and place == first:
            # Once more, to name the line by its number in the file.
            parse_block(last.text, header, path, before + last.before)
            raise error


def _wrong_line(
    block: bytes, path: str, before: int, entry: int | None, number: int | None, problem: str
) -> InputError:
    place, text = line_of_entry(io.BytesIO(block), 0, entry, number)
    return InputError(
        f"{problem} (the line is {cut(text)!r})",
        file=path,
        field=f"line {before + place}",
        remedy="Correct the line.",
    )


def _header(path: str) -> tuple[MarketHeader, int | None]:
    """The header, and where the entries begin in a file that is not compressed."""
    with importing(path), open_bytes(path) as stream:
        header = read_header(stream, path)
        return header, stream.tell() if path.lower().endswith(".mtx") else None


def _own_lines(path: str, begin: int, rank: int, size: int) -> Iterator[bytes]:
    """Blocks of the lines that begin in this rank's run of bytes."""
    with open(path, "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        cuts = [begin + (end - begin) * r // size for r in (rank, rank + 1)]
        first, last = (c if c in (begin, end) else _line_start(stream, c) for c in cuts)
        stream.seek(first)
        yield from _whole_lines(stream, last - first)


def _line_start(stream: BinaryIO, place: int) -> int:
    """The first place from this one on at which a line begins."""
    stream.seek(place - 1)
    scanned = 0
    # Beyond that the line is refused by whoever has it.
    while scanned <= 2 * LONGEST_LINE:
        some = stream.read(_SCAN)
        newline = some.find(b"\n")
        if newline >= 0:
            return place + scanned + newline
        scanned += len(some)
        if len(some) < _SCAN:
            break
    return place - 1 + scanned


def _whole_lines(stream: BinaryIO, n_bytes: int | None = None) -> Iterator[bytes]:
    """Blocks of whole lines, to the end or so many bytes."""
    rest = b""
    while n_bytes is None or n_bytes > 0:
        some = stream.read(BLOCK if n_bytes is None else min(BLOCK, n_bytes))
        if not some:
            break
        n_bytes = None if n_bytes is None else n_bytes - len(some)
        whole, newline, rest = (rest + some).rpartition(b"\n")
        if newline:
            yield whole + newline
        if len(rest) > LONGEST_LINE:
            yield rest  # which is refused
            rest = b""
    if rest:
        yield rest


def _numbered(blocks: Iterable[bytes], place: int) -> Iterator[_Block]:
    lines = 0
    for block in blocks:
        yield _Block(place, lines, block)
        lines += block.count(b"\n")


def _dealt_lines(path: str, rank: int, size: int) -> Iterator[_Block]:
    """Every size-th block of lines."""
    with open_bytes(path) as stream:
        lines = read_header(stream, path).lines
        for place, block in enumerate(_whole_lines(stream)):
            if place % size == rank:
                yield _Block(place, lines, block)
            lines += block.count(b"\n")


def _dealt_numbers(peers: Peers, counts: list[tuple[int, int]]) -> np.ndarray:
    """The number in the file of each of this rank's entries. **Collective.**

    Ranks have so many entries of each block; blocks are few.
    """
    flat = np.array([part for count in counts for part in count], dtype=np.int64)
    every = peers.allgather(flat).reshape(-1, 2)
    entries = np.zeros(len(every), dtype=np.int64)
    entries[every[:, 0]] = every[:, 1]
    starts = np.concatenate([[0], np.cumsum(entries)])
    runs = [np.arange(starts[p], starts[p] + count) for p, count in counts]
    return np.concatenate([np.empty(0, dtype=np.int64), *runs])
