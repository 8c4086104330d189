"""An HDF5 file whose header one rank reads for all, and whose rows each rank reads for itself.

`MatrixFile` is one. How it goes: rank 0 opens the file, and sends it to the others, pickled; each
of them calls `join`. Where all ranks can, each calls `defer`, reads its rows, and they meet in
`hpc_sla.sparse.from_hdf5.check_together`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.hdf5 import open_read, path_of, read_slab, reading
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.stored_rows import RawFile, StoredRows

if TYPE_CHECKING:
    from typing_extensions import Self

Rows = Any
"""An `h5py.Dataset`, or `StoredRows`."""


class SharedFile:
    """Open for reading; a subclass finds in `_read_header` what it is of, and fills `_items`.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : str
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path_of(path)
        self._raw: RawFile | None = None
        self._items: dict[str, Rows] = {}
        self._file: Any = open_read(path)
        try:
            self._read_header()
            self._do_without_hdf5()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        raise NotImplementedError

    def _do_without_hdf5(self) -> None:
        """From now on, where all rows lie at known places."""
        if not all(StoredRows.fits(item) for item in self._items.values()):
            return
        with reading(self.path):
            self._raw = RawFile(self.path, self._file.id.get_vfd_handle())
        for name, item in self._items.items():
            with reading(self.path, item.name):
                self._items[name] = StoredRows(item, self._raw)

    def _read(self, name: str, start: int, stop: int, answered: int | None = None) -> np.ndarray:
        """Rows of one of the items. Of those up to `answered` this rank has to say the sum."""
        item = self._items[name]
        if not isinstance(item, StoredRows):
            return read_slab(item, start, stop)
        row_bytes = item.dtype.itemsize * math.prod(item.shape[1:])
        check_fits((stop - start) * row_bytes, self.path, item.name)
        with reading(self.path, item.name):
            return item.read(start, stop, answered)

    # Between ranks

    def __reduce__(self) -> Any:
        """A pickled one is not open: see `join`. It has the header, if that is all it takes."""
        state = None if self._raw is None else {**vars(self), "_file": None}
        return _unopened, (type(self), self.path, state)

    def join(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open what came from another rank, under its name or this one. Local.

        No header is read where the file is the one that it was read of, or a copy. Does nothing
        where it is open.

        Raises
        ------
        InputError
        """
        if self._file is not None or (self._raw is not None and self._raw.opened):
            return
        path = self.path if path is None else path_of(path)
        try:
            if self._raw is not None and self._raw.reopen(path):
                self.path = path
                return
        except OSError:
            pass  # which will be told of
        self.close()
        SharedFile.__init__(self, path)

    @property
    def can_defer(self) -> bool:
        """Whether `defer` is possible."""
        return self._raw is not None

    def defer(self, whether: bool = True) -> None:
        """Leave blocks of rows that are read in part to others: see `seen`. Local."""
        for item in self._stored():
            item.deferred = whether

    @property
    def deferred(self) -> bool:
        """Whether that is done."""
        return any(item.deferred for item in self._stored())

    @contextmanager
    def damage_first(self) -> Iterator[None]:
        """An InputError of the block may follow from damage, which is then told instead. Local."""
        try:
            yield
        except InputError:
            self.check_alone()
            raise

    def seen(self) -> np.ndarray:
        """Those blocks: number of the item, block, first and last row, sum. int64 [m, 5]."""
        found = [np.empty((0, 5), dtype=np.int64)]
        for number, item in enumerate(self._stored()):
            parts = item.parts()
            found.append(np.concatenate([np.full((len(parts), 1), number), parts], axis=1))
        return np.concatenate(found)

    def check(self, seen: np.ndarray) -> None:
        """Blocks of which ranks have `seen` parts, all that there are of them. Local.

        Raises
        ------
        InputError
            Their sums are not those that they were written with.
        """
        for number, item in enumerate(self._stored()):
            with reading(self.path, item.name):
                item.check(seen[seen[:, 0] == number, 1:])

    def check_alone(self) -> None:
        """What was deferred, by reading blocks whole. Local. Raises InputError."""
        for item in self._stored():
            with reading(self.path, item.name):
                item.check_parts()

    def _stored(self) -> Iterable[StoredRows]:
        return [item for item in self._items.values() if isinstance(item, StoredRows)]

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unopened(kind: type[SharedFile], path: str, state: dict[str, Any] | None) -> SharedFile:
    found = kind.__new__(kind)
    vars(found).update(state or {"path": path, "_raw": None, "_file": None, "_items": {}})
    return found
