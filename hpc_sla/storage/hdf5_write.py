"""Writing HDF5 so that a full disc is an `InputError` like any other."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.block_sums import BlockSums

if TYPE_CHECKING:
    from typing_extensions import Self

# HDF5 1.10's object headers, indices and superblock carry checksums; older ones do not.
_FORMAT = ("v110", "v110")


class Output:
    """An HDF5 file that is being made.

    HDF5 does not survive a write that fails: it cannot close its own file afterwards, prints its
    despair and often crashes the process. So the bytes go through a stream of our own, which
    remembers the first failure and lets HDF5 believe that all is well; `check` and `close`
    then raise it.

    Parameters
    ----------
    temporary : path
        Where to write.
    path : path
        What to call it in messages.
    new : bool
        Whether to begin it, and not to go on with what another `Output` has begun.

    Attributes
    ----------
    file : h5py.File
    """

    def __init__(
        self, temporary: str | os.PathLike[str], path: str | os.PathLike[str], new: bool = True
    ) -> None:
        self._path = path
        self._sums: dict[str, BlockSums] = {}
        self._stream = _Stream(os.fspath(temporary), "w+" if new else "r+")
        try:
            self.file = h5py.File(self._stream, "w" if new else "r+", libver=_FORMAT)
        except BaseException:
            self._stream.close()
            raise

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
        """Create a little-endian dataset whose rows lie one after another, `write` adds its sums.

        Its room is there at once, with nothing in it.
        """
        item = self.reserve(name, shape, dtype)
        if item.size:
            self._sums[f"/{name}"] = BlockSums(shape, item.dtype)
        return item

    def reserve(self, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
        """The same for rows that come into the file another way, see `ParallelOutput`."""
        stored = np.dtype(dtype).newbyteorder("<")
        if math.prod(shape) == 0:
            return self.file.create_dataset(name, shape=shape, dtype=stored)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_layout(h5py.h5d.CONTIGUOUS)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        return self.file.create_dataset(name, shape=shape, dtype=stored, dcpl=early)

    def write(self, item: h5py.Dataset, start: int, array: np.ndarray) -> None:
        """Put `array` at rows ``start:start + len(array)`` of a dataset of `create`'s."""
        if not array.size:
            return
        stored = np.ascontiguousarray(array, dtype=item.dtype.newbyteorder("="))
        item.write_direct(stored, dest_sel=np.s_[start : start + len(array)])
        self._sums[item.name].add(start, stored)
        self.check()

    def check(self) -> None:
        """Raise `InputError` if anything written so far could not be."""
        if self._stream.failure is not None:
            raise write_error(self._path, self._stream.failure) from self._stream.failure

    def close(self) -> None:
        """Write what is left and close; raises as `check` does."""
        for name, sums in self._sums.items():
            if name in self.file:
                sums.store(self.file[name])
        self._sums.clear()
        self.file.close()
        self._stream.close()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except InputError:
            if error is None:
                raise


def write_error(path: str | os.PathLike[str], failure: OSError) -> InputError:
    """What to raise where bytes could not be written to the file that is to be `path`."""
    reason = failure.strerror or str(failure)
    return InputError(
        f"cannot be written: {reason[:1].lower()}{reason[1:]}",
        file=path,
        remedy="Make room there, or choose another output path.",
    )


class _Stream(io.FileIO):
    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and self.failure is None:
                view = view[super().write(view) :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0
