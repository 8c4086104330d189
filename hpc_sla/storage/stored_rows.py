"""Rows of datasets whose place in the file is known, read without HDF5: those bytes, and no more.

One process finds out where they are, and tells the others; a rank then reads no header and no
index. Of a block of rows that several ranks read, each knows the sum of its own part, and together
they know that of the block.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any

import h5py
import numpy as np

from hpc_sla.storage.block_sums import SUMS, BlockSums, damaged_rows, stored_sums

_BEGINNING = 4096


class RawFile:
    """A file by its bytes, opened when it is first read.

    It pickles; what is unpickled opens the file for itself.

    Parameters
    ----------
    path : path
    descriptor : int, optional
        Of the file, that somebody else keeps open.
    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor, self._own = descriptor, False
        self._beginning = self._digest()

    def reopen(self, path: str) -> bool:
        """Open it under this name, and tell whether it begins as the one that was pickled.

        Raises OSError.
        """
        self.path = path
        self._descriptor, self._own = os.open(path, os.O_RDONLY | os.O_CLOEXEC), True
        return self._digest() == self._beginning

    @property
    def opened(self) -> bool:
        """Whether it is."""
        return self._descriptor is not None

    def read(self, offset: int, out: np.ndarray) -> None:
        """Fill a contiguous array. Raises OSError."""
        assert self._descriptor is not None
        data = out.reshape(-1).view(np.uint8).data
        while len(data):
            got = os.preadv(self._descriptor, [data[: 1 << 30]], offset)
            if not got:
                raise OSError("the file ends early")
            data, offset = data[got:], offset + got

    def _digest(self) -> bytes:
        """Of its length and of the first bytes, which hold the root's attributes."""
        if self._descriptor is None:
            return b""
        size = os.fstat(self._descriptor).st_size
        beginning = os.pread(self._descriptor, _BEGINNING, 0)
        return hashlib.blake2b(beginning + str(size).encode(), digest_size=16).digest()

    def close(self) -> None:
        if self._own and self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_descriptor": None, "_own": False}


class StoredRows:
    """A dataset that lies in one run of bytes, with a sum of each block of its rows.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
    shape : tuple of int
    deferred : bool
        Whether blocks that are read in part wait for `parts`, and are not read again as a whole.
    """

    def __init__(self, item: h5py.Dataset, file: RawFile) -> None:
        self.name, self.dtype, self.shape = str(item.name), item.dtype, item.shape
        self.file = file
        self._offset = int(item.id.get_offset() or 0)
        self._sums, self._rows = stored_sums(item)
        self.deferred = False
        self._seen = self._nothing()

    @staticmethod
    def fits(item: h5py.Dataset) -> bool:
        """Whether a dataset is such a one."""
        return item.chunks is None and bool(item.id.get_offset()) and SUMS in item.attrs

    def _nothing(self) -> BlockSums:
        return BlockSums(self.shape, self.dtype, self._rows)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int, summed: int | None = None) -> np.ndarray:
        """Rows ``start:stop``, in this machine's byte order.

        Parameters
        ----------
        start, stop : int
        summed : int, optional
            Where `deferred`: this rank answers for the rows up to here only.

        Raises
        ------
        InputError
            Their sums are not right.
        OSError
        """
        stored = self._bytes(start, stop)
        self._seen.add(start, stored[: None if summed is None else max(summed - start, 0)])
        for block, crc in self._seen.take_whole():
            self._compare(block, crc)
        if not self.deferred:
            self.check_parts()
        return stored.astype(self.dtype.newbyteorder("="), copy=False)

    def parts(self) -> np.ndarray:
        """What is known of blocks that were not read whole: block, first and last row, sum."""
        found = self._seen.pieces()
        self._seen = self._nothing()
        return found

    def check_parts(self) -> None:
        """Read those blocks whole, and look at their sums. Raises as `read`."""
        blocks, self._seen = self._seen.blocks(), self._nothing()
        for block in blocks:
            self._check_block(block)

    def check(self, parts: np.ndarray) -> None:
        """Blocks of which this and other ranks have read parts: as of `parts`. Raises as `read`."""
        seen = self._nothing()
        seen.merge(parts)
        for block in seen.blocks():
            crc = seen.sum_of(block)
            if crc is None:  # some rows nobody has read, or several
                self._check_block(block)
            else:
                self._compare(block, crc)

    def _check_block(self, block: int) -> None:
        low, high = self._ends(block)
        whole = self._nothing()
        whole.add(low, self._bytes(low, high))
        crc = whole.sum_of(block)
        assert crc is not None
        self._compare(block, crc)

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        if out.size:
            self.file.read(self._offset + start * row_bytes, out)
        return out

    def _ends(self, block: int) -> tuple[int, int]:
        return block * self._rows, min((block + 1) * self._rows, self.shape[0])

    def _compare(self, block: int, crc: int) -> None:
        if crc != self._sums[block]:
            raise damaged_rows(self.file.path, self.name, *self._ends(block))
