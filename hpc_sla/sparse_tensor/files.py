"""Saving a SparseTensor: one file.

One matrix becomes a matrix file of this package (partitions/README.md), of one part, which
`python -m hpc_sla partition`, `solve` and `DSparseMatrix.from_hdf5` read. A batch, for which that
format has no place, becomes a NumPy `.npz` archive: `row` and `col` (int64 [nnz]), `values`
([B, nnz]), `shape` (two int64) and `format` ("hpc_sla.SparseTensor 1").
"""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.importers import known_suffix, read_source
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.matrix_writer import write_matrix
from hpc_sla.storage.numpy_files import check_npz

_FORMAT = "hpc_sla.SparseTensor 1"

Triplets = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]


def save_matrix(path: str | os.PathLike[str], matrix: Any) -> None:
    """Write a SciPy CSR matrix as a matrix file of one part."""
    n = matrix.shape[0]
    write_matrix(
        path,
        matrix,
        np.array([0, n], dtype=np.int64),
        np.arange(n, dtype=np.int64),
        {},
        attributes={"partition_method": "contiguous", "source": "SparseTensor.save"},
    )


def save_batch(path: str | os.PathLike[str], triplets: Triplets) -> None:
    """Write values [B, nnz], row and col as an archive."""
    values, row, col, shape = triplets
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, format=np.array(_FORMAT), values=values, row=row, col=col, shape=shape)


def load(path: str | os.PathLike[str]) -> Triplets:
    """Read any kind: values [nnz] or [*batch, nnz], row, col, shape; in the user's row order.

    Raises
    ------
    InputError
        Naming the file, and what is wrong with it.
    """
    if zipfile.is_zipfile(path):
        return _load_other(path) if _is_scipys(path) else _load_batch(path)
    return _load_other(path) if known_suffix(path) not in _OWN else _load_matrix(path)


_OWN = (None, ".h5", ".hdf5")
"""Matrix files of ours have these, or any that no other format has."""


def _load_other(path: str | os.PathLike[str]) -> Triplets:
    coo = read_source(path).matrix.tocoo()
    return coo.data, coo.row.astype(np.int64), coo.col.astype(np.int64), coo.shape


def _is_scipys(path: str | os.PathLike[str]) -> bool:
    """Whether an archive is of `scipy.sparse.save_npz`."""
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    return "data" in names and "values" not in names


def _load_matrix(path: str | os.PathLike[str]) -> Triplets:
    A = DSparseMatrix.from_hdf5(path, World.serial("cpu"))
    row, col = A.entries()
    return A.values.numpy(), row, col, A.shape


def _load_batch(path: str | os.PathLike[str]) -> Triplets:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["format"]) != _FORMAT:
                raise ValueError(f"format {archive['format']}")
            n_rows, n_cols = (int(size) for size in archive["shape"])
            check_fits(8 * (n_rows + n_cols), path, "shape")
            return archive["values"], archive["row"], archive["col"], (n_rows, n_cols)
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib have no common error for "this is broken"
        raise InputError(
            f"is not a batch saved by SparseTensor.save ({error})",
            file=path,
            remedy="Save it again, or read it with numpy.load",
        ) from error
