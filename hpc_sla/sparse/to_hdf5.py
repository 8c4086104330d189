"""A distributed matrix written as a matrix file, each rank its own rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.storage.matrix_slabs import StoredColumns, write_matrix_slabs
from hpc_sla.storage.parallel.local_rows import csr

if TYPE_CHECKING:
    from hpc_sla.distributed.layout import RowLayout
    from hpc_sla.sparse.matrix import DSparseMatrix

Vectors = Mapping[str, Any]


def write_hdf5(
    A: DSparseMatrix,
    path: str | os.PathLike[str],
    rhs: Vectors | None,
    solutions: Vectors | None,
    attributes: Mapping[str, Any] | None,
) -> None:
    """The work of `DSparseMatrix.to_hdf5`, whose parameters these are. **Collective.**"""
    world, layout, columns = A.world, A.layout, A.columns
    square = columns is layout
    further = dict(attributes or {})
    said = A.unknowns.block_size
    if square and said is not None:
        further.setdefault("block_size", said)
    names = [sorted(vectors or {}) for vectors in (rhs, solutions)]
    with world.agree("to_hdf5", path=os.fspath(path), names=names, attributes=sorted(further)):
        b = {name: _owned(x, layout, f"rhs: {name}") for name, x in (rhs or {}).items()}
        known = (solutions or {}).items()
        x = {name: _owned(y, columns, f"solutions: {name}") for name, y in known}
    points, vectors = (
        None if a is None else a.detach().cpu().numpy() for a in (A.coordinates, A.near_nullspace)
    )
    mine = A.local_csr()
    matrix = csr(mine.data, mine.indices, mine.indptr, mine.shape)
    matrix.sum_duplicates()
    stored = None
    if not square:
        permutation = np.asarray(columns.rows, dtype=np.int64)
        stored = StoredColumns(columns.offsets, columns.offsets, permutation)
    with Peers(world.comm) as peers:
        write_matrix_slabs(
            peers,
            path,
            layout.offsets,
            matrix,
            layout.offsets,
            np.asarray(layout.rows),
            b,
            points,
            further,
            x,
            vectors,
            stored,
        )


def _owned(given: Any, layout: RowLayout, field: str) -> np.ndarray:
    """This rank's entries as an array. Local."""
    checked = layout._checked(given, field)
    found: np.ndarray = checked.detach().cpu().numpy()
    if found.ndim > 2:
        raise InputError(
            f"shape {found.shape} is not [n_owned] or [n_owned, k]", field=f"to_hdf5: {field}"
        )
    return found
