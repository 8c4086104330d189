"""A result's vectors a slab at a time, for files of any size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.hdf5 import CHUNK_BYTES, HOW_TO_SOLVE, open_read, read_slab
from hpc_sla.storage.result_file import summarise

if TYPE_CHECKING:
    from typing_extensions import Self


class ResultVectors:
    """A result file, open for reading.

    Attributes
    ----------
    path : str
    summary : ResultSummary
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = open_read(path, HOW_TO_SOLVE)
        try:
            self.summary = summarise(self._file)
        except BaseException:
            self._file.close()
            raise

    def choose(self, asked: str | None) -> str:
        """The vector `asked` for, else `x`, else the only one.

        Raises
        ------
        InputError
            There is none by that name, or several to choose from.
        """
        names = list(self.summary.shapes)
        if asked is None and ("x" in names or len(names) == 1):
            return "x" if "x" in names else names[0]
        if asked in names:
            return str(asked)
        raise InputError(
            "has several vectors" if asked is None else f"has no vector {asked!r}",
            file=self.path,
            field="--vector",
            remedy=f"It has: {', '.join(names)}.",
        )

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """First row and rows, 16 MiB at a time; NaN is let through."""
        item = self._file[name]
        width = max(1, item.dtype.itemsize * int(np.prod(item.shape[1:])))
        step = max(1, 16 * CHUNK_BYTES // width)
        for start in range(0, item.shape[0], step):
            yield start, read_slab(item, start, min(start + step, item.shape[0]))

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start:stop`` of the vector `name`."""
        return read_slab(self._file[name], start, stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
