"""From a matrix on rank 0 to rows on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.distributed.agreement import difference
from hpc_sla.distributed.arguments import host_array
from hpc_sla.distributed.layout import RowLayout, check_layout
from hpc_sla.distributed.row_order import digest
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition import StoredOrder, check_block_size, partition, reorder, stored_order
from hpc_sla.partition.blocks import points_of_rows
from hpc_sla.partition.nodes import block_size_of
from hpc_sla.partition.offsets import contiguous
from hpc_sla.partition.rigid_body import by_name
from hpc_sla.sparse.unknowns import Unknowns
from hpc_sla.storage.scipy_matrix import as_csr

_NUMBERS = "an array"


def rows_from_scipy(
    matrix: Any,
    world: World,
    method: str | np.ndarray | None,
    coordinates: np.ndarray | None,
    column_method: str | np.ndarray | None,
    block_size: int | None = None,
    layout: RowLayout | None = None,
    columns: RowLayout | None = None,
    near_nullspace: np.ndarray | str | None = None,
) -> tuple[RowLayout, RowLayout, np.ndarray, np.ndarray, np.ndarray, Unknowns]:
    """Partition rank 0's matrix and send each rank its rows. **Collective.**

    Returns
    -------
    layout, columns : RowLayout
        Of rows and columns; one object where the matrix is square.
    (indptr int64 [n_owned + 1], indices int64 [nnz], data [nnz])
        Per rank: its rows, with stored column numbers.
    Unknowns

    Raises
    ------
    InputError
        On every rank, where rank 0's matrix cannot be used.
    """
    comm = world.comm
    whole: sp.csr_matrix | None = None
    order: StoredOrder | None = None
    offsets = points = vectors = None
    known = 1, False, False, False
    with world.agree(
        "from_scipy",
        block_size=block_size,
        layout=layout is not None and ("given", getattr(layout, "order", None)),
        columns=columns is not None and ("given", getattr(columns, "order", None)),
    ) as agreed:
        for given, field in ((layout, "layout"), (columns, "columns")):
            if given is not None:
                check_layout(given, world, None, field)
        agreed.say((_method_name(method), _method_name(column_method), sp.issparse(matrix)))
    _compare(agreed.heard, matrix, world)
    row_numbers = None if layout is None else comm.gather(layout.rows)
    column_numbers = None if columns is None else comm.gather(columns.rows)
    with world.agree():
        if world.rank == 0:
            whole = _usable(matrix)
            rows_given = _Given.of(layout, row_numbers)
            columns_given = _Given.of(columns, column_numbers)
            looked = block_size is None
            size = block_size_of(whole) if block_size is None else block_size
            check_block_size(whole.shape, size)
            points, vectors = _described(whole.shape[0], size, coordinates, near_nullspace)
            if rows_given is None:
                part, divided = _parts(whole, world.size, method, points, size)
            else:
                part = rows_given.part(whole.shape[0], "layout")
                _check_alone("layout", partition=method)
                divided = rows_given.divided(size)
            if divided is not None:
                if not looked:
                    raise divided
                size = 1
            if columns_given is None:
                column_part = _column_parts(whole, world.size, column_method)
            else:
                _check_rectangular(whole.shape, "columns")
                column_part = columns_given.part(whole.shape[1], "columns")
                _check_alone("columns", column_partition=column_method)
            # On one rank a vector in the user's order has the right length, and nobody would see
            # that it is in the wrong one.
            renumber = world.size > 1 or (isinstance(method, str) and method != "contiguous")
            order = stored_order(whole, part, world.size, column_part, size, renumber)
            if rows_given is not None:
                order = replace(
                    order, permutation=rows_given.numbers, part_offsets=rows_given.offsets
                )
            if columns_given is not None:
                order = replace(
                    order,
                    column_permutation=columns_given.numbers,
                    column_part_offsets=columns_given.offsets,
                )
            whole = reorder(whole, order.permutation, order.column_permutation)
            offsets = order.part_offsets, order.column_part_offsets
            known = size, looked, points is not None, vectors is not None
    offsets, column_offsets = comm.bcast(offsets)
    known = comm.bcast(known)
    dtype = comm.bcast(None if whole is None else whole.dtype)
    if world.rank == 0:
        assert whole is not None and order is not None
        for rank in range(1, world.size):
            for array in _slab(whole, order.permutation, offsets[rank], offsets[rank + 1]):
                comm.Send(array, dest=rank)
        indptr, indices, data, rows = _slab(whole, order.permutation, 0, offsets[1])
    else:
        n_owned = int(offsets[world.rank + 1] - offsets[world.rank])
        indptr = np.empty(n_owned + 1, dtype=np.int64)
        comm.Recv(indptr, source=0)
        indices = np.empty(int(indptr[-1]), dtype=np.int64)
        comm.Recv(indices, source=0)
        data = np.empty(int(indptr[-1]), dtype=dtype)
        comm.Recv(data, source=0)
        rows = np.empty(n_owned, dtype=np.int64)
        comm.Recv(rows, source=0)
    if layout is None:
        layout = RowLayout.numbered(world, offsets, rows)
    if column_offsets is None:
        columns = layout
    elif columns is None:
        user_columns = None if order is None else order.column_permutation
        columns = RowLayout.numbered(
            world, column_offsets, _send_runs(user_columns, column_offsets, world)
        )
    size, found, has_points, has_vectors = known
    unknowns = Unknowns(
        size if column_offsets is None else None,
        layout.scatter(points) if has_points else None,
        layout.scatter(vectors) if has_vectors else None,
        found,
    )
    return layout, columns, indptr, indices, data, unknowns


@dataclass
class _Given:
    """A layout that the caller brings, as rank 0 sees it."""

    numbers: np.ndarray
    """The user's row of each stored one, of all ranks."""
    offsets: np.ndarray

    @classmethod
    def of(cls, layout: RowLayout | None, numbers: list[np.ndarray] | None) -> _Given | None:
        if layout is None or numbers is None:
            return None
        return cls(np.concatenate(numbers), layout.offsets)

    def part(self, n: int, field: str) -> np.ndarray:
        """The rank of each of the user's rows."""
        if len(self.numbers) != n:
            raise InputError(
                f"is of {len(self.numbers)} rows, and the matrix has {n} there",
                field=field,
                remedy="Pass the layout of a matrix of as many",
            )
        part = np.empty(n, dtype=np.int32)
        part[self.numbers] = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return part

    def divided(self, block_size: int) -> InputError | None:
        """What to raise where it does not keep nodes of that size."""
        nodes = self.numbers.reshape(-1, block_size)
        first = nodes[:, :1]
        if (self.offsets % block_size).any() or (
            (first % block_size != 0) | (nodes != first + np.arange(block_size))
        ).any():
            return InputError(
                f"does not keep nodes of {block_size} rows together and in order",
                field="layout",
                remedy="Make the first matrix with the same block_size",
            )
        return None


def _check_alone(field: str, **others: Any) -> None:
    for name, other in others.items():
        if other is not None:
            raise InputError(
                f"already determines what {name} would", field=field, remedy=f"Leave {name} out"
            )


def _method_name(method: Any) -> str | None:
    """What of a partition ranks can differ in: rank 0's is taken."""
    return method if method is None or isinstance(method, str) else _NUMBERS


def _fingerprint(matrix: Any) -> str | None:
    """What tells a matrix from another, whatever its format; None where it is none. Local."""
    if not sp.issparse(matrix):
        return None
    try:
        csr = sp.csr_matrix(matrix, copy=True)
        csr.sum_duplicates()
    except Exception as error:  # damaged: where it is read, it is refused
        return f"a matrix that is none ({type(error).__name__})"
    arrays = csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    shape = " x ".join(map(str, csr.shape))
    return f"a {shape} matrix of {csr.nnz} entries ({digest(*arrays):x})"


def _compare(heard: list[tuple[str | None, str | None, bool]], matrix: Any, world: World) -> None:
    """Refuse what other ranks pass beside rank 0, which alone is read. **Collective.**

    Where rank 0 passes a matrix, or arrays, they may pass None.
    """
    for i, name in enumerate(("partition", "column_partition")):
        values = [said[i] for said in heard]
        others = set(values[1:]) - {values[0]}
        if values[0] == _NUMBERS:
            others -= {None}
        if others:
            raise difference("from_scipy", name, values, "Pass the same on every rank")
    if world.size == 1 or sum(has for *_, has in heard) + (len(heard) == 1) < 2:
        return
    # A hash of all entries is worth it only where there is something to compare.
    found = world.comm.allgather(_fingerprint(matrix))
    if set(found[1:]) - {found[0], None}:
        raise difference(
            "from_scipy",
            "matrix",
            found,
            "Pass None on all ranks but rank 0, which alone is read, or the same matrix",
        )


def _send_runs(array: np.ndarray | None, offsets: np.ndarray, world: World) -> np.ndarray:
    """Each rank's run of rank 0's int64 array. **Collective.**"""
    if world.rank == 0:
        assert array is not None
        for rank in range(1, world.size):
            world.comm.Send(
                np.ascontiguousarray(array[offsets[rank] : offsets[rank + 1]]), dest=rank
            )
        return array[: offsets[1]].copy()
    owned = np.empty(int(offsets[world.rank + 1] - offsets[world.rank]), dtype=np.int64)
    world.comm.Recv(owned, source=0)
    return owned


def _slab(
    whole: sp.csr_matrix, permutation: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    first, last = int(whole.indptr[start]), int(whole.indptr[stop])
    return (
        whole.indptr[start : stop + 1].astype(np.int64) - first,
        whole.indices[first:last].astype(np.int64),
        whole.data[first:last].copy(),
        permutation[start:stop].astype(np.int64),  # a copy: the layout keeps it, not the whole
    )


def _usable(matrix: Any) -> sp.csr_matrix:
    if not sp.issparse(matrix):
        raise InputError(
            f"from_scipy needs a SciPy sparse matrix on rank 0 and got {type(matrix).__name__}",
            field="matrix",
            remedy="Pass scipy.sparse.csr_array(matrix)",
        )
    whole = as_csr(matrix)
    if not np.isfinite(whole.data).all():
        raise InputError("the matrix has entries that are NaN or infinite", field="matrix")
    return whole


def _described(
    n: int, block_size: int, coordinates: Any, near_nullspace: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Points and near-nullspace of all rows, where there are any: float64 [n, d] and [n, m]."""
    points: np.ndarray | None = None
    if coordinates is not None:
        found = _numbers(coordinates, "coordinates")
        points = points_of_rows(found, n, block_size) if found.ndim == 2 else found
        points = _of_rows(points, n, "coordinates", "point")
    if near_nullspace is None:
        return points, None
    if isinstance(near_nullspace, str):
        return points, by_name(near_nullspace, n, block_size, points)
    return points, _of_rows(
        _numbers(near_nullspace, "near_nullspace"), n, "near_nullspace", "value of each vector"
    )


def _numbers(given: Any, field: str) -> np.ndarray:
    try:
        found = np.asarray(host_array(given), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"is not an array of numbers: {error}", field=field) from error
    return found[:, None] if found.ndim == 1 and field == "near_nullspace" else found


def _of_rows(found: np.ndarray, n: int, field: str, what: str) -> np.ndarray:
    if found.ndim != 2 or len(found) != n or not found.shape[1]:
        raise InputError(
            f"has shape {found.shape}, and one {what} for each of {n} rows is needed",
            field=field,
            remedy=f"Pass an array of shape ({n}, k)",
        )
    if not np.isfinite(found).all():
        raise InputError("holds NaN or Inf", field=field, remedy="Give finite numbers")
    return found


def _parts(
    whole: sp.csr_matrix,
    size: int,
    method: str | np.ndarray | None,
    points: np.ndarray | None,
    block_size: int,
) -> tuple[np.ndarray, InputError | None]:
    """The rank of each row, and what to raise where that divides nodes."""
    if method is None:
        method = "metis" if whole.shape[0] == whole.shape[1] else "contiguous"
    if isinstance(method, str):
        return partition(whole, size, method, points, block_size), None
    part = _given_parts(method, whole.shape[0], size, "partition")
    if (part == np.repeat(part[::block_size], block_size)).all():
        return part, None
    return part, InputError(
        f"divides nodes of {block_size} rows between ranks",
        field="partition",
        remedy="Give all rows of a node the same rank, or leave block_size out.",
    )


def _column_parts(
    whole: sp.csr_matrix, size: int, method: str | np.ndarray | None
) -> np.ndarray | None:
    """Parts of a rectangular matrix's columns; None for what goes without saying."""
    if method is None:
        return None
    _check_rectangular(whole.shape, "column_partition")
    if not isinstance(method, str):
        return _given_parts(method, whole.shape[1], size, "column_partition")
    if method not in ("majority", "contiguous"):
        raise InputError(
            f"there is no column partition {method!r}",
            field="column_partition",
            remedy="Choose majority or contiguous, or pass the rank of each column",
        )
    return contiguous(whole.shape[1], size) if method == "contiguous" else None


def _check_rectangular(shape: tuple[int, int], field: str) -> None:
    if shape[0] == shape[1]:
        raise InputError(
            "the columns of a square matrix are owned as its rows are",
            field=field,
            remedy="Leave it out",
        )


def _given_parts(given: np.ndarray, n: int, size: int, field: str) -> np.ndarray:
    part = np.asarray(host_array(given))
    if part.shape != (n,) or part.dtype.kind not in "iu":
        raise InputError(
            f"the partition has shape {part.shape} and type {part.dtype}; it needs {n} integers",
            field=field,
        )
    if part.size and (part.min() < 0 or part.max() >= size):
        raise InputError(
            f"the partition names ranks {part.min()} to {part.max()} of {size}", field=field
        )
    return part.astype(np.int32)
