"""Result files: solution vectors in the user's row order, and what it takes to repeat the run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage import attributes as attrs
from hpc_sla.storage.hdf5 import FLOATS, HOW_TO_SOLVE, dataset, has, open_read, read_slab
from hpc_sla.storage.hdf5_write import Output
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.parallel_output import ParallelOutput

if TYPE_CHECKING:
    from typing_extensions import Self

_HISTORY = "residual_history"
_EIGENVALUES = "eigenvalues"
MATRIX_GRADIENT = "matrix_gradient"
"""The group of a gradient with respect to the matrix: compressed rows in the user's order."""

# Named dimensions as netCDF-4 stores them, so that xarray reads the file as it is: HDF5 dimension
# scales of their length that hold no values and take no room.
_DIMENSIONS = ("row", "rhs_row", "column", "iteration")
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. {:9d}"


class ResultWriter:
    """Write a result slab by slab; the file takes its name in `finish` and not before.

    **Collective**, and so is `finish`: every rank writes the slabs that it has (`ParallelOutput`).
    A context manager: leaving the block without `finish`, for whatever reason, removes what was
    written, and a file that stood at `path` stays as it was.

    Parameters
    ----------
    path : path
        The result file.
    n_rows : int
        Rows of every vector.
    dtype : dtype
        float64 or float32, of every vector.
    names : sequence of str
        The vectors' dataset names.
    columns : int, optional
        Each vector has this many columns, shape ``[n_rows, columns]``; left out, ``[n_rows]``.
    lengths : dict of name to int, optional
        Of vectors that have other than `n_rows` rows.
    matrix : (int, int), optional
        Rows and entries of a gradient with respect to the matrix: see `write_matrix_rows`.
    comm : MPI.Comm, optional
        The ranks that write; left out, this process alone.

    Examples
    --------
    >>> with ResultWriter("result.h5", 4, "f8") as writer:  # doctest: +SKIP
    ...     writer.write_slab("x", 0, np.ones(4))
    ...     writer.finish([1.0, 1e-9], {"status": "converged"})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_rows: int,
        dtype: Any,
        names: Sequence[str] = ("x",),
        columns: int | None = None,
        lengths: Mapping[str, int] | None = None,
        matrix: tuple[int, int] | None = None,
        comm: Any = None,
    ) -> None:
        if np.dtype(dtype) not in FLOATS:
            raise TypeError(f"results are float64 or float32, not {np.dtype(dtype)}")
        if taken := {_HISTORY, _EIGENVALUES, *_DIMENSIONS}.intersection(names):
            raise ValueError(f"{min(taken)!r} is taken")
        self.n_rows = n_rows
        self._lengths = {name: (lengths or {}).get(name, n_rows) for name in names}
        trailing = () if columns is None else (columns,)
        self._ndim = 1 + len(trailing)
        datasets: dict[str, tuple[tuple[int, ...], Any]] = {
            name: ((rows, *trailing), dtype) for name, rows in self._lengths.items()
        }
        if matrix is not None:
            rows, entries = matrix
            datasets[f"{MATRIX_GRADIENT}/indptr"] = (rows + 1,), np.int64
            datasets[f"{MATRIX_GRADIENT}/indices"] = (entries,), np.int64
            datasets[f"{MATRIX_GRADIENT}/data"] = (entries,), dtype
        self._output = ParallelOutput(path, comm, datasets)
        if matrix is not None and (comm is None or comm.rank == 0):
            self.write_slab(f"{MATRIX_GRADIENT}/indptr", 0, np.zeros(1, dtype=np.int64))

    def write_slab(self, name: str, start: int, array: np.ndarray) -> None:
        """Put `array` at rows ``start:start + len(array)`` (user's order) of a vector. Local."""
        self._output.write(name, start, array)

    def flush(self) -> None:
        """See `ParallelOutput.flush`. **Collective.**"""
        self._output.flush()

    def write_matrix_rows(
        self, row: int, entry: int, counts: np.ndarray, columns: np.ndarray, values: np.ndarray
    ) -> None:
        """Put rows of the gradient with respect to the matrix, in the user's order. Local.

        Parameters
        ----------
        row, entry : int
            The first row, and how many entries those before it have.
        counts : int64 array [rows]
            Entries of each row.
        columns, values : arrays [entries]
            The user's columns, ascending within a row, and the gradient there.
        """
        self.write_slab(f"{MATRIX_GRADIENT}/indptr", row + 1, entry + np.cumsum(counts))
        self.write_slab(f"{MATRIX_GRADIENT}/indices", entry, columns)
        self.write_slab(f"{MATRIX_GRADIENT}/data", entry, values)

    def finish(
        self,
        residual_history: Sequence[float],
        attributes: Mapping[str, Any],
        eigenvalues: Sequence[float] | None = None,
    ) -> None:
        """Add the history and the attributes, then give the file its name. **Collective.**

        What rank 0 passes counts.

        Parameters
        ----------
        residual_history : sequence of float
            Residual norms, the initial one first.
        attributes : dict
            Whatever repeats the run: options, versions, ranks, the input's digest. Numbers and
            text are kept as they are, anything else becomes JSON text.
        eigenvalues : sequence of float, optional
            In the order of the columns of `/modes`.
        """
        small = {_HISTORY: residual_history}
        if eigenvalues is not None:
            small[_EIGENVALUES] = eigenvalues

        def complete(output: Output) -> None:
            for name, numbers in small.items():
                array = np.asarray(numbers, dtype=np.float64)
                item = output.create(name, array.shape, array.dtype)
                output.write(item, 0, array)
            _name_dimensions(output.file, self._dimensions(small))
            root = {
                "format": attrs.RESULT_FORMAT,
                "version": attrs.VERSIONS[attrs.RESULT_FORMAT],
                "n_rows": self.n_rows,
            }
            attrs.set_attributes(output.file, {**attributes, **root})

        self._output.finish(complete)

    def _dimensions(self, small: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {_HISTORY: ("iteration",)}
        if _EIGENVALUES in small:
            found[_EIGENVALUES] = ("column",)
        for name, rows in self._lengths.items():
            row = "row" if rows == self.n_rows else "rhs_row"
            found[name] = (row, "column")[: self._ndim]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.abandon()


def _name_dimensions(file: h5py.File, dimensions: Mapping[str, tuple[str, ...]]) -> None:
    """Give each dataset's axes names out of `_DIMENSIONS`, by dataset name."""
    scales: dict[str, h5py.Dataset] = {}
    for dataset_name, names in dimensions.items():
        item = file[dataset_name]
        for axis, name in enumerate(names):
            length = item.shape[axis]
            if length == 0:
                continue  # an HDF5 scale of no length means an unlimited one to netCDF
            if name not in scales:
                scales[name] = file.create_dataset(name, shape=(length,), dtype=">f4")
                scales[name].make_scale(_NO_VARIABLE.format(length))
            item.dims[axis].attach_scale(scales[name])


@dataclass(frozen=True)
class Result:
    """A result file's content.

    Attributes
    ----------
    x : ndarray [n_rows] or [n_rows, columns]
        The solution in the user's row order.
    residual_history : ndarray, float64
        Residual norms, the initial one first.
    attributes : dict
        What the run said about itself.
    vectors : dict of name to ndarray
        Every vector of the file, `x` among them.
    matrix_gradient : SciPy CSR array or None
        Of `python -m hpc_sla grad`: the gradient with respect to the matrix, on its pattern.
    eigenvalues : ndarray [k] or None
        Of `python -m hpc_sla eigsh`, whose vectors are the columns of `modes`.
    """

    x: np.ndarray
    residual_history: np.ndarray
    attributes: dict[str, Any]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    matrix_gradient: Any = None
    eigenvalues: np.ndarray | None = None


@dataclass(frozen=True)
class ResultSummary:
    """What a result file holds but the values of its vectors.

    Attributes
    ----------
    n_rows : int
    dtype : numpy.dtype
        Of every vector.
    shapes : dict of name to tuple of int
        Of each vector.
    residual_history : ndarray, float64
    attributes : dict
    eigenvalues : ndarray [k] or None
        Of `python -m hpc_sla eigsh`.
    """

    n_rows: int
    dtype: np.dtype[Any]
    shapes: dict[str, tuple[int, ...]]
    residual_history: np.ndarray
    attributes: dict[str, Any]
    eigenvalues: np.ndarray | None = None


def describe(path: str | os.PathLike[str]) -> ResultSummary:
    """Summary of the result file `path`, cheap whatever the size of its vectors."""
    with open_read(path, HOW_TO_SOLVE) as file:
        return summarise(file)


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read a whole result file. NaN is let through: a failed solve may have left some."""
    with open_read(path, HOW_TO_SOLVE) as file:
        summary = summarise(file)
        vectors = {
            name: read_slab(file[name], 0, shape[0]) for name, shape in summary.shapes.items()
        }
        gradient = _matrix_gradient(file, summary.n_rows)
    first = next(iter(vectors.values()))
    return Result(
        vectors.get("x", first),
        summary.residual_history,
        summary.attributes,
        vectors,
        gradient,
        summary.eigenvalues,
    )


def _matrix_gradient(file: h5py.File, n_columns: int) -> Any:
    if not has(file, MATRIX_GRADIENT):
        return None
    import scipy.sparse as sp  # slow to load; few results have a matrix

    kinds = {"indptr": (np.dtype(np.int64),), "indices": (np.dtype(np.int64),), "data": FLOATS}
    items = {name: dataset(file, f"{MATRIX_GRADIENT}/{name}", kind) for name, kind in kinds.items()}
    indptr, indices, data = (read_slab(item, 0, item.shape[0]) for item in items.values())
    shape = (max(len(indptr) - 1, 0), n_columns)
    try:
        check_fits(8 * sum(shape), file.filename)
        found = sp.csr_array((data, indices, indptr), shape=shape)
        found.check_format(full_check=True)
        return found
    except ValueError as error:
        raise InputError(
            f"is not a valid sparse matrix: {error}",
            file=file.filename,
            field=f"/{MATRIX_GRADIENT}",
            remedy="Write the file again with `python -m hpc_sla grad`.",
        ) from error


def summarise(file: h5py.File) -> ResultSummary:
    """Summary of a result file that is open, its datasets checked. Local."""
    attrs.check_format(file, attrs.RESULT_FORMAT)
    n_rows = attrs.integer_attribute(file, "n_rows")
    history = dataset(file, _HISTORY, FLOATS)
    others = (_HISTORY, _EIGENVALUES, MATRIX_GRADIENT, *_DIMENSIONS)
    names = [name for name in sorted(file) if name not in others]
    # A gradient with respect to the right-hand side has as many rows as the matrix.
    items = {
        name: dataset(
            file, name, FLOATS, ndim=(1, 2), length=None if name == "rhs_gradient" else n_rows
        )
        for name in names
    }
    eigenvalues = None
    if has(file, _EIGENVALUES):
        item = dataset(file, _EIGENVALUES, FLOATS)
        eigenvalues = read_slab(item, 0, item.shape[0], np.float64)
    if not items:
        raise InputError("is missing", file=file.filename, field="/x", remedy=HOW_TO_SOLVE)
    return ResultSummary(
        n_rows=n_rows,
        dtype=next(iter(items.values())).dtype.newbyteorder("="),
        shapes={name: item.shape for name, item in items.items()},
        residual_history=read_slab(history, 0, history.shape[0], np.float64),
        attributes=attrs.attributes(file, leave_out=("format", "version", "n_rows")),
        eigenvalues=eigenvalues,
    )
