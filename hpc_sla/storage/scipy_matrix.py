"""SciPy matrices as people hand them over, whose arrays nobody may have looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp


def as_csr(matrix: Any) -> sp.csr_matrix:
    """A copy as canonical CSR of float32 or float64, every index checked. Local.

    SciPy's own conversions are compiled loops that trust the indices, so these are looked at first.

    Parameters
    ----------
    matrix : SciPy sparse matrix or array [m, n]
        Of any format. Real types other than float32 become float64.

    Raises
    ------
    InputError
        Not sparse, complex, not of two dimensions, arrays that do not make a matrix.
    """
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    if not sp.issparse(matrix):
        raise InputError(f"a {type(matrix).__name__} is not a SciPy sparse matrix", field="matrix")
    if matrix.dtype.kind == "c":
        raise InputError("complex matrices are not supported", field="matrix")
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"entries of type {matrix.dtype} are not numbers", field="matrix")
    if len(matrix.shape) != 2:
        raise InputError(f"shape {matrix.shape} is not that of a matrix", field="matrix")
    try:
        right = checked(matrix)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
        raise InputError(
            f"the arrays of the {type(matrix).__name__} do not make a matrix: {error}",
            field="matrix",
            remedy="Check the code that made it; matrix.check_format(full_check=True) finds it too",
        ) from error
    # By kind and size: of another byte order it is a number all the same.
    single = matrix.dtype.kind == "f" and matrix.dtype.itemsize == 4
    # First the type, then the format: small integers given twice would wrap around.
    csr = sp.csr_matrix(right.astype(np.float32 if single else np.float64), copy=True)
    csr.sum_duplicates()
    return csr


def checked(matrix: Any) -> Any:
    """The same matrix, its arrays shared, once none of its indices is out of range. Local.

    Raises
    ------
    ValueError, and others of SciPy's
        The arrays do not make a matrix.
    """
    kind = type(matrix)
    if matrix.format in ("csr", "csc", "bsr"):
        for name in ("indices", "indptr"):
            _integers(getattr(matrix, name), name)
        # Another object: the check trims arrays, and the user's are not to change.
        same = kind((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        same.check_format(full_check=True)
        return same
    if matrix.format == "dia":
        _integers(matrix.offsets, "offsets")
        return kind((matrix.data, matrix.offsets), shape=matrix.shape)
    if matrix.format == "lil":
        if [len(row) for row in matrix.rows] != [len(row) for row in matrix.data]:
            raise ValueError("rows have different numbers of columns and of entries")
        return checked(matrix.tocsr())
    if matrix.format == "coo":
        for index, size, name in zip(
            (matrix.row, matrix.col), matrix.shape, ("row", "col"), strict=True
        ):
            _integers(index, name)
            if len(index) != len(matrix.data):
                raise ValueError(f"{len(index)} {name} indices and {len(matrix.data)} entries")
            if len(index) and not (index.min() >= 0 and index.max() < size):
                wrong = index.min() if index.min() < 0 else index.max()
                raise ValueError(f"{name} index {wrong} is outside 0 to {size - 1}")
        return matrix
    return checked(matrix.tocoo())  # dok, whose keys SciPy has in Python


def _integers(array: Any, name: str) -> None:
    if np.ndim(array) != 1 or (np.size(array) and np.asarray(array).dtype.kind not in "iu"):
        raise ValueError(f"{name} is not a one-dimensional array of integers")
