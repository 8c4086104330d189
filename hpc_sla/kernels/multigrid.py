"""Rank-local loops of a multigrid set-up, on the host: in C (`multigrid.c`), else by libraries.

A matrix in two parts is that of this rank's columns, as compiled loops take it (`Matrix`) or as
SciPy's CSR, and `there`, that of others' columns: CSR with all rows, or None. All indices are
int32; the parts have one dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels import native
from hpc_sla.kernels.matrix import CSR, Matrix
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.tiles import Tiles

Local: TypeAlias = "Matrix | Packed | sp.csr_matrix"


def local_matrix(matrix: sp.csr_matrix) -> Matrix:
    """SciPy's CSR as compiled loops take it, on the same memory. Local."""
    arrays = matrix.indptr, matrix.indices, matrix.data
    n, m = matrix.shape
    return Matrix(CSR, n, m, matrix.nnz, [torch.from_numpy(a) for a in arrays])


def aggregate(graph: Local, root: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """Aggregates of a rank's nodes. Local.

    Vanek, Mandel and Brezina, Computing 56 (1996), algorithm 5.1, on the connections with
    `|a_ij| > threshold root_i root_j`.

    Where C is compiled a root of five to eight neighbours, no two of them connected, as on a grid
    in space, takes free nodes besides that are connected to two of them: 15 to 17 nodes in place
    of 8, for a next level of a quarter of the entries and an iteration or two more.

    Returns
    -------
    int32 array [n]
        The aggregate of each node, -1 for one without a strong neighbour.
    int
        How many there are.
    """
    n = len(root)
    group = np.full(n, -1, dtype=np.int32)
    if n == 0:
        return group, 0
    if native.LIBRARY is None:
        return _aggregate_pyamg(as_csr(graph), root, threshold)
    matrix, dtype = compiled(graph)
    numbers = root.astype(dtype, copy=False), np.array([threshold], dtype=dtype)
    count = call("aggregate", dtype, n, matrix, *numbers, *rooms(matrix, dtype), group)
    return group, count


def _aggregate_pyamg(
    graph: sp.csr_matrix, root: np.ndarray, threshold: float
) -> tuple[np.ndarray, int]:
    try:
        from pyamg import amg_core  # optional
    except ImportError as error:
        raise InputError(
            "multigrid needs the compiled kernels, or pyamg in their place",
            field="precond",
            remedy="Install hpc_sla where there is a C compiler, or `pip install pyamg`",
        ) from error
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    keep = np.abs(graph.data) > threshold * root[rows] * root[graph.indices]
    keep &= (rows != graph.indices) & (graph.data != 0)
    indptr = np.concatenate([[0], np.cumsum(keep)])[graph.indptr].astype(np.int32)
    group, roots = np.full(len(root), -1, np.int32), np.empty(len(root), np.int32)
    count = amg_core.standard_aggregation(len(root), indptr, graph.indices[keep], group, roots)
    return group, int(count)


def condense(A: Local, high: int) -> sp.csr_matrix:
    """The Frobenius norms of a square matrix's blocks of `high` by `high`. Local."""
    if native.LIBRARY is None:
        A = as_csr(A)
        rows = np.repeat(np.arange(A.shape[0]) // high, np.diff(A.indptr))
        squares = A.data.astype(np.float64) ** 2, (rows, A.indices // high)
        result = sp.coo_matrix(squares, shape=tuple(n // high for n in A.shape)).tocsr()
        result.data = np.sqrt(result.data)
        return result
    matrix, dtype = compiled(A)
    nodes = matrix.rows // high
    indptr = np.zeros(nodes + 1, dtype=np.int32)
    work = (*row_room(nodes, 1), *rooms(matrix, dtype), indptr)
    capacity = matrix.entries // high**2 + nodes

    def step(begin: int, room: int, *out: np.ndarray) -> int:
        return call("condense", dtype, nodes, begin, room, high, matrix, *work, *out)

    kinds = [((), np.dtype(np.int32)), ((), dtype)]
    indices, values = _filled(step, nodes, indptr, capacity, kinds)
    return plain(values, indices, indptr, nodes)


def moments(
    A: Local,
    there: sp.csr_matrix | None,
    first: int,
    last: int,
    high: int,
    points: np.ndarray,
    far: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Sums of the entries of some rows by component, times distances, and of their sizes. Local.

    Parameters
    ----------
    A, there : Matrix or csr_matrix, csr_matrix or None
    first, last : int
        The rows.
    high : int
        Components: column j is of component `j % high`.
    points : float64 array [n, d]
        Of rows and owned columns.
    far : (float64 array [., d], int32 array)
        Points and components of the other columns.

    Returns
    -------
    float64 array [2, last - first, high, 1 + d]
        Sums of a_ij and of each coordinate of `a_ij (x_j - x_i)`; and of their moduli.
    """
    n, d = last - first, points.shape[1]
    result = np.empty((2, n, high, 1 + d))
    if native.LIBRARY is not None:
        matrix, dtype = compiled(A)
        inputs = (matrix, None if there is None else local_matrix(there), points, *far)
        rest = (*rooms(matrix, dtype), *result)
        call("moments", dtype, n, first, high, d, *inputs, *rest)
        return result
    A = as_csr(A)
    parts = [A[first:last].tocoo()] + ([] if there is None else [there[first:last].tocoo()])
    where = [(points, np.arange(A.shape[1]) % high), far]
    terms, places = [], []
    for part, (x, component) in zip(parts, where, strict=False):
        away = x[part.col] - points[first + part.row]
        terms.append(part.data[:, None] * np.column_stack([np.ones(len(away)), away]))
        places.append(part.row * high + component[part.col])
    place, term = np.concatenate(places), np.concatenate(terms)
    for found, numbers in zip(result, (term, np.abs(term)), strict=True):
        for k in range(1 + d):
            found[:, :, k] = np.bincount(place, numbers[:, k], n * high).reshape(n, high)
    return result


def prolongator(
    A: Local,
    there: sp.csr_matrix | None,
    inverse: np.ndarray,
    damping: float,
    here: tuple[np.ndarray, np.ndarray | None],
    away: tuple[np.ndarray, np.ndarray | None],
    columns: int,
    tile: tuple[int, int],
    small: float,
    dtype: np.dtype,
) -> Tiles:
    """`(I - damping diag(inverse) A) T`. Local.

    Parameters
    ----------
    A, there : Matrix or csr_matrix, csr_matrix or None
    inverse : array [n]
        Of A's dtype.
    damping : float
    here, away : (int32 array, float64 array [., wide] or None)
        The column of tiles of each row of T, -1 for none, and its entries there (ones), at A's
        owned and halo columns.
    columns : int
        Of tiles.
    tile : (int, int)
        Rows and columns of a tile: `high`, `wide`.
    small : float
        Where tiles are single entries, those below this part of their row's largest are dropped,
        and the rest scaled so that the row's sum stays.
    dtype : numpy.dtype
        Of the result.
    """
    n, (high, wide) = len(inverse), tile
    if native.LIBRARY is None:
        A = as_csr(A)
        T, T_there = (_tentative(*part, columns, wide) for part in (here, away))
        product = A @ T if there is None else A @ T + there @ T_there
        P = sp.csr_matrix(T - sp.diags_array(damping * inverse) @ product)
        P = _truncated(P, small) if wide == 1 else P
        P.sort_indices()
        return Tiles.of(plain(P.data.astype(dtype), P.indices, P.indptr, P.shape[1]))
    matrix, of_a = compiled(A)
    nodes = n // high
    indptr = np.zeros(nodes + 1, dtype=np.int32)
    numbers = np.array([damping, small])
    of_T = (numbers, *here, *away)
    work = (*row_room(columns, high * wide), *rooms(matrix, of_a), indptr)
    others = None if there is None else local_matrix(there)
    capacity = (matrix.entries + (0 if there is None else there.nnz)) // high**2 + 2 * nodes

    def step(begin: int, room: int, *out: np.ndarray) -> int:
        sizes = (begin, room, high, wide)
        name = f"prolongator_{np.dtype(dtype)}"
        return call(name, of_a, nodes, *sizes, matrix, others, inverse, *of_T, *work, *out)

    kinds = [((), np.dtype(np.int32)), (tile, np.dtype(dtype))]
    indices, values = _filled(step, nodes, indptr, capacity, kinds)
    return Tiles(indptr, indices, values, columns)


def _truncated(P: sp.csr_matrix, small: float) -> sp.csr_matrix:
    if P.nnz == 0:  # of nothing SciPy gives no maximum
        return P
    size = abs(P)
    largest = size.max(axis=1).toarray().ravel()
    rows = np.repeat(np.arange(P.shape[0]), np.diff(P.indptr))
    sums = np.asarray(P.sum(axis=1)).ravel()
    P.data[size.data < small * largest[rows]] = 0
    kept = np.asarray(P.sum(axis=1)).ravel()
    P.data *= np.divide(sums, kept, out=np.ones_like(kept), where=kept != 0)[rows]
    P.eliminate_zeros()
    return P


def _tentative(
    column: np.ndarray, values: np.ndarray | None, columns: int, wide: int
) -> sp.csr_matrix:
    """T by single entries."""
    inside = column >= 0
    entries = np.ones((len(column), wide)) if values is None else values.reshape(-1, wide)
    indices = column[inside][:, None] * wide + np.arange(wide)
    indptr = np.concatenate([[0], wide * np.cumsum(inside)])
    arrays = entries[inside].ravel(), indices.ravel(), indptr
    return sp.csr_matrix(arrays, shape=(len(column), columns * wide))


def row_room(columns: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Room to sum up a row of tiles in: places, columns, their order, tiles."""
    # Memory that is never written to is never there, so that there is room for any row.
    lists = np.empty(columns, np.int32), np.empty(columns, np.int32)
    return np.zeros(columns, np.int32), *lists, np.empty(columns * size)


def rooms(matrix: Matrix, dtype: np.dtype) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Room for a row of a matrix that is not stored plainly."""
    if matrix.form == CSR:
        return None, None
    return np.empty(matrix.columns, np.int32), np.empty(matrix.columns, dtype)


def _filled(
    step: Callable[..., int],
    rows: int,
    indptr: np.ndarray,
    capacity: int,
    kinds: Sequence[tuple[tuple[int, ...], np.dtype]],
) -> list[np.ndarray]:
    """Arrays that `step(begin, capacity, *arrays)` fills up to some row, as long as it must be."""
    parts, done = [room_for(capacity, *kind) for kind in kinds], 0
    while (done := step(done, capacity, *parts)) < rows:
        parts = [np.concatenate([a, np.empty_like(a)]) for a in parts]
        capacity *= 2
    return [fitted(part, int(indptr[-1])) for part in parts]


def room_for(count: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.empty((count, *shape), dtype=dtype)


def fitted(array: np.ndarray, count: int) -> np.ndarray:
    """The first entries, where they are; the rest of the memory is given back. Not of a view."""
    array.resize((count, *array.shape[1:]), refcheck=False)
    return array


def as_csr(A: Local) -> sp.csr_matrix:
    """As it comes where nothing is compiled."""
    assert not isinstance(A, Matrix | Packed)
    return A


def compiled(A: Local) -> tuple[Matrix, np.dtype]:
    """As compiled loops take it, and the dtype of its values."""
    if isinstance(A, Packed):
        A = A.matrix
    matrix = A if isinstance(A, Matrix) else local_matrix(A)
    floats = next(t for t in matrix.tensors if t.is_floating_point())
    return matrix, np.dtype(str(floats.dtype).removeprefix("torch."))


def plain(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, columns: int) -> sp.csr_matrix:
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, columns), copy=False)


def call(function: str, dtype: np.dtype, rows: int, *arguments: Any) -> int:
    """Call a loop for matrices of a dtype: integers, matrices, contiguous arrays, None."""
    passed: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Matrix):
            argument = argument.address
        elif isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            argument = argument.ctypes.data
        passed.append(argument)
    like = torch.empty(0, dtype=getattr(torch, str(dtype)), device="cpu")
    return native.call(function, like, rows, *passed) or 0
