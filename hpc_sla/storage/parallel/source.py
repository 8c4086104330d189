"""A matrix and what belongs to it out of a file of any kind, each rank its own rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import on_root, owners, send_records
from hpc_sla.storage.checks import check_finite
from hpc_sla.storage.compressed import COMPRESSIONS
from hpc_sla.storage.importers import (
    ImportedMatrix,
    check_matrix_kind,
    check_there,
    check_vector_kind,
    read_source,
    read_vector,
    suffix_of,
)
from hpc_sla.storage.numpy_files import real_dtype
from hpc_sla.storage.parallel.compressed_arrays import entries_before
from hpc_sla.storage.parallel.hdf5_ranges import is_own, read_hdf5_sparse_rows, read_own_rows
from hpc_sla.storage.parallel.local_rows import Cut, CutOfArray, LocalRows, csr, cut_rows
from hpc_sla.storage.parallel.market_ranges import read_market_array, read_market_rows
from hpc_sla.storage.parallel.npy_ranges import read_npy_rows
from hpc_sla.storage.parallel.npz_ranges import read_npz_rows
from hpc_sla.storage.parallel.petsc_ranges import read_petsc_rows, read_petsc_vector_rows
from hpc_sla.storage.parallel.same_file import same_file

T = TypeVar("T")

_READ_AGAIN = 1 << 26
"""Bytes of a file that one process reads again, whole, to say what is wrong with it."""


@dataclass(frozen=True)
class ImportedRows:
    """A matrix's rows in the user's order, and what else its file says of them. Per rank.

    Attributes
    ----------
    rows : LocalRows
    coordinates : float64 array [n_local, dimensions] or None
    rhs_by_name, solution_by_name : dict of name to array [n_local] or [n_local, k]
    block_size : int or None
    near_nullspace : float64 array [n_local, k] or None
    """

    rows: LocalRows
    coordinates: np.ndarray | None = None
    rhs_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    solution_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    block_size: int | None = None
    near_nullspace: np.ndarray | None = None


def read_source_rows(peers: Peers, path: str | os.PathLike[str], cut: Cut) -> ImportedRows:
    """What `read_source` reads, of which each rank gets some rows. **Collective.**

    HDF5, PETSc binary, .npz and MatrixMarket files are read by all ranks, each its part. Other
    kinds rank 0 reads and hands out.

    Parameters
    ----------
    peers : Peers
    path : path
    cut : callable(shape, block_size) -> int64 array [size + 1]
        Which rows each rank takes; it may refuse the shape.

    Raises
    ------
    InputError
        On every rank: what `read_source` raises.
    """
    name = os.fspath(path)
    with peers.agree():
        check_matrix_kind(name)
        check_there(name)
    read = _MATRIX_READERS.get(suffix_of(name), _scattered)
    found = _or_as_alone(peers, name, read_source, lambda: _checked(peers, name, cut, read))
    return found


def read_vector_rows(peers: Peers, path: str | os.PathLike[str], cut: CutOfArray) -> np.ndarray:
    """What `read_vector` reads, of which each rank gets some rows. **Collective.**

    Parameters and errors are those of `read_source_rows` and `read_vector`.
    """
    name = os.fspath(path)
    with peers.agree():
        check_vector_kind(name)
        check_there(name)
    read = _VECTOR_READERS.get(suffix_of(name), _scattered_vector)

    def checked() -> np.ndarray:
        found = read(peers, name, cut)
        before = int(peers.before(np.array([found.size], dtype=np.int64))[0])
        with peers.agree():
            check_finite(found, name, "values", before)
        return np.ascontiguousarray(found)

    return _or_as_alone(peers, name, read_vector, checked)


def cut_of_vector(path: str, cut: CutOfArray) -> CutOfArray:
    """The same of arrays of one or two dimensions, others refused as `read_vector` does."""

    def checked(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) not in (1, 2):
            raise InputError(
                f"has shape {shape}", file=path, remedy="One or two dimensions are needed."
            )
        return cut(shape)

    return checked


def _checked(peers: Peers, path: str, cut: Cut, read: Any) -> ImportedRows:
    """**Collective.** As `read_source` checks it."""
    found: ImportedRows = read(peers, path, cut)
    matrix = found.rows.matrix
    with peers.agree():
        matrix = matrix.astype(real_dtype(matrix.dtype, path), copy=False)
        matrix.sum_duplicates()
    before = entries_before(peers, matrix)
    with peers.agree():
        check_finite(matrix.data, path, "values", before)
    rhs = {}
    for name, b in found.rhs_by_name.items():
        b = b.astype(real_dtype(b.dtype, path), copy=False)
        before = int(peers.before(np.array([b.size], dtype=np.int64))[0])
        with peers.agree():
            check_finite(b, path, f"right-hand side {name}", before)
        rhs[name] = b
    return replace(found, rows=LocalRows(found.rows.offsets, matrix), rhs_by_name=rhs)


def _or_as_alone(
    peers: Peers, path: str, alone: Callable[[str], Any], together: Callable[[], T]
) -> T:
    """**Collective.** Where it fails, what one process says of the file, if it is not too large.

    It has seen everything in its order, where a rank knows its own part only.
    """
    try:
        with same_file(peers, path):
            return together()
    except InputError:
        on_root(peers, lambda: _read_again(path, alone))
        raise


def _read_again(path: str, alone: Callable[[str], Any]) -> None:
    small = _READ_AGAIN if suffix_of(path) in _PLAIN else _READ_AGAIN // 16
    if os.path.getsize(path) <= small:
        alone(path)


def _market(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    return ImportedRows(read_market_rows(peers, path, cut))


def _npz(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    return ImportedRows(read_npz_rows(peers, path, cut))


def _petsc(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    rows, rhs = read_petsc_rows(peers, path, cut)
    return ImportedRows(rows, rhs_by_name={} if rhs is None else {"b": rhs})


def _hdf5(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    if not is_own(peers, path):
        return _foreign_hdf5(peers, path, cut)
    rows, rest = read_own_rows(peers, path, cut)
    return ImportedRows(
        rows,
        rest.coordinates,
        rest.rhs_by_name,
        rest.solution_by_name,
        rest.block_size,
        rest.near_nullspace,
    )


def _foreign_hdf5(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    return ImportedRows(read_hdf5_sparse_rows(peers, path, cut))


def _scattered(peers: Peers, path: str, cut: Cut) -> ImportedRows:
    """A kind that is read from its beginning to its end: by rank 0. **Collective.**"""
    whole: ImportedMatrix | None = None
    with peers.agree():
        if peers.rank == 0:
            whole = read_source(path)
    about = None
    if whole is not None:
        rhs = {name: (b.dtype, b.shape[1:]) for name, b in whole.rhs_by_name.items()}
        about = whole.matrix.shape, whole.matrix.dtype, whole.matrix.indices.dtype, rhs
    (m, n), dtype, index_dtype, rhs = peers.comm.bcast(about)
    offsets = cut_rows(peers, path, (m, n), cut, None)
    if whole is None:
        # No rows of its own: what it gets is all that it has.
        matrix = sp.csr_array((0, n), dtype=dtype)
        columns = np.empty(0, dtype=index_dtype)
        vectors = {name: np.empty((0, *shape), dtype=kind) for name, (kind, shape) in rhs.items()}
    else:
        matrix, columns, vectors = whole.matrix, whole.matrix.indices, whole.rhs_by_name
    row = np.arange(matrix.shape[0], dtype=np.int64)
    counts = np.diff(matrix.indptr).astype(np.int64)
    owner = owners(offsets, row)
    lengths, *found = send_records(peers, owner, [counts, *vectors.values()])
    entries = send_records(peers, np.repeat(owner, counts), [columns, matrix.data])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    mine = csr(entries[1], entries[0], indptr, (len(lengths), n))
    return ImportedRows(
        LocalRows(offsets, mine), rhs_by_name=dict(zip(vectors, found, strict=True))
    )


def _scattered_vector(peers: Peers, path: str, cut: CutOfArray) -> np.ndarray:
    whole = None
    with peers.agree():
        if peers.rank == 0:
            whole = read_vector(path)
    shape, dtype = peers.comm.bcast(None if whole is None else (whole.shape, whole.dtype))
    offsets = cut_rows(peers, path, shape, cut)
    mine = np.empty((0, *shape[1:]), dtype=dtype) if whole is None else whole
    (found,) = send_records(peers, owners(offsets, np.arange(len(mine))), [mine])
    return found


def _npy_vector(peers: Peers, path: str, cut: CutOfArray) -> np.ndarray:
    return read_npy_rows(peers, path, cut_of_vector(path, cut))


_MATRIX_READERS: dict[str, Callable[[Peers, str, Cut], ImportedRows]] = {
    **{f".mtx{packed}": _market for packed in COMPRESSIONS},
    ".npz": _npz,
    ".petsc": _petsc,
    ".bin": _petsc,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".h5ad": _foreign_hdf5,
}
_VECTOR_READERS: dict[str, Callable[[Peers, str, CutOfArray], np.ndarray]] = {
    ".npy": _npy_vector,
    **{f".mtx{packed}": read_market_array for packed in COMPRESSIONS},
    ".petsc": read_petsc_vector_rows,
    ".bin": read_petsc_vector_rows,
}
_PLAIN = (".npy", ".mtx", ".petsc", ".bin", ".h5", ".hdf5", ".h5ad")
