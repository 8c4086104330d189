"""From a source to a partitioned matrix file by all ranks, none of which holds the whole.

What `hpc_sla.cli.prepare` does on one process. Everything is **Collective**.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpc_sla.cli.files import MANUFACTURED, NAMED_VECTORS, names_generator
from hpc_sla.cli.prepare import (
    check_columns_of,
    check_parts,
    check_points,
    check_size,
    check_square,
    vector_of_one,
)
from hpc_sla.cli.right_hand_sides import choose_rhs
from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import look_up
from hpc_sla.partition import PartitionQuality, check_block_size
from hpc_sla.partition.nodes import MOST, NodeRows, find
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.partition.parallel import partition_quality, partition_rows
from hpc_sla.partition.parallel.stored import stored_rows
from hpc_sla.partition.rigid_body import by_name
from hpc_sla.problems import make, rhs_ones
from hpc_sla.problems.base import exact_entries
from hpc_sla.storage.matrix_slabs import write_matrix_slabs
from hpc_sla.storage.parallel.local_rows import LocalRows, csr
from hpc_sla.storage.parallel.source import read_source_rows, read_vector_rows


@dataclass
class SourceRows:
    """Rows of a square matrix and what belongs to them, in the user's order. Per rank.

    Attributes
    ----------
    name : str
    rows : LocalRows
    coordinates, rhs, solutions, block_size, near_nullspace, found
        As of `hpc_sla.cli.prepare.Source`, of these rows.
    """

    name: str
    rows: LocalRows
    coordinates: np.ndarray | None = None
    rhs: dict[str, np.ndarray] = field(default_factory=dict)
    solutions: dict[str, np.ndarray] = field(default_factory=dict)
    block_size: int = 1
    near_nullspace: np.ndarray | None = None
    found: bool = False


def load_source_rows(
    peers: Peers,
    text: str,
    rhs: Sequence[str] = (),
    coordinates: str | None = None,
    block_size: int | None = None,
    near_nullspace: str | None = None,
) -> SourceRows:
    """What `load_source` reads or generates, each rank its own rows. **Collective.**"""
    read = _generate if names_generator(text) else _import
    source = read(peers, text, block_size, rhs)
    if block_size is not None:
        source.block_size, source.found = block_size, False
    if coordinates is not None:
        source.coordinates = _coordinates(peers, coordinates, source)
    if near_nullspace is not None:
        source.near_nullspace = _near_nullspace(peers, near_nullspace, source)
    rows, matrix = source.rows, source.rows.matrix
    first, last = rows.offsets[peers.rank : peers.rank + 2].tolist()
    source.rhs, source.solutions = choose_rhs(
        rhs,
        source.rhs,
        source.solutions,
        ones=lambda: rhs_ones(matrix),
        exact=lambda: exact_entries(first, last, matrix.dtype),
        times=lambda x: _times(peers, rows, x),
        read=lambda path: _read_columns(peers, path, rows, "--rhs"),
    )
    return source


def write_partitioned_rows(
    peers: Peers,
    source: SourceRows,
    output: str | os.PathLike[str],
    parts: int,
    method: str,
    attributes: Mapping[str, Any] | None = None,
) -> PartitionQuality:
    """What `write_partitioned` does, each rank with its own rows. **Collective.**"""
    rows, block = source.rows, source.block_size
    with peers.agree():
        check_parts(parts, rows.shape[0])
    part = partition_rows(
        peers.comm,
        rows.offsets,
        rows.matrix.indptr.astype(np.int64),
        rows.matrix.indices,
        parts,
        method,
        source.coordinates,
        block,
    )
    given: dict[str, np.ndarray | None] = {
        "coordinates": source.coordinates,
        "near_nullspace": source.near_nullspace,
        **{f"rhs/{name}": b for name, b in source.rhs.items()},
        **{f"solution/{name}": x for name, x in source.solutions.items()},
    }
    others = {name: array for name, array in given.items() if array is not None}
    # What is sent is not needed here any more.
    source.rhs, source.solutions = dict.fromkeys(source.rhs, _NOTHING), {}
    source.coordinates = None
    stored = stored_rows(peers, rows, part, parts, list(others.values()), block)
    arrays = dict(zip(others, stored.others, strict=True))
    write_matrix_slabs(
        peers,
        output,
        stored.offsets,
        stored.matrix,
        stored.part_offsets,
        stored.permutation,
        {name[4:]: b for name, b in arrays.items() if name.startswith("rhs/")},
        arrays.get("coordinates"),
        {
            "source": source.name,
            "partition_method": method,
            "block_size": block,
            **(attributes or {}),
        },
        {name[9:]: x for name, x in arrays.items() if name.startswith("solution/")},
        arrays.get("near_nullspace"),
    )
    own = np.arange(*stored.offsets[peers.rank : peers.rank + 2])
    part = np.searchsorted(stored.part_offsets, own, side="right") - 1
    arrays_of = stored.matrix.indptr, stored.matrix.indices
    return partition_quality(peers.comm, stored.offsets, *arrays_of, part, parts)


_NOTHING = np.empty(0)


def _cut(peers: Peers, n: int, block_size: int | None) -> np.ndarray:
    """Even runs of rows, of whole nodes, whatever number of unknowns these may turn out to have."""
    unit = block_size or math.lcm(*(b for b in range(1, MOST + 1) if n % b == 0))
    return even_offsets(n // unit, peers.size) * unit


def _generate(peers: Peers, text: str, asked: int | None, rhs: Sequence[str]) -> SourceRows:
    with peers.agree():
        problem = make(text)
        n = problem.n_rows
        check_size(text, n, peers.size)
        if asked is not None:
            check_block_size((n, n), asked, "--block-size")
        offsets = _cut(peers, n, asked or problem.block_size)
        first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
        rows = LocalRows(offsets, problem.rows(first, last))
        points = problem.coordinates(first, last)
    source = SourceRows(text, rows, points, block_size=problem.block_size)
    if MANUFACTURED in rhs or problem.default_rhs == MANUFACTURED:
        known = source.solutions[MANUFACTURED] = problem.solution(first, last)
        source.rhs[MANUFACTURED] = _times(peers, rows, known)
    return source


def _import(peers: Peers, text: str, asked: int | None, rhs: Sequence[str]) -> SourceRows:
    def cut(shape: tuple[int, int], said: int | None) -> np.ndarray:
        check_square(shape, text)
        if asked is not None:
            check_block_size(shape, asked, "--block-size")
        return _cut(peers, shape[0], asked or said)

    imported = read_source_rows(peers, text, cut)
    size, found = imported.block_size, False
    if asked is None and size is None:
        size, found = find(_node_rows(peers, imported.rows)), True
    return SourceRows(
        text,
        imported.rows,
        imported.coordinates,
        {name: vector_of_one(b) for name, b in imported.rhs_by_name.items()},
        {name: vector_of_one(x) for name, x in imported.solution_by_name.items()},
        size or 1,
        imported.near_nullspace,
        found,
    )


def _node_rows(peers: Peers, rows: LocalRows) -> NodeRows:
    """What nodes are looked for in. **Collective**, and so are its functions."""
    first, last = int(rows.offsets[peers.rank]), int(rows.offsets[peers.rank + 1])
    matrix = rows.matrix
    halo = np.unique(matrix.indices[(matrix.indices < first) | (matrix.indices >= last)])
    fetch = Fetch(peers, rows.offsets, halo)

    def extend(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64, copy=False)
        return np.concatenate([wide, fetch(wide)])

    def place(columns: np.ndarray) -> np.ndarray:
        outside = (columns < first) | (columns >= last)
        return np.where(outside, last - first + np.searchsorted(halo, columns), columns - first)

    arrays = matrix.indptr, matrix.indices, matrix.data
    return NodeRows(first, rows.shape[0], *arrays, extend, place, peers.sum, peers.any_bits)


def _times(peers: Peers, rows: LocalRows, x: np.ndarray) -> np.ndarray:
    """These rows times a vector `[n_local]`, or several, of which each rank has its part.

    Sums are taken as SciPy takes those of the whole matrix.
    """
    matrix = rows.matrix
    if x.ndim == 2:
        columns = [_times(peers, rows, np.ascontiguousarray(column)) for column in x.T]
        return np.stack(columns, axis=1)
    wide = x.astype(np.float64, copy=False)
    values = look_up(peers, rows.offsets, wide, matrix.indices).astype(x.dtype, copy=False)
    shape = (matrix.shape[0], matrix.nnz)
    each = np.arange(matrix.nnz, dtype=matrix.indices.dtype)
    product: np.ndarray = csr(matrix.data, each, matrix.indptr, shape) @ values
    return product


def _read_columns(peers: Peers, path: str, rows: LocalRows, option: str) -> np.ndarray:
    """This rank's rows of a vector, or of several as columns, out of a file. **Collective.**"""

    def cut(shape: tuple[int, ...]) -> np.ndarray:
        check_columns_of(shape, rows.shape[0], path, option)
        return rows.offsets

    return vector_of_one(read_vector_rows(peers, path, cut))


def _coordinates(peers: Peers, path: str, source: SourceRows) -> np.ndarray:
    """A point for each row, out of a file that has as many, or one for each node."""
    n, block, offsets = source.rows.shape[0], source.block_size, source.rows.offsets
    of_nodes = []

    def cut(shape: tuple[int, ...]) -> np.ndarray:
        check_points((*shape, 1)[:2], n, block, path)
        of_nodes.append(shape[0] != n)
        return offsets // block if shape[0] != n else offsets

    points = read_vector_rows(peers, path, cut)
    if points.ndim == 1:  # on a line
        points = points[:, None]
    return points.repeat(block, axis=0) if of_nodes[-1] else points


def _near_nullspace(peers: Peers, choice: str, source: SourceRows) -> np.ndarray:
    """Vectors of that name, or out of a file: ``[n_local, k]``."""
    if choice in NAMED_VECTORS:
        with peers.agree():
            owned = source.rows.matrix.shape[0]
            return by_name(choice, owned, source.block_size, source.coordinates, "--near-nullspace")
    found = _read_columns(peers, choice, source.rows, "--near-nullspace")
    return found[:, None] if found.ndim == 1 else found
