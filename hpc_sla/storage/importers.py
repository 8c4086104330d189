"""Matrices and vectors from other programs' files, in the user's own row order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.storage.checks import check_finite
from hpc_sla.storage.hdf5 import FLOATS
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_market import read_matrix_market
from hpc_sla.storage.numpy_files import check_npz, read_npy
from hpc_sla.storage.petsc_binary import read_petsc, read_petsc_vector


@dataclass(frozen=True)
class ImportedMatrix:
    """A matrix in the user's order, and what its file told besides.

    Attributes
    ----------
    matrix : SciPy CSR array [m, n], canonical, float64 or float32
    coordinates : ndarray, float64 [m, dimensions], or None
    rhs_by_name : dict of name to ndarray [m] or [m, k]
        Right-hand sides.
    solution_by_name : dict of name to ndarray [n] or [n, k]
        Known solutions, under the same names.
    block_size : int
        Consecutive rows that are the unknowns of one node.
    """

    matrix: Any
    coordinates: np.ndarray | None = None
    rhs_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    solution_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    block_size: int = 1

    @property
    def rhs(self) -> np.ndarray | None:
        """The first right-hand side, or None."""
        return next(iter(self.rhs_by_name.values()), None)


def read_source(path: str | os.PathLike[str]) -> ImportedMatrix:
    """Read a real, finite sparse matrix.

    ==================  ==========================================================================
    ``.mtx .mtx.gz``    MatrixMarket; symmetric and skew-symmetric ones are expanded, patterns
                        become ones, integers floats
    ``.npz``            `scipy.sparse.save_npz`, any of its formats
    ``.petsc .bin``     PETSc binary, 32- or 64-bit indices; a Vec that follows becomes ``rhs``
    ``.h5 .hdf5``       a matrix file of this project, brought back to the user's order
    ==================  ==========================================================================

    Raises
    ------
    InputError
        Anything wrong with the file, or the matrix complex or not finite.
    """
    suffix = _suffix(path)
    reader = _MATRIX_READERS.get(suffix)
    if reader is None:
        raise InputError(
            f"files ending in {suffix!r} are not known",
            file=path,
            remedy=f"Matrices are read from {', '.join(_MATRIX_READERS)}.",
        )
    _check_there(path)
    with _importing(path):
        found = reader(os.fspath(path))
        for name, values in found.rhs_by_name.items():
            check_finite(values, os.fspath(path), f"right-hand side {name}")
        return ImportedMatrix(
            _checked_matrix(found.matrix, os.fspath(path)),
            found.coordinates,
            found.rhs_by_name,
            found.solution_by_name,
            found.block_size,
        )


def read_vector(path: str | os.PathLike[str], length: int | None = None) -> np.ndarray:
    """Read a real, finite array ``[n]`` or ``[n, k]`` from .npy, .mtx, .mtx.gz, .petsc or .bin.

    Parameters
    ----------
    path : path
    length : int, optional
        The number of rows it must have.

    Returns
    -------
    ndarray, float64 or float32
        A MatrixMarket file with one column gives ``[n]``.
    """
    suffix = _suffix(path)
    reader = _VECTOR_READERS.get(suffix)
    if reader is None:
        raise InputError(
            f"files ending in {suffix!r} are not known",
            file=path,
            remedy=f"Vectors are read from {', '.join(_VECTOR_READERS)}.",
        )
    _check_there(path)
    with _importing(path):
        array = reader(os.fspath(path))
        array = array.astype(_real_dtype(array.dtype, os.fspath(path)), copy=False)
    if array.ndim not in (1, 2):
        raise InputError(
            f"has shape {array.shape}", file=path, remedy="One or two dimensions are needed."
        )
    if length is not None and len(array) != length:
        raise InputError(
            f"has {len(array)} rows where the matrix has {length}",
            file=path,
            remedy="Give one row of values for each of the matrix's rows.",
        )
    check_finite(array, os.fspath(path), "values")
    return np.ascontiguousarray(array)


def _read_mtx(path: str) -> ImportedMatrix:
    return ImportedMatrix(sp.csr_array(read_matrix_market(path)))


def _read_npz(path: str) -> ImportedMatrix:
    check_npz(path)
    found = sp.load_npz(path)  # refuses pickles
    # Pointers to as many rows as are declared, of which the file need not have anything.
    check_fits(8 * (sum(found.shape) if len(found.shape) == 2 else 0), path, "shape")
    if found.format in ("csr", "csc", "bsr"):
        # Converting runs compiled loops over the indices, which must not be trusted before.
        found.check_format(full_check=True)
    elif found.format == "coo" and found.nnz:
        for axis, length in enumerate(found.shape):
            index = (found.row, found.col)[axis]
            if index.min() < 0 or index.max() >= length:
                raise ValueError("an index is out of range")
    return ImportedMatrix(sp.csr_array(found))


def _read_petsc(path: str) -> ImportedMatrix:
    matrix, rhs = read_petsc(path)
    return ImportedMatrix(matrix, rhs_by_name={} if rhs is None else {"b": rhs})


def _read_own(path: str) -> ImportedMatrix:
    with MatrixFile(path) as file:
        m, n = file.n_rows, file.n_cols
        indptr, indices, data = file.read_rows(0, m)
        place = _inverse(file.read_permutation(0, m), path, "/permutation", "row")
        column_permutation = file.read_column_permutation(0, n)
        column_place = place
        if not file.square:
            column_place = _inverse(column_permutation, path, "/column_permutation", "column")
        rows = sp.csr_array((data, indices, indptr), shape=(m, n))[place]
        columns = column_permutation[rows.indices]
        return ImportedMatrix(
            sp.csr_array((rows.data, columns, rows.indptr), shape=(m, n)),
            file.read_coordinates(0, m)[place] if file.has_coordinates else None,
            {name: file.read_rhs(name, 0, m)[place] for name in file.rhs_names},
            {name: file.read_solution(name, 0, n)[column_place] for name in file.solution_names},
            file.block_size,
        )


def _inverse(permutation: np.ndarray, path: str, field: str, what: str) -> np.ndarray:
    n = len(permutation)
    if n and np.bincount(permutation, minlength=n).max() > 1:
        raise InputError(
            f"repeats a {what}",
            file=path,
            field=field,
            remedy=f"Each of the user's {what}s occurs exactly once.",
        )
    place = np.empty(n, dtype=np.int64)
    place[permutation] = np.arange(n)
    return place


def _read_mtx_vector(path: str) -> np.ndarray:
    found = read_matrix_market(path)
    dense = found.toarray() if sp.issparse(found) else np.asarray(found)
    return dense[:, 0] if dense.ndim == 2 and dense.shape[1] == 1 else dense


def _read_npy(path: str) -> np.ndarray:
    return read_npy(path)


_MATRIX_READERS: dict[str, Callable[[str], ImportedMatrix]] = {
    ".mtx": _read_mtx,
    ".mtx.gz": _read_mtx,
    ".npz": _read_npz,
    ".petsc": _read_petsc,
    ".bin": _read_petsc,
    ".h5": _read_own,
    ".hdf5": _read_own,
}
_VECTOR_READERS: dict[str, Callable[[str], np.ndarray]] = {
    ".npy": _read_npy,
    ".mtx": _read_mtx_vector,
    ".mtx.gz": _read_mtx_vector,
    ".petsc": read_petsc_vector,
    ".bin": read_petsc_vector,
}


def _suffix(path: str | os.PathLike[str]) -> str:
    name = Path(path).name.lower()
    return ".mtx.gz" if name.endswith(".mtx.gz") else Path(name).suffix


def _check_there(path: str | os.PathLike[str]) -> None:
    if not os.path.exists(path):
        raise InputError("no such file", file=path, remedy="Check the name.")
    if not os.path.isfile(path):
        raise InputError("is not a regular file", file=path, remedy="Name a file.")


@contextmanager
def _importing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except HpcSlaError:
        raise
    except PermissionError as error:
        raise InputError("cannot be opened", file=path, remedy="Check its permissions.") from error
    except MemoryError as error:
        raise InputError(
            "does not fit into memory", file=path, remedy="Use a machine with more."
        ) from error
    except Exception as error:
        # NumPy, SciPy and zlib have no common error for "this file is broken": they raise what
        # their parsers stumble over, tokenize.TokenError among others.
        cause = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"cannot be read as a {_suffix(path)} file ({cause})",
            file=path,
            remedy="Check that it is complete and of the kind its name says.",
        ) from error


def _checked_matrix(matrix: Any, path: str) -> Any:
    if matrix.ndim != 2:
        raise InputError(
            f"has {matrix.ndim} dimension(s)",
            file=path,
            field="shape",
            remedy="Give a matrix, of two dimensions.",
        )
    dtype = _real_dtype(matrix.dtype, path)
    matrix = matrix.astype(dtype, copy=False)
    matrix.sum_duplicates()
    check_finite(matrix.data, path, "values")
    return matrix


def _real_dtype(dtype: np.dtype[Any], path: str) -> np.dtype[Any]:
    if dtype.kind not in "biuf":
        raise InputError(
            f"holds {dtype} values",
            file=path,
            field="values",
            remedy="Only real numbers are handled: split real and imaginary parts.",
        )
    native = dtype.newbyteorder("=")
    return native if native in FLOATS else np.dtype(np.float64)
