"""Write a matrix file: checked, checksummed, and only named once complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage import attributes as attrs
from hpc_sla.storage import checks
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.digest import VERSION, VERSION_NAME, content_digest
from hpc_sla.storage.hdf5 import FLOATS
from hpc_sla.storage.hdf5_write import Output


def write_matrix(
    path: str | os.PathLike[str],
    matrix: Any,
    part_offsets: np.ndarray,
    permutation: np.ndarray,
    rhs: Mapping[str, np.ndarray],
    coordinates: np.ndarray | None = None,
    attributes: Mapping[str, Any] | None = None,
    solutions: Mapping[str, np.ndarray] | None = None,
    column_part_offsets: np.ndarray | None = None,
    column_permutation: np.ndarray | None = None,
    near_nullspace: np.ndarray | None = None,
) -> None:
    """Write `matrix`, whose rows and columns are already in stored (partition) order.

    The file appears under its name only when it is complete; on any failure what stood there
    before is untouched.

    Parameters
    ----------
    path : path
        The file to write.
    matrix : SciPy CSR matrix or array [n_rows, n_cols], float64 or float32
        Not modified; sorted and with duplicates added up on the way if need be.
    part_offsets : int array [parts + 1]
        Part p is the stored rows ``part_offsets[p]:part_offsets[p+1]``.
    permutation : int array [n_rows]
        Stored row to user's row.
    rhs, solutions : dict of name to float array [n_rows] or [n_rows, k], stored order
        Right-hand sides and, under the same names, their known solutions (those [n_cols] or
        [n_cols, k]); stored in the matrix's dtype.
    coordinates : float array [n_rows, dimensions], optional
        Points of the rows, stored order.
    attributes : dict, optional
        Further root attributes, such as where the matrix came from.
    column_part_offsets : int array [parts + 1], optional
    column_permutation : int array [n_cols], optional
        The same of a rectangular matrix's columns; both or neither, which is even runs of the
        user's columns.
    near_nullspace : float array [n_rows, m], optional
        Vectors that the matrix hardly changes, stored order.
    """
    file = os.fspath(path)
    matrix = _canonical(matrix, file)
    n_rows, n_cols = matrix.shape
    index_dtype = np.int32 if n_cols < 2**31 else np.int64
    arrays: dict[str, np.ndarray] = {
        "indptr": matrix.indptr.astype(np.int64, copy=False),
        "indices": matrix.indices.astype(index_dtype, copy=False),
        "data": matrix.data,
        "part_offsets": np.asarray(part_offsets, dtype=np.int64),
        "permutation": _checked_permutation(permutation, n_rows, file, "/permutation", "row"),
    }
    checks.check_part_offsets(arrays["part_offsets"], n_rows, file)
    checks.check_range(matrix.indices, n_cols, file, "/indices", "Columns count from 0.")
    version = 1
    if column_part_offsets is not None and column_permutation is not None:
        if n_rows == n_cols:
            raise ValueError("a square matrix's columns are stored as its rows are")
        version, field = 2, "/column_part_offsets"
        cuts = arrays[field[1:]] = np.asarray(column_part_offsets, dtype=np.int64)
        checks.check_part_offsets(cuts, n_cols, file, field, "columns")
        checks.check_column_parts(len(cuts) - 1, len(arrays["part_offsets"]) - 1, file)
        arrays["column_permutation"] = _checked_permutation(
            column_permutation, n_cols, file, "/column_permutation", "column"
        )
    elif column_part_offsets is not None or column_permutation is not None:
        raise ValueError("column_part_offsets and column_permutation go together")
    arrays |= vectors_of(file, matrix.shape, matrix.dtype, rhs, solutions or {})
    arrays |= of_rows(file, n_rows, coordinates, near_nullspace)
    for field, array in arrays.items():
        if array.dtype.kind == "f":
            checks.check_finite(array, file, f"/{field}")
    digest = content_digest(
        n_rows,
        n_cols,
        ((name, array.shape, array.dtype, partial(_slab, array)) for name, array in arrays.items()),
    )
    root = root_attributes(matrix.shape, version, digest, attributes or {})
    with replacing(path) as temporary, Output(temporary, path) as target:
        attrs.set_attributes(target.file, root)
        for name, array in arrays.items():
            item = target.create(name, array.shape, array.dtype)
            target.write(item, 0, array)


def vectors_of(
    file: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    rhs: Mapping[str, np.ndarray],
    solutions: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Right-hand sides and solutions by the names of their datasets, checked. Local.

    `shape` is that of the rows and columns that are at hand.
    """
    arrays = {}
    for group, vectors in (("rhs", rhs), ("solution", solutions)):
        for name, values in vectors.items():
            field = f"{group}/{name}"
            if not name or "/" in name or name == ".":
                raise InputError(
                    f"a vector cannot be called {name!r}",
                    file=file,
                    field=f"/{group}",
                    remedy="Use letters, digits, dashes and underscores.",
                )
            length, what = (shape[0], "row") if group == "rhs" else (shape[1], "column")
            arrays[field] = _vector(values, length, dtype, (1, 2), file, field, what)
    return arrays


def of_rows(
    file: str, n_rows: int, coordinates: np.ndarray | None, near_nullspace: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What has a row for each of so many rows, by the names of datasets, checked. Local."""
    arrays = {}
    for field, given in (("coordinates", coordinates), ("near_nullspace", near_nullspace)):
        if given is not None:
            arrays[field] = _vector(given, n_rows, np.dtype(np.float64), (2,), file, field)
            checks.check_columns_there(arrays[field].shape, file, f"/{field}")
    return arrays


def root_attributes(
    shape: tuple[int, int], version: int, digest: str, further: Mapping[str, Any]
) -> dict[str, Any]:
    """The root's attributes. Local."""
    root = {
        "format": attrs.MATRIX_FORMAT,
        "version": version,
        "n_rows": shape[0],
        "n_cols": shape[1],
        "content_sha256": digest,
        VERSION_NAME: VERSION,
    }
    if clash := root.keys() & further.keys():
        raise ValueError(f"attributes {sorted(clash)} belong to the format itself")
    return {**root, **further}


def _slab(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return array[start:stop]


def _canonical(matrix: Any, file: str) -> Any:
    if not sp.issparse(matrix) or matrix.format != "csr":
        raise TypeError("write_matrix needs a SciPy CSR matrix")
    if matrix.dtype not in FLOATS:
        raise InputError(
            f"has the wrong dtype {matrix.dtype}",
            file=file,
            field="/data",
            remedy="Use float64 or float32.",
        )
    matrix.check_format(full_check=True)
    if matrix.has_canonical_format:
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    return matrix


def _checked_permutation(
    permutation: np.ndarray, n: int, file: str, field: str, what: str
) -> np.ndarray:
    order = np.asarray(permutation, dtype=np.int64)
    remedy = f"Each of the user's {what}s occurs exactly once."
    if order.shape != (n,):
        raise InputError(
            f"has shape {order.shape}, not ({n},)", file=file, field=field, remedy=remedy
        )
    checks.check_range(order, n, file, field, remedy)
    if n and np.bincount(order, minlength=n).max() > 1:
        raise InputError(f"repeats a {what}", file=file, field=field, remedy=remedy)
    return order


def _vector(
    values: Any,
    length: int,
    dtype: np.dtype[Any],
    ndim: tuple[int, ...],
    file: str,
    field: str,
    what: str = "row",
) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"has the wrong dtype {array.dtype}",
            file=file,
            field=f"/{field}",
            remedy="Give real numbers.",
        )
    if array.ndim not in ndim or array.shape[0] != length:
        raise InputError(
            f"has shape {array.shape} where the matrix has {length} {what}s",
            file=file,
            field=f"/{field}",
            remedy=f"Give one value per {what}.",
        )
    return np.ascontiguousarray(array, dtype=dtype)
