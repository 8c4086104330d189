"""Sparse matrices in other programs' HDF5 files.

==================  ===========================================================================
MATLAB 7.3, PETSc   a group with the attribute ``MATLAB_sparse`` (the number of rows), and ``jc``
                    (pointers of columns), ``ir`` (rows) and ``data``
AnnData             a group with the attributes ``encoding-type`` (csr_matrix or csc_matrix) and
                    ``shape``, and ``indptr``, ``indices`` and ``data``; older files say
                    ``h5sparse_format`` and ``h5sparse_shape``
==================  ===========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.attributes import attribute
from hpc_sla.storage.hdf5 import dataset, open_read, read_slab, reading
from hpc_sla.storage.limits import check_fits

_INTEGERS = tuple(np.dtype(kind) for kind in ("i4", "i8", "u4", "u8"))
_NUMBERS = tuple(np.dtype(kind) for kind in ("f8", "f4", "i1", "i2", "u1", "u2", "?")) + _INTEGERS
_STYLES = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}
_PREFERRED = ("A", "X", "Problem/A")


def read_hdf5_sparse(path: str) -> Any:
    """The only sparse matrix of `path`, or the one called ``A``, ``X`` or ``Problem/A``.

    Returns
    -------
    SciPy CSR or CSC array [m, n]
        Indices checked, values in the file's type.

    Raises
    ------
    InputError
        None, or several of other names.
    """
    with open_read(path) as file:
        return _read(file, chosen_group(file))


def chosen_group(file: h5py.File) -> str:
    """The group of the matrix that is meant. Raises InputError."""
    there = sparse_groups(file)
    chosen = [name for name in _PREFERRED if name in there][:1]
    if not chosen and len(there) == 1:
        chosen = there
    if not chosen:
        raise InputError(
            f"holds several sparse matrices ({', '.join(there[:8])})"
            if there
            else "holds no sparse matrix",
            file=file.filename,
            remedy="Write the one you mean with scipy.sparse.save_npz. Read are AnnData (X), "
            "sparse matrices of MATLAB 7.3, and matrix files of `partition`.",
        )
    return chosen[0]


def sparse_groups(file: h5py.File) -> list[str]:
    """Names of the groups that hold a sparse matrix: in the root, and ``Problem/A``."""
    with reading(file.filename):
        names = [*file, *(["Problem/A"] if "Problem" in file else [])]
        return [name for name in names if _style(file, name)]


def _style(file: h5py.File, name: str) -> str:
    """``csr``, ``csc`` or ``matlab``; empty where it is no sparse matrix, or behind a link."""
    group: Any = file
    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            return ""
        group = group[part]
    if not isinstance(group, h5py.Group):
        return ""
    if "MATLAB_sparse" in group.attrs:
        return "matlab"
    for key in ("encoding-type", "h5sparse_format"):
        if key in group.attrs:
            return _STYLES.get(str(attribute(group, key)), "")
    return ""


@dataclass(frozen=True)
class StoredSparse:
    """A sparse matrix in an open file, nothing of it read yet.

    Attributes
    ----------
    name : str
        Its group.
    rows_first : bool
        Whether pointers are those of rows.
    shape : (int, int)
    pointers : h5py.Dataset
    indices, values : h5py.Dataset or None
        None where there are no entries.
    """

    name: str
    rows_first: bool
    shape: tuple[int, int]
    pointers: h5py.Dataset
    indices: h5py.Dataset | None
    values: h5py.Dataset | None


def stored_sparse(file: h5py.File, name: str) -> StoredSparse:
    """The matrix of a group. Raises InputError."""
    style = _style(file, name)
    group = file[name]
    pointers, indices = ("jc", "ir") if style == "matlab" else ("indptr", "indices")
    starts = dataset(file, f"{name}/{pointers}", _INTEGERS)
    if style == "matlab":
        shape = [attribute(group, "MATLAB_sparse"), starts.shape[0] - 1]
    else:
        key = "shape" if "shape" in group.attrs else "h5sparse_shape"
        shape = attribute(group, key)
    whole = isinstance(shape, list) and len(shape) == 2
    if not whole or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise sparse_error(file, name, f"has the shape {shape}, not two sizes")
    check_fits(8 * sum(shape), file.filename, f"/{name}")
    size = (shape[0], shape[1])
    if style == "matlab" and starts.shape[0]:
        last = read_integers(starts, starts.shape[0] - 1, starts.shape[0])
        if last.tolist() == [0]:  # MATLAB leaves empty arrays out
            return StoredSparse(name, False, size, starts, None, None)
    where = dataset(file, f"{name}/{indices}", _INTEGERS)
    values = dataset(file, f"{name}/data", _NUMBERS)
    return StoredSparse(name, style == "csr", size, starts, where, values)


def _read(file: h5py.File, name: str) -> Any:
    stored = stored_sparse(file, name)
    starts = read_integers(stored.pointers, 0, stored.pointers.shape[0])
    found = np.empty(0, dtype=np.int64), np.empty(0)
    if stored.indices is not None and stored.values is not None:
        found = (
            read_integers(stored.indices, 0, stored.indices.shape[0]),
            read_slab(stored.values, 0, stored.values.shape[0]),
        )
    shape = stored.shape
    make = sp.csr_array if stored.rows_first else sp.csc_array
    try:
        matrix = make((found[1], found[0], starts), shape=shape)
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise sparse_error(file, name, f"is not a valid sparse matrix: {error}") from error
    return matrix


def read_integers(item: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """Items ``start:stop`` of a dataset of indices. Raises InputError."""
    found = read_slab(item, start, stop)
    if found.dtype == np.uint64:
        if found.size and found.max() >= 2**62:
            raise sparse_error(item.file, item.name[1:], f"holds {found.max()}")
        return found.astype(np.int64)
    return found


def sparse_error(file: h5py.File, name: str, problem: str) -> InputError:
    """The error about a matrix that is none."""
    return InputError(
        problem, file=file.filename, field=f"/{name}", remedy="Write the file again, or as .npz."
    )
