"""The checkpoint file: a solver's state, its distributed vectors in the user's row order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage import attributes as attrs
from hpc_sla.storage.atomic import PendingFile
from hpc_sla.storage.hdf5 import FLOATS, AccessError, dataset, members, open_read, read_slab
from hpc_sla.storage.hdf5_write import Output
from hpc_sla.storage.parallel_output import ParallelOutput

if TYPE_CHECKING:
    from typing_extensions import Self

_REMEDY = "Delete it, or leave out --resume (resume=False), to start afresh."

_TEXTS = ("identity", "facts", "state_names")
_DIGEST = "state_sha256"
_ROWS = 1 << 18


def _digest(texts: Iterable[str], arrays: Mapping[str, np.ndarray]) -> str:
    state = hashlib.sha256("\0".join(texts).encode())
    for name, array in sorted(arrays.items()):
        state.update(f"\0{name} {array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return state.hexdigest()


class CheckpointWriter:
    """Write a checkpoint slab by slab; it takes its name in `finish` and not before.

    **Collective**, and so is `finish`: every rank writes the slabs that it has (`ParallelOutput`).
    A context manager: leaving the block without `finish`, for whatever reason, removes what was
    written, and the checkpoint that stood at `path` stays as it was.

    Parameters
    ----------
    path : path
    vectors : dict of name to (shape, dtype)
        Replicated: the distributed vectors, `[n]` or `[n, k]`.
    comm : MPI.Comm, optional
        The ranks that write; left out, this process alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vectors: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
        comm: Any = None,
    ) -> None:
        datasets = {f"vectors/{name}": what for name, what in (vectors or {}).items()}
        self._output = ParallelOutput(path, comm, datasets)

    def write_slab(self, name: str, start: int, array: np.ndarray) -> None:
        """Put `array` at rows ``start:start + len(array)`` (the user's order). Local."""
        self._output.write(f"vectors/{name}", start, array)

    def flush(self) -> None:
        """See `ParallelOutput.flush`. **Collective.**"""
        self._output.flush()

    def finish(
        self,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ) -> int:
        """Add what is the same on every rank; then give the file its name. **Collective.**

        Parameters
        ----------
        identity, facts : dict
            What the state belongs to, and the rest of it: whatever JSON can hold.
        arrays : dict of name to array
            Stored in double precision.

        Returns
        -------
        int
            Bytes of the file.
        """

        def complete(output: Output) -> None:
            stored = {
                name: np.atleast_1d(np.asarray(array, dtype=np.float64))
                for name, array in arrays.items()
            }
            for name, array in stored.items():
                item = output.create(f"state/{name}", array.shape, array.dtype)
                output.write(item, 0, array)
            root: dict[str, Any] = {
                "format": attrs.CHECKPOINT_FORMAT,
                "version": attrs.VERSIONS[attrs.CHECKPOINT_FORMAT],
                "identity": json.dumps(identity, sort_keys=True),
                "facts": json.dumps(facts, sort_keys=True),
                "state_names": json.dumps(sorted(arrays)),
            }
            root[_DIGEST] = _digest([root[name] for name in _TEXTS], stored)
            attrs.set_attributes(output.file, root)

        return self._output.finish(complete)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.abandon()


class CheckpointFile:
    """A checkpoint file that is open for reading. Local; a context manager.

    Attributes
    ----------
    identity, facts : dict
        As given to `CheckpointWriter.finish`.

    Raises
    ------
    InputError
        From here and from every method: the file is missing, damaged or not a checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        with _checkpoint_errors():
            self._file = open_read(path)
        try:
            with _checkpoint_errors():
                attrs.check_format(self._file, attrs.CHECKPOINT_FORMAT)
                self.identity: dict[str, Any] = self._json("identity", dict)
                self.facts: dict[str, Any] = self._json("facts", dict)
                self._names: list[str] = [str(n) for n in self._json("state_names", list)]
        except BaseException:
            self._file.close()
            raise

    def _json(self, name: str, kind: type) -> Any:
        text = attrs.attribute(self._file, name)
        try:
            value = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError("is not JSON text", file=self.path, field=name) from error
        if not isinstance(value, kind):
            raise InputError(f"is not a JSON {kind.__name__}", file=self.path, field=name)
        return value

    def vectors(self) -> tuple[str, ...]:
        """The names of the distributed vectors."""
        with _checkpoint_errors():
            return members(self._file, "vectors")

    def read(self, name: str, rows: int, dtype: Any) -> Callable[[int, int], np.ndarray]:
        """A function (start, stop) that reads rows of a vector of so many, [n] or [n, k]."""

        def read(start: int, stop: int) -> np.ndarray:
            with _checkpoint_errors():
                item = dataset(
                    self._file, f"vectors/{name}", (np.dtype(dtype),), ndim=(1, 2), length=rows
                )
                return read_slab(item, start, stop)

        return read

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are the same on every rank, checked with the facts by their digest.

        Solvers go on from these as from numbers of their own: their values are not checked.
        """
        with _checkpoint_errors():
            found = {}
            # By their names, not by the group's: a damaged group may have lost some.
            for name in self._names:
                item = dataset(self._file, f"state/{name}", FLOATS, ndim=(1, 2, 3))
                found[name] = read_slab(item, 0, item.shape[0])
            digest = attrs.attribute(self._file, _DIGEST)
            texts = [str(attrs.attribute(self._file, name)) for name in _TEXTS]
            # Those of earlier versions have none.
            if digest is not None and digest != _digest(texts, found):
                raise InputError("does not fit the state", file=self.path, field=_DIGEST)
            return found

    def check(self) -> None:
        """Read all of it, a few MiB at a time, to see whether it is whole."""
        self.arrays()
        for name in self.vectors():
            with _checkpoint_errors():
                item = dataset(self._file, f"vectors/{name}", FLOATS, ndim=(1, 2))
                for start in range(0, item.shape[0], _ROWS):
                    read_slab(item, start, min(start + _ROWS, item.shape[0]))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise InputError where `path` cannot be written, or holds something else. Local."""
    PendingFile(path).discard()
    if os.path.exists(path) and os.path.getsize(path):
        try:
            CheckpointFile(path).close()
        except AccessError:
            raise
        except InputError as error:
            raise InputError(
                f"exists already, and is not a checkpoint that can be read ({error.problem})",
                file=path,
                remedy="Delete it, or give the checkpoint another name.",
            ) from error


@contextmanager
def _checkpoint_errors() -> Iterator[None]:
    """Give what is wrong with a checkpoint another remedy than with a matrix file."""
    try:
        yield
    except AccessError:
        raise
    except InputError as error:
        raise InputError(
            error.problem, file=error.file, field=error.field, remedy=_REMEDY
        ) from error
