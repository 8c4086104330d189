"""A CRC-32 of every block of rows, kept as an attribute of the dataset and checked on reading.

HDF5's own fletcher32 takes words of zeros and of ones for the same, and a chunk that was lost
altogether, its checksum among it, for a good one. A CRC does not, and each rank can check it on
the rows it reads.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.crc32 import crc32, joined

SUMS, ROWS = "crc32", "crc32_rows"
_BLOCK, _LARGEST_BLOCK = 1 << 20, 64 << 20
_MOST_BLOCKS = 1 << 15


def block_rows(shape: tuple[int, ...], dtype: Any) -> int:
    """Rows of a block of a dataset: those of 1 MiB, of more where there would be very many."""
    row_bytes = max(1, np.dtype(dtype).itemsize * math.prod(shape[1:]))
    wanted = min(max(_BLOCK, row_bytes * shape[0] // _MOST_BLOCKS), _LARGEST_BLOCK)
    return max(1, min(shape[0], wanted // row_bytes))


class BlockSums:
    """The sums of one dataset, while its rows are written: each once, in any order, by anybody.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    rows : int, optional
        Of a block; default `block_rows`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, rows: int = 0) -> None:
        self._rows = rows or block_rows(shape, dtype)
        self._n = shape[0]
        self._row_bytes = np.dtype(dtype).itemsize * math.prod(shape[1:])
        # Of each block, pieces: first row, one past the last (counted from the block's), sum.
        self._pieces: dict[int, list[list[int]]] = {}

    def add(self, start: int, array: np.ndarray) -> None:
        """Rows ``start:start + len(array)`` were written."""
        done = 0
        while done < len(array):
            block, within = divmod(start + done, self._rows)
            piece = array[done : done + self._rows - within]
            done += len(piece)
            known = self._pieces.setdefault(block, [])
            if known and known[-1][1] == within:
                known[-1][1:] = within + len(piece), crc32(piece, known[-1][2])
            else:
                known.append([within, within + len(piece), crc32(piece)])

    def pieces(self) -> np.ndarray:
        """What `merge` takes: int64 ``[m, 4]``."""
        flat = [(block, *piece) for block, known in self._pieces.items() for piece in known]
        return np.array(flat, dtype=np.int64).reshape(-1, 4)

    def merge(self, pieces: np.ndarray) -> None:
        """Add those of other ranks."""
        for block, first, stop, crc in pieces.tolist():
            self._pieces.setdefault(block, []).append([first, stop, crc])

    def take_whole(self) -> list[tuple[int, int]]:
        """Blocks that are there from their first row to their last, with their sums: once each."""
        found = []
        for block in list(self._pieces):
            pieces = self._pieces[block]
            if len(pieces) == 1 and pieces[0][:2] == [0, self._length(block)]:
                found.append((block, self._pieces.pop(block)[0][2]))
        return found

    def _length(self, block: int) -> int:
        return min(self._rows, self._n - block * self._rows)

    def sum_of(self, block: int) -> int | None:
        """That of one block; None where a row of it was added never or twice."""
        place = total = 0
        for first, stop, crc in sorted(self._pieces.get(block, [])):
            if first != place:
                return None
            total = joined(total, crc, (stop - first) * self._row_bytes) if first else crc
            place = stop
        return total if place == self._length(block) else None

    def blocks(self) -> list[int]:
        """Those of which anything is there."""
        return sorted(self._pieces)

    def sums(self) -> np.ndarray | None:
        """Those of all blocks, uint32; None where a row was written never or twice."""
        found = [self.sum_of(block) for block in range(-(-self._n // self._rows))]
        return None if None in found else np.array(found, dtype="<u4")

    def store(self, item: h5py.Dataset) -> None:
        """Put the sums beside the dataset, if they are of all of it."""
        found = self.sums()
        if found is not None and len(found):
            item.attrs[SUMS] = found
            item.attrs[ROWS] = np.int64(self._rows)


def check_block_sums(item: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Rows ``start:start + len(values)`` just read must have the sums they were written with.

    Blocks that are there in part are read again, whole: two at most.

    Raises
    ------
    InputError
        They have not.
    ValueError
        The sums make no sense.
    """
    if SUMS not in item.attrs:
        return
    sums, rows = stored_sums(item)
    n, stop = len(item), start + len(values)
    for block in range(start // rows, -(-stop // rows)):
        low, high = block * rows, min((block + 1) * rows, n)
        if start <= low and high <= stop:
            piece = values[low - start : high - start]
        else:
            piece = np.empty((high - low, *item.shape[1:]), dtype=values.dtype)
            item.read_direct(piece, np.s_[low:high])
        if crc32(piece) != sums[block]:
            raise damaged_rows(item.file.filename, item.name, low, high)


def damaged_rows(path: str, name: str, low: int, high: int) -> InputError:
    """What to raise where rows ``low:high`` of a dataset have not the sum they came with."""
    return InputError(
        "cannot be read, the stored bytes are damaged "
        f"(checksum mismatch in rows {low} to {high - 1})",
        file=path,
        field=name,
        remedy="Copy the file again, or write it again; if you changed the values "
        f"yourself, delete the dataset's attribute {SUMS!r}.",
    )


def stored_sums(item: h5py.Dataset) -> tuple[np.ndarray, int]:
    """A dataset's sums, which it has, and the rows of a block. Raises ValueError."""
    kind: Any = item.attrs.get_id(SUMS)
    rows = 0
    if ROWS in item.attrs:
        declared: Any = item.attrs.get_id(ROWS)
        if declared.shape == () and declared.dtype.kind in "iu":
            rows = int(item.attrs[ROWS])
    width = item.dtype.itemsize * int(np.prod(item.shape[1:], dtype=object))
    if (
        rows < 1
        or min(rows, len(item)) * width > _LARGEST_BLOCK
        or kind.dtype.newbyteorder("=") != np.uint32
        or kind.shape != (-(-len(item) // rows),)
    ):
        raise ValueError(f"the attribute {SUMS} does not fit the dataset")
    return item.attrs[SUMS], rows
