"""What `hpc_sla.report.plots` draws, out of files: results, matrices and logs. Serial."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import ResultSummary

_PIXELS = 600
_SLAB = 2**18  # rows read at a time


def relative_history(summary: ResultSummary) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and residuals, relative to the first that is not zero."""
    history = np.asarray(summary.residual_history, dtype=float)
    return np.arange(len(history)), history / next((one for one in history if one > 0), 1.0)


def points_and_parts(file: MatrixFile) -> tuple[np.ndarray, np.ndarray]:
    """The point of each node ``[n, d]``, and the part that it is in."""
    first = np.arange(0, file.n_rows, file.block_size)
    parts = np.searchsorted(file.part_offsets, first, side="right") - 1
    return file.read_coordinates(0, file.n_rows)[first], parts


def halo_nodes(file: MatrixFile, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes that a part owns, and those of others that its rows name."""
    if not 0 <= part < file.parts:
        raise InputError(
            f"has no part {part}: it has {file.parts}",
            file=file.path,
            field="--part",
            remedy="Count from 0.",
        )
    first, last = (int(one) for one in file.part_offsets[part : part + 2])
    named = [np.empty(0, dtype=np.int64)]
    for start in range(first, last, _SLAB):
        columns = np.unique(file.read_rows(start, min(start + _SLAB, last))[1])
        named.append(columns[(columns < first) | (columns >= last)] // file.block_size)
    return np.unique(np.arange(first, last) // file.block_size), np.unique(np.concatenate(named))


def filled_blocks(file: MatrixFile) -> np.ndarray:
    """Entries in each of at most 600 x 600 equal blocks of the stored matrix."""
    m, n = file.n_rows, file.n_cols
    height, width = min(max(m, 1), _PIXELS), min(max(n, 1), _PIXELS)
    counts = np.zeros(height * width, dtype=np.int64)
    for start in range(0, m, _SLAB):
        indptr, indices, _ = file.read_rows(start, min(start + _SLAB, m))
        rows = start + np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        blocks = rows * height // m * width + indices.astype(np.int64) * width // n
        counts += np.bincount(blocks, minlength=height * width)
    return counts.reshape(height, width)


class Log:
    """The last run in a log of ``--log-file``.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    events : list of dict
        From the last ``start`` on.

    Raises
    ------
    InputError
        It is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.events: list[dict[str, Any]] = []
        for event in _lines(self.path):
            if event["event"] == "start":
                self.events.clear()
            self.events.append(event)
        if not self.events:
            raise InputError("is empty", file=path, remedy="Give a log of --log-file.")

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Iterations and relative residuals, one a second."""
        told = [event for event in self.events if event["event"] == "iteration"]
        pairs = [(one["iteration"], one["relative_residual"]) for one in told]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, dtype=int), np.array(values, dtype=float)

    def last(self, name: str, remedy: str) -> dict[str, Any]:
        """The last event of that name, or an `InputError` with what makes one."""
        for event in reversed(self.events):
            if event["event"] == name:
                return event
        raise InputError(f"has no event {name!r}", file=self.path, remedy=remedy)


def _lines(path: str) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    event = json.loads(line)
                    event["event"]
                except (ValueError, TypeError, KeyError) as error:
                    if not line.endswith("\n"):
                        return  # of a run that was killed as it wrote
                    raise InputError(
                        f"is no log: line {number} is no JSON object with an 'event'",
                        file=path,
                        remedy="Give a log of --log-file, or a matrix or result file.",
                    ) from error
                yield event
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise InputError(
            f"cannot be read as a log: {why}", file=path, remedy="Give a log of --log-file."
        ) from error
