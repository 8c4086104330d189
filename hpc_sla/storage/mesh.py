"""The mesh that a user's rows belong to, out of any file that meshio reads.

A matrix knows no cells: which of the mesh's points or cells a row is can only be said by counting,
or by the user. `fields` says it for every vector of a result.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.errors import InputError, MissingDependencyError
from hpc_sla.storage.result_vectors import ResultVectors

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Mesh:
    """Points and cells.

    Attributes
    ----------
    points : float64 array [n, 3]
    cells : sequence of (str, int array [m, k])
        meshio's name of a kind of cell, and the points of each, in its order.
    """

    points: np.ndarray
    cells: Sequence[tuple[str, np.ndarray]]

    @property
    def n_cells(self) -> int:
        """How many cells of all kinds."""
        return sum(len(cells) for _, cells in self.cells)


def cloud(points: np.ndarray) -> Mesh:
    """Points `[n, 1, 2 or 3]` alone, each a cell of its own."""
    return Mesh(_in_space(points), [("vertex", np.arange(len(points))[:, None])])


def shared_points(points: np.ndarray, block_size: int) -> np.ndarray | None:
    """The point of each node, if all unknowns of each node are at one; else None.

    Parameters
    ----------
    points : array [n, d]
        Of the rows.
    block_size : int
        Consecutive rows that are the unknowns of a node.
    """
    if block_size not in (2, 3) or len(points) % block_size:
        return None
    nodes = points.reshape(-1, block_size, points.shape[1])
    return nodes[:, 0] if (nodes == nodes[:, :1]).all() else None


def read_mesh(path: str | os.PathLike[str]) -> Mesh:
    """The mesh of a file, its cells of the highest dimension only (Gmsh writes boundaries, too).

    Raises
    ------
    InputError
        The file is not one that meshio understands, or has no cells.
    MissingDependencyError
        meshio is not installed.
    """
    meshio = require_meshio()
    # It prints what it makes of a file, and ends the process where it makes nothing of it.
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            read = meshio.read(path)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, Exception) else said.getvalue()
            why = " ".join(reason.removeprefix("Error:").split())
            raise InputError(
                f"is no mesh that meshio can read: {why}",
                file=path,
                field="--mesh",
                remedy="Give a .msh of Gmsh (ASCII 4.1 or 2.2), a .vtu, or another of its formats.",
            ) from error
    highest = max((block.dim for block in read.cells), default=0)
    cells = [(block.type, np.asarray(block.data)) for block in read.cells if block.dim == highest]
    points = np.asarray(read.points)
    used = [np.asarray(part).ravel() for _, part in cells if len(part)]
    if not used or min(part.min() for part in used) < 0:
        raise InputError(
            "has no cells", file=path, field="--mesh", remedy="Give a mesh with cells."
        )
    if max(part.max() for part in used) >= len(points):
        raise InputError(
            f"has cells of points that are not there: it has {len(points)}",
            file=path,
            field="--mesh",
            remedy="Write it again.",
        )
    return Mesh(_in_space(points), cells)


def fields(
    results: ResultVectors, names: Sequence[str], mesh: Mesh, rows: np.ndarray | None = None
) -> tuple[Columns, Columns]:
    """What the vectors say of the mesh's points, and of its cells.

    A vector with as many rows as there are points is a field on them. With two or three times as
    many it is a field of vectors, whose rows are node by node; as many as cells, one on the cells.

    Parameters
    ----------
    results : ResultVectors
    names : sequence of str
        Of the vectors; of those of several columns each is a field, ``NAME_COLUMN``.
    mesh : Mesh
    rows : int array [n] or [n, 2], optional
        The point of each row, or its point and component, where they are numbered otherwise or
        some were eliminated. What is of no row is NaN.

    Returns
    -------
    dict, dict
        Fields of the points `[n_points]` or `[n_points, 3]`, and of the cells.

    Raises
    ------
    InputError
        No vector fits.
    """
    on_points: Columns = {}
    on_cells: Columns = {}
    n_points = len(mesh.points)
    for name in names:
        count, *columns = results.summary.shapes[name]
        components = range(1, 4) if rows is None else ()
        width = next((d for d in components if count == d * n_points), 0)
        if rows is not None:
            place, width = _places(rows, count, n_points)
        elif width == 0 and count != mesh.n_cells:
            continue
        read = results.rows(name, 0, count).reshape(count, -1)
        for column in range(read.shape[1]):
            values = read[:, column]
            if rows is not None:
                values = np.full(n_points * width, np.nan, dtype=read.dtype)
                values[place] = read[:, column]
            label = name if columns in ([], [1]) else f"{name}_{column}"
            if width == 0:
                on_cells[label] = np.ascontiguousarray(values)
            else:
                on_points[label] = _vectors(values.reshape(-1, width))
    if not on_points and not on_cells:
        sizes = sorted({results.summary.shapes[name][0] for name in names})
        raise InputError(
            f"has vectors of {', '.join(map(str, sizes))} rows, and the mesh has {n_points} points "
            f"and {mesh.n_cells} cells",
            file=results.path,
            field="--mesh",
            remedy="Give the mesh that was solved on, or with --rows I.npy each row's point.",
        )
    return on_points, on_cells


def require_meshio() -> Any:
    """The package, whose absence is a message."""
    try:
        import meshio  # optional
    except ImportError as error:
        raise MissingDependencyError(
            "meshio is not installed, which reads meshes and writes .vtu",
            remedy="pip install 'hpc_sla[mesh]'",
        ) from error
    return meshio


def _places(rows: np.ndarray, count: int, n_points: int) -> tuple[np.ndarray, int]:
    """Where each row's value goes among those of all points, and the unknowns of a point."""
    ends = (n_points, 3)
    named = rows[:, None] if rows.ndim == 1 else rows
    problem = ""
    if named.ndim != 2 or named.shape[1] > 2 or rows.dtype.kind not in "iu":
        problem = f"is {rows.dtype}, {list(rows.shape)}, and not whole numbers, [n] or [n, 2]"
    elif len(named) != count:
        problem = f"names {len(named)} rows of {count}"
    elif any(
        len(of) and not 0 <= of.min() <= of.max() < end
        for of, end in zip(named.T, ends, strict=False)
    ):
        problem = f"names points outside 0 .. {n_points - 1}, or components outside 0 .. 2"
    elif len(np.unique(named, axis=0)) < count:
        problem = "names one place twice"
    if problem:
        raise InputError(
            problem,
            field="--rows",
            remedy="Give each row's point, from 0, or [point, component].",
        )
    if named.shape[1] == 1:
        return rows.ravel(), 1
    width = 1 + int(named[:, 1].max(initial=0))
    return named[:, 0] * width + named[:, 1], width


def _in_space(points: np.ndarray) -> np.ndarray:
    """`[n, 3]`, with zeros for what is not there."""
    points = np.asarray(points, dtype=np.float64)
    return np.pad(points, ((0, 0), (0, 3 - points.shape[1])))


def _vectors(values: np.ndarray) -> np.ndarray:
    """`[n]` of one component, else vectors in space `[n, 3]`."""
    if values.shape[1] == 1:
        return np.ascontiguousarray(values[:, 0])
    return np.pad(values, ((0, 0), (0, 3 - values.shape[1])))
