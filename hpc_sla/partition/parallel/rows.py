"""Part of every row, where rows lie on many ranks."""

from __future__ import annotations

from numbers import Integral
from typing import Any
from zlib import crc32

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import owners, send_records
from hpc_sla.partition.blocks import check_block_size
from hpc_sla.partition.parallel.geometric import boxes, hilbert, runs
from hpc_sla.partition.parallel.graph import of_pattern

METHODS = ("multilevel", "sfc", "rcb", "contiguous")
_BY_POINTS = ("sfc", "rcb")
_FINE = 2.0**20
"""What the mean weight becomes where weights are not whole numbers."""
_LARGEST = 2**61


def partition_rows(
    comm: Any,
    offsets: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    parts: int,
    method: str = "multilevel",
    coordinates: np.ndarray | None = None,
    block_size: int = 1,
    weights: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """Part of each of this rank's rows of a square matrix. **Collective.**

    No rank holds more than its rows and entries a few times, the transposed entries of its rows,
    and a number for each part and rank. The answer does not depend on who has which rows.

    Parameters
    ----------
    comm : mpi4py communicator
        Of the ranks; duplicated for the time of the call.
    offsets : int64 array [size + 1]
        Replicated: this rank has rows ``offsets[rank]:offsets[rank+1]`` in the user's order.
    indptr : int array [n_local + 1]
    indices : int array [nnz_local]
        Per rank: global columns. Only the pattern is looked at, and its transpose.
    parts : int
        Replicated, at least 1; any number. More parts than rows leave some empty.
    method : {"multilevel", "sfc", "rcb", "contiguous"}
        Replicated. "multilevel" cuts few entries: the graph is coarsened on all ranks, cut by
        METIS, and its parts are refined; none then weighs more than 1.03 of its share, or one row
        more than that. "sfc" cuts Hilbert's curve through the `coordinates` in pieces, "rcb"
        halves boxes of them (as `hpc_sla.partition.rcb.rcb` does, where weights and shares are
        equal), "contiguous" takes runs of rows; their parts weigh their shares up to a row.
    coordinates : float array [n_local, dimensions], optional
        Per rank: points of the rows, for "sfc" and "rcb".
    block_size : int
        Replicated: rows ``block_size * i`` and following are the unknowns of node i and go to one
        part; a node lies where its first row does. A rank may have part of a node.
    weights : array [n_local], optional
        Per rank, on all ranks or none: what each row costs, at least 0. Default: a node is as
        heavy as any other.
    shares : array [parts], optional
        Replicated: how much of the weight each part gets, relatively, at least 0. Default: equal.

    Returns
    -------
    int32 array [n_local]
        Values in ``[0, parts)``.

    Raises
    ------
    InputError
        On every rank: arguments that do not fit, missing or infinite coordinates, columns of a
        matrix that is not square.
    """
    with Peers(comm) as peers:
        n = int(offsets[-1])
        first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
        cost, points = None, None
        with peers.agree():
            _check(parts, method, indptr, indices, last - first, n)
            check_block_size((n, n), block_size)
            if method in _BY_POINTS:
                points = _points(coordinates, method, last - first)
            if weights is not None:
                cost = _numbers(weights, "weights", (last - first,))
            if shares is not None:
                share = _whole_shares(_numbers(shares, "shares", (parts,)))
            else:
                share = np.ones(parts, dtype=np.int64)
        _check_alike(peers, parts, METHODS.index(method), block_size, cost is not None, share)
        if points is not None:
            _check_dimensions(peers, points)
        used = np.flatnonzero(share)
        share = share[used]
        nodes = -(-np.asarray(offsets, dtype=np.int64) // block_size)
        sizes = _node_sizes(peers, nodes, first, last, cost, block_size)
        mine = int(nodes[peers.rank])
        if method == "multilevel" and 1 < len(share) < nodes[-1]:
            rows = (first + np.repeat(np.arange(last - first), np.diff(indptr))) // block_size
            columns = np.asarray(indices, dtype=np.int64) // block_size
            if block_size > 1 and len(rows):
                rows, columns = np.unique(np.stack([rows, columns]), axis=1)
            # Its compiled loops run on torch's threads; the others do without torch.
            from hpc_sla.partition.parallel.multilevel import multilevel

            part = multilevel(of_pattern(peers, nodes, rows, columns, sizes), share)
        elif points is not None:
            points = points[mine * block_size - first :: block_size][: len(sizes)]
            if method == "sfc":
                part = runs(peers, mine, sizes, share, hilbert(peers, points))
            else:
                part = boxes(peers, points, sizes, share)
        else:
            part = runs(peers, mine, sizes, share)
        part = used.astype(np.int32)[part]
        if block_size == 1:
            return part
        # The first rows may be of a node that lies on another rank.
        node_of_row = np.arange(first, last, dtype=np.int64) // block_size
        wanted, place = np.unique(node_of_row, return_inverse=True)
        return Fetch(peers, nodes, wanted)(part)[place]


def _check_alike(peers: Peers, *said: Any) -> None:
    """What decides which messages follow. **Collective.**"""
    numbers = [crc32(a.tobytes()) if isinstance(a, np.ndarray) else int(a) for a in said]
    mine = np.array(numbers, dtype=np.int64)
    ends = peers.max(np.concatenate([mine, -mine]))
    if (ends[: len(mine)] != -ends[len(mine) :]).any():
        raise InputError(
            "ranks differ in parts, method, block_size, shares, or in whether there are weights",
            field="partition_rows",
            remedy="Pass the same on every rank",
        )


def _node_sizes(
    peers: Peers,
    nodes: np.ndarray,
    first: int,
    last: int,
    cost: np.ndarray | None,
    block_size: int,
) -> np.ndarray:
    """What each of this rank's nodes weighs, int64. **Collective.**"""
    start, stop = int(nodes[peers.rank]), int(nodes[peers.rank + 1])
    if cost is None:
        return np.ones(stop - start, dtype=np.int64)
    sums = peers.sum(np.array([cost.sum(), float(len(cost)), (cost % 1).any()]))
    if not sums[0]:
        return np.ones(stop - start, dtype=np.int64)
    if sums[2] or sums[0] > _LARGEST:
        # By a power of two, which rounding of the sum does not change.
        cost = cost * 2.0 ** np.floor(np.log2(_FINE * sums[1] / sums[0]))
    whole = np.rint(cost).astype(np.int64)
    node_of_row = np.arange(first, last, dtype=np.int64) // block_size
    where, what = send_records(peers, owners(nodes, node_of_row), [node_of_row, whole])
    sizes = np.zeros(stop - start, dtype=np.int64)
    np.add.at(sizes, where - start, what)
    return sizes


def _check(
    parts: Any, method: str, indptr: np.ndarray, indices: np.ndarray, n_local: int, n: int
) -> None:
    if not isinstance(parts, Integral) or parts < 1:
        raise InputError(f"is {parts!r}", field="--parts", remedy="Give at least 1.")
    if method not in METHODS:
        raise InputError(
            f"there is no parallel partitioner {method!r}",
            field="--method",
            remedy=f"Choose one of {', '.join(METHODS)}.",
        )
    if len(indptr) != n_local + 1 or len(indices) != indptr[-1] - indptr[0]:
        raise InputError(
            f"{len(indptr)} ends and {len(indices)} columns are not those of {n_local} rows",
            field="indptr",
        )
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        raise InputError(
            f"has columns {indices.min()} to {indices.max()}, and {n} rows",
            field="indices",
            remedy="Rows of square matrices can be partitioned in parallel; of a rectangular one "
            "on one process, without mpiexec.",
        )


def _points(coordinates: Any, method: str, n_local: int) -> np.ndarray:
    if coordinates is None:
        raise InputError(
            f"{method} needs the rows' coordinates",
            field="--coordinates",
            remedy="Give them with --coordinates C.npy, or use --method multilevel.",
        )
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 2 or len(points) != n_local or not points.shape[1]:
        raise InputError(
            f"has shape {points.shape}, and one point for each of {n_local} rows is needed",
            field="coordinates",
            remedy=f"Give an array of shape ({n_local}, dimensions).",
        )
    if not np.isfinite(points).all():
        raise InputError("holds NaN or Inf", field="coordinates", remedy="Give finite points.")
    return points


def _check_dimensions(peers: Peers, points: np.ndarray) -> None:
    d = points.shape[1]
    ends = peers.max(np.array([d, -d], dtype=np.int64))
    if ends[0] != -ends[1]:
        raise InputError(
            f"has {-ends[1]} dimensions on one rank and {ends[0]} on another", field="coordinates"
        )


def _numbers(given: Any, field: str, shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(given, dtype=np.float64)
    if found.shape != shape:
        raise InputError(f"has shape {found.shape}, and {shape} is needed", field=field)
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise InputError("holds what is negative, NaN or Inf", field=field)
    return found


def _whole_shares(shares: np.ndarray) -> np.ndarray:
    """Whole numbers in the same relation, up to a millionth of the largest: int64 [parts]."""
    if not shares.sum():
        raise InputError("are all 0", field="shares", remedy="Give a positive one")
    whole = shares if not (shares % 1).any() and shares.sum() < 2**30 else None
    if whole is None:
        whole = np.rint(shares * (2**30 / shares.sum()))
    return np.asarray(whole, dtype=np.int64)
