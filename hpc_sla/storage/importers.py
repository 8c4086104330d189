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
from hpc_sla.storage.archive import SUFFIXES as ARCHIVES
from hpc_sla.storage.archive import read_archive
from hpc_sla.storage.attributes import attribute
from hpc_sla.storage.checks import check_finite
from hpc_sla.storage.compressed import COMPRESSIONS, open_bytes
from hpc_sla.storage.harwell_boeing import read_harwell_boeing
from hpc_sla.storage.hdf5 import open_read
from hpc_sla.storage.hdf5_sparse import read_hdf5_sparse
from hpc_sla.storage.matlab import read_mat, read_mat_vector
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_market import read_dense_matrix_market, read_matrix_market
from hpc_sla.storage.numpy_files import read_npy, read_npz, real_dtype
from hpc_sla.storage.petsc_binary import read_petsc, read_petsc_vector


@dataclass(frozen=True)
class ImportedMatrix:
    """A matrix in the user's order, and what else its file says.

    Attributes
    ----------
    matrix : SciPy CSR array [m, n], canonical, float64 or float32
    coordinates : ndarray, float64 [m, dimensions], or None
    rhs_by_name : dict of name to ndarray [m] or [m, k]
        Right-hand sides.
    solution_by_name : dict of name to ndarray [n] or [n, k]
        Known solutions, under the same names.
    block_size : int or None
        Consecutive rows that are the unknowns of one node; None where the file does not say.
    near_nullspace : ndarray, float64 [m, k], or None
    """

    matrix: Any
    coordinates: np.ndarray | None = None
    rhs_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    solution_by_name: dict[str, np.ndarray] = field(default_factory=dict)
    block_size: int | None = None
    near_nullspace: np.ndarray | None = None

    @property
    def rhs(self) -> np.ndarray | None:
        """The first right-hand side, or None."""
        return next(iter(self.rhs_by_name.values()), None)


def read_source(path: str | os.PathLike[str]) -> ImportedMatrix:
    """Read a real, finite sparse matrix.

    ======================  ======================================================================
    ``.mtx``                MatrixMarket; symmetric, skew-symmetric and hermitian ones are
                            expanded, patterns become ones, integers floats
    ``.rb .hb .rua .rsa``   Rutherford- and Harwell-Boeing, assembled, likewise (and ``.pua`` and so
                            on); right-hand sides in full become ``rhs``
    ``.tar``                the only of the two inside, or ``NAME/NAME.mtx``; ``NAME_b.mtx`` becomes
                            ``rhs``
    ``.npz``                `scipy.sparse.save_npz`, any of its formats
    ``.petsc .bin``         PETSc binary, 32- or 64-bit indices; a Vec that follows becomes ``rhs``
    ``.mat``                MATLAB; the only sparse matrix, ``A`` or ``Problem.A``; ``b`` becomes
                            ``rhs`` (not in files of version 7.3)
    ``.h5ad``               AnnData; ``X``, or the only sparse matrix
    ``.h5 .hdf5``           a matrix file of this project, brought back to the user's order, or a
                            sparse matrix as AnnData, MATLAB 7.3 and PETSc store it
    ======================  ======================================================================

    Those of the first three lines may be compressed: ``.gz``, ``.bz2``, ``.xz``, ``.tgz``. Upper
    and lower case of suffixes are the same.

    Raises
    ------
    InputError
        Anything wrong with the file, or the matrix complex or not finite.
    """
    reader = _reader(path, _MATRIX_READERS, "Matrices")
    check_there(path)
    with importing(path):
        name = os.fspath(path)
        found = reader(name)
        rhs = {key: _checked_vector(b, name, key) for key, b in found.rhs_by_name.items()}
        return ImportedMatrix(
            _checked_matrix(found.matrix, name),
            found.coordinates,
            rhs,
            found.solution_by_name,
            found.block_size,
            found.near_nullspace,
        )


def read_vector(path: str | os.PathLike[str], length: int | None = None) -> np.ndarray:
    """Read a real, finite array ``[n]`` or ``[n, k]`` from .npy, .mtx[.gz], .petsc, .bin or .mat.

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
    reader = _reader(path, _VECTOR_READERS, "Vectors")
    check_there(path)
    with importing(path):
        array = reader(os.fspath(path))
        array = array.astype(real_dtype(array.dtype, os.fspath(path)), copy=False)
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
    return ImportedMatrix(sp.csr_array(read_npz(path)))


def _read_boeing(path: str) -> ImportedMatrix:
    return _with_rhs(path, *read_harwell_boeing(path, lambda: open_bytes(path)))


def _read_archive(path: str) -> ImportedMatrix:
    return _with_rhs(path, *read_archive(path))


def _read_petsc(path: str) -> ImportedMatrix:
    return _with_rhs(path, *read_petsc(path))


def _read_mat(path: str) -> ImportedMatrix:
    return _with_rhs(path, *read_mat(path))


def _read_hdf5(path: str) -> ImportedMatrix:
    return _with_rhs(path, read_hdf5_sparse(path), None)


def _with_rhs(path: str, matrix: Any, rhs: np.ndarray | None) -> ImportedMatrix:
    if rhs is not None and len(rhs) != matrix.shape[0]:
        raise InputError(
            f"the right-hand side has {len(rhs)} rows and the matrix {matrix.shape[0]}",
            file=path,
            remedy="Store a right-hand side that belongs to the matrix.",
        )
    # First the type, then the format: small integers given twice would wrap around.
    matrix = matrix.astype(real_dtype(matrix.dtype, path), copy=False)
    return ImportedMatrix(sp.csr_array(matrix), rhs_by_name={} if rhs is None else {"b": rhs})


def _read_own_or_other(path: str) -> ImportedMatrix:
    with open_read(path) as file:
        ours = attribute(file, "format") is not None
    return _read_own(path) if ours else _read_hdf5(path)


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
            file.block_size if file.says_block_size else None,
            file.read_near_nullspace(0, m)[place] if file.has_near_nullspace else None,
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


def check_matrix_kind(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a suffix that no matrix file has. Local."""
    _reader(path, _MATRIX_READERS, "Matrices")


def check_vector_kind(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a suffix that no vector's file has. Local."""
    _reader(path, _VECTOR_READERS, "Vectors")


_BOEING = (".rb", ".hb", *(f".{a}{b}a" for a in "rpi" for b in "ushzr"))
_MATRIX_READERS: dict[str, Callable[[str], ImportedMatrix]] = {
    **{f".mtx{packed}": _read_mtx for packed in COMPRESSIONS},
    ".npz": _read_npz,
    ".petsc": _read_petsc,
    ".bin": _read_petsc,
    ".h5": _read_own_or_other,
    ".hdf5": _read_own_or_other,
    ".h5ad": _read_hdf5,
    ".mat": _read_mat,
    **dict.fromkeys(ARCHIVES, _read_archive),
    **{f"{kind}{packed}": _read_boeing for kind in _BOEING for packed in COMPRESSIONS},
}
_VECTOR_READERS: dict[str, Callable[[str], np.ndarray]] = {
    ".npy": read_npy,
    **{f".mtx{packed}": read_dense_matrix_market for packed in COMPRESSIONS},
    ".petsc": read_petsc_vector,
    ".bin": read_petsc_vector,
    ".mat": read_mat_vector,
}
_NUMPY = "read it with numpy.loadtxt and write it with {}"
_HOW_TO_CONVERT = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), _NUMPY),
    ".dat": f"rename it to .petsc if PETSc wrote it, else {_NUMPY}",
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle"), "load it where you trust it, and use {}"),
    **dict.fromkeys((".zip", ".7z", ".gz", ".bz2", ".xz", ".zst"), "unpack it first"),
}


def _reader(
    path: str | os.PathLike[str], readers: dict[str, Callable[[str], Any]], what: str
) -> Callable[[str], Any]:
    name = Path(path).name.lower()
    reader = readers.get(suffix_of(path))
    if reader is not None:
        return reader
    shown = [suffix for suffix in readers if suffix not in _SELDOM]
    save = "scipy.sparse.save_npz" if what == "Matrices" else "numpy.save"
    convert = _HOW_TO_CONVERT.get(Path(name).suffix, "convert it with {}").format(save)
    raise InputError(
        f"files ending in {Path(name).suffix!r} cannot be read",
        file=path,
        remedy=f"{what} are read from {', '.join(shown)}; {convert}",
    )


_SELDOM = {
    f"{kind}{packed}"
    for kind in (".mtx", *_BOEING)
    for packed in COMPRESSIONS
    if packed not in ("", ".gz") or (kind in _BOEING[2:] and kind != ".rua")
}


def known_suffix(path: str | os.PathLike[str]) -> str | None:
    """The suffix that says which format of matrices it is; None for one of none. Local."""
    suffix = suffix_of(path)
    return suffix if suffix in _MATRIX_READERS else None


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The longest one known, in lower case."""
    name = Path(path).name.lower()
    known = {*_MATRIX_READERS, *_VECTOR_READERS}
    fitting = [suffix for suffix in known if name.endswith(suffix)]
    return max(fitting, key=len, default=Path(name).suffix)


def check_there(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless `path` is a file. Local."""
    if not os.path.exists(path):
        raise InputError("no such file", file=path, remedy="Check the name.")
    if not os.path.isfile(path):
        raise InputError("is not a regular file", file=path, remedy="Name a file.")


@contextmanager
def importing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what parsers raise on damaged bytes into an `InputError`. Local."""
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
            f"cannot be read as a {suffix_of(path)} file ({cause})",
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
    dtype = real_dtype(matrix.dtype, path)
    matrix = matrix.astype(dtype, copy=False)
    matrix.sum_duplicates()
    check_finite(matrix.data, path, "values")
    return matrix


def _checked_vector(values: np.ndarray, path: str, name: str) -> np.ndarray:
    values = values.astype(real_dtype(values.dtype, path), copy=False)
    check_finite(values, path, f"right-hand side {name}")
    return values
