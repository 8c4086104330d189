"""Rank-local loops of a multigrid set-up, on the host: in C (`multigrid.c`), else by libraries.

Matrices are SciPy's CSR with int32 indices; those of one call have one dtype. A matrix in two
parts is `owned` and `halo`, the columns of this rank and those of others, each with all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels import native


def aggregate(graph: sp.csr_matrix, root: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """Aggregates of a rank's nodes. Local.

    Vanek, Mandel and Brezina, Computing 56 (1996), algorithm 5.1, on the connections with
    `|a_ij| > threshold root_i root_j`.

    Returns
    -------
    int32 array [n]
        The aggregate of each node, -1 for one without a strong neighbour.
    int
        How many there are.
    """
    n = graph.shape[0]
    group = np.full(n, -1, dtype=np.int32)
    if n == 0:
        return group, 0
    if native.LIBRARY is None:
        return _aggregate_pyamg(graph, root, threshold)
    count = _call("aggregate", n, *_arrays(graph), root, np.array([threshold]), group)
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


def prolongator(
    owned: sp.csr_matrix,
    halo: sp.csr_matrix,
    damped: np.ndarray,
    here: tuple[np.ndarray, np.ndarray],
    there: tuple[np.ndarray, np.ndarray],
    columns: int,
    small: float,
) -> sp.csr_matrix:
    """`(I - diag(damped) A) T`, without its smallest entries. Local.

    Parameters
    ----------
    owned, halo : csr_matrix
        A.
    damped : array [n]
    here, there : (int32 array, array)
        Column and value of the one entry in each row of T, at A's owned and halo columns; a
        column of -1 is none.
    columns : int
        Of the result.
    small : float
        Entries below this part of their row's largest are dropped, and the rest scaled so that
        the row's sum stays.
    """
    n = owned.shape[0]
    if native.LIBRARY is None:
        return _prolongator_scipy(owned, halo, damped, here, there, columns, small)
    # Memory that is never written to is never there: the bound on the entries may be loose.
    capacity = owned.nnz + halo.nnz + n
    indptr = np.empty(n + 1, dtype=np.int32)
    indices, values = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=owned.dtype)
    place = np.full(columns, -1, dtype=np.int32)
    used = _call(
        "prolongator",
        n,
        *_arrays(owned),
        *_arrays(halo),
        damped,
        np.array([small]),
        *here,
        *there,
        place,
        indptr,
        indices,
        values,
    )
    return _matrix(values[:used], indices[:used], indptr, columns)


def _prolongator_scipy(
    owned: sp.csr_matrix,
    halo: sp.csr_matrix,
    damped: np.ndarray,
    here: tuple[np.ndarray, np.ndarray],
    there: tuple[np.ndarray, np.ndarray],
    columns: int,
    small: float,
) -> sp.csr_matrix:
    T_here, T_there = (_single_entry_rows(*part, columns) for part in (here, there))
    P = (T_here - sp.diags(damped) @ (owned @ T_here + halo @ T_there)).tocsr()
    if P.nnz == 0:  # of nothing SciPy gives no maximum
        return _matrix(P.data, P.indices, P.indptr, columns)
    size = abs(P)
    largest = size.max(axis=1).toarray().ravel()
    rows = np.repeat(np.arange(P.shape[0]), np.diff(P.indptr))
    sums = np.asarray(P.sum(axis=1)).ravel()
    P.data[size.data < small * largest[rows]] = 0
    kept = np.asarray(P.sum(axis=1)).ravel()
    P.data *= np.divide(sums, kept, out=np.ones_like(kept), where=kept != 0)[rows]
    P.eliminate_zeros()
    P.sort_indices()
    return _matrix(P.data, P.indices, P.indptr, columns)


def _single_entry_rows(column: np.ndarray, value: np.ndarray, columns: int) -> sp.csr_matrix:
    inside = column >= 0
    indptr = np.concatenate([[0], np.cumsum(inside)])
    return sp.csr_matrix((value[inside], column[inside], indptr), shape=(len(column), columns))


def triple_product(
    transposed: sp.csr_matrix,
    owned: sp.csr_matrix,
    halo: sp.csr_matrix,
    P: sp.csr_matrix,
    P_there: sp.csr_matrix,
    columns: int,
) -> sp.csr_matrix:
    """`P^T A P`, columns ascending in each row. Local.

    Parameters
    ----------
    transposed : csr_matrix
        P^T.
    owned, halo : csr_matrix
        A.
    P, P_there : csr_matrix
        P's rows at A's owned and halo columns.
    columns : int
        Of the result.
    """
    n = transposed.shape[0]
    if native.LIBRARY is None:
        product = transposed @ (_widened(owned @ P, columns) + _widened(halo @ P_there, columns))
        product.sort_indices()
        return _matrix(product.data, product.indices, product.indptr, columns)
    indptr = np.zeros(n + 1, dtype=np.int32)
    capacity = 2 * (owned.nnz + halo.nnz) + 64
    # The loop works in the dtype of its first array: P's may be wider than A's.
    dtype = transposed.dtype
    indices, values = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=dtype)
    m, done = owned.shape[1], 0
    everything = m + halo.shape[1]
    # Memory that is never written to is never there, so that there is room for any row.
    row = (np.zeros(everything, np.int32), np.empty(everything, np.int32))
    row_values = np.empty(everything, dtype=dtype)
    while True:
        matrices = (transposed, owned, halo, P, P_there)
        arrays = [array for matrix in matrices for array in _arrays(matrix)]
        place = np.full(columns, -1, dtype=np.int32)
        work = (*row, row_values, place, indptr, indices, values)
        done = _call("triple", n, done, capacity, m, *arrays, *work)
        if done == n:
            used = indptr[n]
            return _matrix(values[:used], indices[:used], indptr, columns)
        capacity *= 2
        indices, values = (np.concatenate([a, np.empty_like(a)]) for a in (indices, values))


def triple_values(
    transposed: sp.csr_matrix,
    owned: sp.csr_matrix,
    halo: sp.csr_matrix,
    P: sp.csr_matrix,
    P_there: sp.csr_matrix,
    columns: int,
    known: tuple[np.ndarray, np.ndarray],
    known_halo: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The values of `P^T A P` at known entries, which are all it can have. Local; compiled only.

    Parameters
    ----------
    transposed, owned, halo, P, P_there, columns
        As `triple_product` takes them.
    known, known_halo : (int32 array [n + 1], int32 array)
        The product's entries in two parts: `indptr` over all rows, and columns.

    Returns
    -------
    array
        Of the first part, then of the second.
    """
    n = transposed.shape[0]
    m = owned.shape[1]
    everything = m + halo.shape[1]
    dtype = transposed.dtype
    out = np.empty(len(known[1]) + len(known_halo[1]), dtype=dtype)
    matrices = (transposed, owned, halo, P, P_there)
    arrays = [array for matrix in matrices for array in _arrays(matrix)]
    row = (np.zeros(everything, np.int32), np.empty(everything, np.int32))
    row_values, place = np.empty(everything, dtype=dtype), np.empty(columns, dtype=np.int32)
    work = (*row, row_values, place, *known, *known_halo, out)
    _call("triple_values", n, m, *arrays, *work)
    return out


def split(rows: sp.csr_matrix, m: int) -> tuple[sp.csr_matrix, np.ndarray, sp.csr_matrix]:
    """The first m columns of a matrix, and the others of those rows that have them. Local.

    Returns
    -------
    csr_matrix [n, m]
    int32 array
        The rows with an entry in the other columns.
    csr_matrix [boundary, others]
    """
    n, others = rows.shape[0], rows.shape[1] - m
    away = int(np.count_nonzero(rows.indices >= m)) if others else 0
    if away == 0:
        nothing = np.empty(0, dtype=rows.dtype), np.empty(0, np.int32), np.zeros(1, np.int32)
        owned = _matrix(rows.data, rows.indices, rows.indptr, m)
        return owned, np.empty(0, np.int32), _matrix(*nothing, others)
    if native.LIBRARY is None:
        boundary = np.flatnonzero(np.diff(rows[:, m:].indptr)).astype(np.int32)
        return rows[:, :m], boundary, rows[boundary][:, m:]
    owned_parts = _room(n, rows.nnz - away, rows.dtype)
    halo_parts = _room(n, away, rows.dtype)
    boundary = np.empty(n, dtype=np.int32)
    count = _call("split", n, m, *_arrays(rows), *owned_parts, boundary, *halo_parts)
    indptr, indices, values = halo_parts
    halo = _matrix(values, indices, indptr[: count + 1].copy(), others)
    indptr, indices, values = owned_parts
    return _matrix(values, indices, indptr, m), boundary[:count].copy(), halo


def _room(n: int, nnz: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(n + 1, np.int32), np.empty(nnz, np.int32), np.empty(nnz, dtype=dtype)


def _widened(matrix: sp.csr_matrix, columns: int) -> sp.csr_matrix:
    return _matrix(matrix.data, matrix.indices, matrix.indptr, columns)


def _matrix(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, columns: int
) -> sp.csr_matrix:
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, columns), copy=False)


def _arrays(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.indptr, matrix.indices, matrix.data


def _call(function: str, rows: int, *arguments: Any) -> int:
    floats = [a for a in arguments if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    dtype = floats[0].dtype
    tensors = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            kind = dtype if argument.dtype.kind == "f" else np.int32
            argument = torch.from_numpy(np.ascontiguousarray(argument, dtype=kind))
        tensors.append(argument)
    like = torch.empty(0, dtype=torch.from_numpy(np.empty(0, dtype=dtype)).dtype, device="cpu")
    result = native.call(function, like, rows, *tensors)
    assert result is not None
    return result
