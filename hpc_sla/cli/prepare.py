"""From a source (a file of any kind, or a generator) to a partitioned matrix file. Serial."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpc_sla.cli.files import (
    MANUFACTURED,
    NAMED_VECTORS,
    made_name,
    names_generator,
)
from hpc_sla.cli.right_hand_sides import choose_rhs
from hpc_sla.errors import InputError
from hpc_sla.messages.alone import Alone
from hpc_sla.partition import (
    PartitionQuality,
    check_block_size,
    partition,
    quality,
    reorder,
    stored_order,
)
from hpc_sla.partition.blocks import points_of_rows
from hpc_sla.partition.nodes import block_size_of
from hpc_sla.partition.parallel import partition_rows
from hpc_sla.partition.rigid_body import by_name
from hpc_sla.problems import make, rhs_ones
from hpc_sla.problems.base import exact_entries
from hpc_sla.storage.checks import check_columns_there
from hpc_sla.storage.importers import read_source, read_vector
from hpc_sla.storage.limits import machine_memory
from hpc_sla.storage.matrix_writer import write_matrix

TOGETHER = ("sfc", "multilevel")
"""Methods that are made for many ranks; on one they cut what the others do."""


@dataclass
class Source:
    """A whole matrix and what belongs to it, in the user's order.

    Attributes
    ----------
    name : str
        The file or generator it came from, as the user wrote it.
    matrix : SciPy CSR array [m, n]
    coordinates : float array [m, dimensions] or None
    rhs : dict of name to array [m] or [m, k]
        Right-hand sides.
    solutions : dict of name to array [n] or [n, k]
        The known solutions of some of them.
    block_size : int
        Consecutive rows that are the unknowns of one node; partitions keep them together.
    near_nullspace : float array [m, k] or None
        What the matrix hardly changes.
    found : bool
        Whether the block size was found in the matrix.
    """

    name: str
    matrix: Any
    coordinates: np.ndarray | None = None
    rhs: dict[str, np.ndarray] = field(default_factory=dict)
    solutions: dict[str, np.ndarray] = field(default_factory=dict)
    block_size: int = 1
    near_nullspace: np.ndarray | None = None
    found: bool = False


def load_source(
    text: str,
    rhs: Sequence[str] = (),
    coordinates: str | os.PathLike[str] | None = None,
    block_size: int | None = None,
    near_nullspace: str | None = None,
) -> Source:
    """Read or generate the matrix `text` names, with the right-hand sides asked for.

    Parameters
    ----------
    text : str
        A matrix file of any kind that `read_source` knows, or a generator.
    rhs : sequence of str
        Each one a vector file (.npy, .mtx), ``ones``, or ``manufactured``: A times a known
        solution. Default: those that came with the source, else ``ones``. A generator comes
        with ``manufactured`` where ones have no solution or none that rounding can reach.
    coordinates : path, optional
        Points of the rows or of their nodes (.npy, [m or m / block_size, dimensions]), in place
        of those of the source.
    block_size : int, optional
        In place of that of the source, which is what is found in the matrix if it does not say.
    near_nullspace : str, optional
        A file of vectors (.npy, .mtx, [m] or [m, k]), "constants" or "rigid_body".
    """
    source = _generate(text, rhs) if names_generator(text) else _import(text, block_size is None)
    if block_size is not None:
        check_block_size(source.matrix.shape, block_size, "--block-size")
        source.block_size, source.found = block_size, False
    if coordinates is not None:
        source.coordinates = _coordinates(coordinates, source.matrix.shape[0], source.block_size)
    if near_nullspace is not None:
        source.near_nullspace = _near_nullspace(near_nullspace, source)
    matrix = source.matrix
    source.rhs, source.solutions = choose_rhs(
        rhs,
        source.rhs,
        source.solutions,
        ones=lambda: rhs_ones(matrix),
        exact=lambda: exact_entries(0, matrix.shape[1], matrix.dtype),
        times=lambda x: matrix @ x,
        read=lambda path: read_columns(path, matrix.shape[0], "--rhs"),
    )
    return source


def check_size(spec: str, rows: int, ranks: int) -> None:
    """Refuse a generator's problem of which a rank's share does not fit into memory."""
    # A row takes no less: its pointer, an entry, a value of x and one of b.
    if 36 * rows // ranks > machine_memory():
        raise InputError(
            f"has {rows} rows, which do not fit into memory on {ranks} rank(s)",
            field=spec,
            remedy="Give a smaller n.",
        )


def check_parts(parts: int, rows: int) -> None:
    """Refuse more parts than rows: they would be empty, and a partitioner takes long over them."""
    if parts > max(rows, 1):
        raise InputError(
            f"is {parts}, more than the {rows} row(s) of the matrix",
            field="--parts",
            remedy=f"Give at most {max(rows, 1)}: any number of ranks opens the file",
        )


def write_partitioned(
    source: Source,
    output: str | os.PathLike[str],
    parts: int,
    method: str,
    attributes: Mapping[str, Any] | None = None,
) -> PartitionQuality:
    """Partition `source`, write the matrix file `output`, and judge the partition.

    `attributes` are stored besides where the matrix came from.
    """
    block = source.block_size
    if method in TOGETHER:
        part = _part_together(source, parts, method)
    else:
        part = partition(source.matrix, parts, method, source.coordinates, block)
    order = stored_order(source.matrix, part, parts, block_size=block)
    rows = columns = order.permutation
    if order.column_permutation is not None:
        columns = order.column_permutation
    matrix = reorder(source.matrix, rows, columns)
    points, vectors = source.coordinates, source.near_nullspace
    square = matrix.shape[0] == matrix.shape[1]
    write_matrix(
        output,
        matrix,
        order.part_offsets,
        rows,
        {name: values[rows] for name, values in source.rhs.items()},
        coordinates=None if points is None else points[rows],
        attributes={
            "source": source.name,
            "partition_method": method,
            **({"block_size": block} if square else {}),
            **(attributes or {}),
        },
        solutions={name: values[columns] for name, values in source.solutions.items()},
        column_part_offsets=order.column_part_offsets,
        column_permutation=order.column_permutation,
        near_nullspace=None if vectors is None else vectors[rows],
    )
    return quality(matrix, order.part_offsets, order.column_part_offsets)


def _part_together(source: Source, parts: int, method: str) -> np.ndarray:
    """By a method of many ranks, on one."""
    matrix = source.matrix
    check_square(matrix.shape, source.name, method)
    offsets = np.array([0, matrix.shape[0]], dtype=np.int64)
    return partition_rows(
        Alone(),
        offsets,
        np.asarray(matrix.indptr, dtype=np.int64),
        matrix.indices,
        parts,
        method,
        source.coordinates,
        source.block_size,
    )


def check_square(shape: tuple[int, int], name: str, method: str | None = None) -> None:
    """Refuse what only one process, with its own methods, can cut."""
    if shape[0] != shape[1]:
        what = "several ranks" if method is None else f"--method {method}"
        raise InputError(
            f"is a {shape[0]} x {shape[1]} matrix, and {what} can partition square ones only",
            file=name,
            remedy="Run partition as one process, without mpiexec, with --method metis",
        )


def make_problem(spec: str, ranks: int) -> str:
    """Partition a generator's problem into as many parts as ranks; return the file's name."""
    path = made_name(spec, ranks)
    write_partitioned(load_source(spec), path, ranks, "metis")
    return path


def _generate(text: str, rhs: Sequence[str]) -> Source:
    problem = make(text)
    n = problem.n_rows
    check_size(text, n, 1)
    matrix, points = problem.matrix(), problem.coordinates(0, n)
    source = Source(text, matrix, points, block_size=problem.block_size)
    if MANUFACTURED in rhs or problem.default_rhs == MANUFACTURED:
        known = source.solutions[MANUFACTURED] = problem.solution(0, n)
        source.rhs[MANUFACTURED] = matrix @ known
    return source


def _import(text: str, look: bool) -> Source:
    """A file's matrix; what it does not say of nodes is found, if that is asked for."""
    imported = read_source(text)
    size = imported.block_size
    found = look and size is None
    if found:
        size = block_size_of(imported.matrix)
    return Source(
        text,
        imported.matrix,
        imported.coordinates,
        {name: vector_of_one(b) for name, b in imported.rhs_by_name.items()},
        {name: vector_of_one(x) for name, x in imported.solution_by_name.items()},
        size or 1,
        imported.near_nullspace,
        found,
    )


def vector_of_one(values: np.ndarray) -> np.ndarray:
    """One column as a vector; others as they are."""
    return values[:, 0] if values.shape[1:] == (1,) else values


def read_columns(path: str, n: int, option: str) -> np.ndarray:
    """A vector `[n]` or several as columns `[n, k]` out of a file; one column is a vector."""
    values: np.ndarray = read_vector(path)
    check_columns_of(values.shape, n, path, option)
    return vector_of_one(values)


def check_columns_of(shape: tuple[int, ...], n: int, path: str, option: str) -> None:
    """Refuse an array that is neither a vector `[n]` nor several as columns `[n, k]`."""
    if shape[0] == n and (not n or 0 not in shape):
        return
    if shape[0] == n:
        problem, remedy = f"has shape {shape}: no column", "Give one or more."
    elif shape[1:] == (n,):
        problem = f"has shape {shape}: rows where columns are needed"
        remedy = f"Transpose it, to {shape[::-1]}."
    else:
        problem = f"has shape {shape} where the matrix has {n} rows"
        remedy = f"Give an array of shape ({n},), or ({n}, k) for several at once."
    raise InputError(problem, file=path, field=option, remedy=remedy)


def _coordinates(path: str | os.PathLike[str], n: int, block_size: int) -> np.ndarray:
    """A point for each row, out of a file that has as many, or one for each node."""
    points = np.asarray(read_vector(path))
    if points.ndim == 1:  # on a line
        points = points[:, None]
    check_points(points.shape, n, block_size, path)
    return points_of_rows(points, n, block_size)


def check_points(
    shape: tuple[int, ...], n: int, block_size: int, path: str | os.PathLike[str]
) -> None:
    """Refuse points `[rows, dimensions]` that are neither one a row nor one a node."""
    check_columns_there(shape, os.fspath(path), "--coordinates")
    if shape[0] in (n, n / block_size):
        return
    shapes = f"({n}, dimensions)"
    if block_size > 1:
        shapes += f" or, a point a node, ({n // block_size}, dimensions)"
    raise InputError(
        f"has shape {shape}, one point for each of {n} rows is needed",
        file=path,
        field="--coordinates",
        remedy=f"Give an array of shape {shapes}; for nodes of several unknowns with --block-size.",
    )


def _near_nullspace(choice: str, source: Source) -> np.ndarray:
    """Vectors of that name, or out of a file: ``[m, k]``."""
    n = source.matrix.shape[0]
    if choice in NAMED_VECTORS:
        return by_name(choice, n, source.block_size, source.coordinates, "--near-nullspace")
    found = read_columns(choice, n, "--near-nullspace")
    return found[:, None] if found.ndim == 1 else found
