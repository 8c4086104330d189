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
        there = sparse_groups(file)
        chosen = [name for name in _PREFERRED if name in there][:1]
        if not chosen and len(there) == 1:
            chosen = there
        if not chosen:
            raise InputError(
                f"holds several sparse matrices ({', '.join(there[:8])})"
                if there
                else "holds no sparse matrix",
                file=path,
                remedy="Write the one you mean with scipy.sparse.save_npz. Read are AnnData (X), "
                "sparse matrices of MATLAB 7.3, and matrix files of `partition`.",
            )
        return _read(file, chosen[0])


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


def _read(file: h5py.File, name: str) -> Any:
    style = _style(file, name)
    group = file[name]
    pointers, indices = ("jc", "ir") if style == "matlab" else ("indptr", "indices")
    starts = _array(file, f"{name}/{pointers}", _INTEGERS)
    if style == "matlab":
        shape = [attribute(group, "MATLAB_sparse"), len(starts) - 1]
    else:
        key = "shape" if "shape" in group.attrs else "h5sparse_shape"
        shape = attribute(group, key)
    whole = isinstance(shape, list) and len(shape) == 2
    if not whole or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise _error(file, name, f"has the shape {shape}, not two sizes")
    check_fits(8 * sum(shape), file.filename, f"/{name}")
    if style == "matlab" and starts[-1:].tolist() == [0]:
        found = np.empty(0, dtype=np.int64), np.empty(0)  # MATLAB leaves empty arrays out
    else:
        found = _array(file, f"{name}/{indices}", _INTEGERS), _array(file, f"{name}/data", _NUMBERS)
    make = sp.csr_array if style == "csr" else sp.csc_array
    try:
        matrix = make((found[1], found[0], starts), shape=shape)
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise _error(file, name, f"is not a valid sparse matrix: {error}") from error
    return matrix


def _array(file: h5py.File, name: str, dtypes: tuple[np.dtype[Any], ...]) -> np.ndarray:
    item = dataset(file, name, dtypes)
    found = read_slab(item, 0, item.shape[0])
    if found.dtype == np.uint64 and dtypes is _INTEGERS:
        if found.size and found.max() >= 2**62:
            raise _error(file, name, f"holds {found.max()}")
        return found.astype(np.int64)
    return found


def _error(file: h5py.File, name: str, problem: str) -> InputError:
    return InputError(
        problem, file=file.filename, field=f"/{name}", remedy="Write the file again, or as .npz."
    )
