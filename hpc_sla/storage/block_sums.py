"""A CRC-32 of every block of rows, kept as an attribute of the dataset and checked on reading.

HDF5's own fletcher32 takes words of zeros and of ones for the same, and a chunk that was lost
altogether, its checksum among it, for a good one. A CRC does not, and each rank can check it on
the rows it reads.
"""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import numpy as np

from hpc_sla.errors import InputError

SUMS, ROWS = "crc32", "crc32_rows"
_LARGEST_BLOCK = 64 << 20


class BlockSums:
    """The sums of one dataset, while its rows are written in ascending order.

    Parameters
    ----------
    rows : int
        Rows of a block, at least 1.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._sums: list[int] = []
        self._next = 0
        self._in_order = True

    def add(self, start: int, array: np.ndarray) -> None:
        """Rows ``start:start + len(array)`` were written. Out of order, there will be no sums."""
        self._in_order = self._in_order and start == self._next
        if not self._in_order:
            return
        done = 0
        while done < len(array):
            within = self._next % self._rows
            piece = array[done : done + self._rows - within]
            before = self._sums.pop() if within else 0
            self._sums.append(crc32(piece, before))
            done += len(piece)
            self._next += len(piece)

    def store(self, item: h5py.Dataset) -> None:
        """Put the sums beside the dataset, if they are of all of it."""
        if self._in_order and self._next == len(item) and self._sums:
            item.attrs[SUMS] = np.array(self._sums, dtype="<u4")
            item.attrs[ROWS] = np.int64(self._rows)


def crc32(array: np.ndarray, before: int = 0) -> int:
    """The CRC-32 of the values, row-major and little-endian, going on from the sum `before`."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return zlib.crc32(little.reshape(-1).view(np.uint8).data, before)


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
    sums, rows = _stored(item)
    n, stop = len(item), start + len(values)
    for block in range(start // rows, -(-stop // rows)):
        low, high = block * rows, min((block + 1) * rows, n)
        if start <= low and high <= stop:
            piece = values[low - start : high - start]
        else:
            piece = np.empty((high - low, *item.shape[1:]), dtype=values.dtype)
            item.read_direct(piece, np.s_[low:high])
        if crc32(piece) != sums[block]:
            raise InputError(
                "cannot be read, the stored bytes are damaged "
                f"(checksum mismatch in rows {low} to {high - 1})",
                file=item.file.filename,
                field=item.name,
                remedy="Copy the file again, or write it again; if you changed the values "
                f"yourself, delete the dataset's attribute {SUMS!r}.",
            )


def _stored(item: h5py.Dataset) -> tuple[np.ndarray, int]:
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
