"""A result's vectors for other programs. Serial, and without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_sla.cli import exits
from hpc_sla.cli.asked import ExportOptions
from hpc_sla.cli.settle import settle
from hpc_sla.errors import InputError
from hpc_sla.storage.exporters import EXPORTERS, ON_POINTS, exporter_for
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.mesh import cloud, fields, read_mesh, shared_points
from hpc_sla.storage.numpy_files import read_npy
from hpc_sla.storage.result_vectors import ResultVectors
from hpc_sla.storage.vtk_files import WRITERS
from hpc_sla.storage.xdmf import export_xdmf


def run(asked: ExportOptions) -> int:
    """Do what ``export`` does; the exit code. Local."""
    suffix = exporter_for(asked.output)
    settle()
    _check_options(asked, suffix)
    with ResultVectors(asked.result) as results:
        on_points = suffix in ON_POINTS
        name = results.choose(asked.vector) if not on_points or asked.vector is not None else ""
        if not on_points:
            EXPORTERS[suffix](results, name, asked.output)
        elif asked.mesh is not None:
            mesh = read_mesh(asked.mesh)
            rows = None if asked.rows is None else read_npy(asked.rows)
            names = [name] if name else list(results.summary.shapes)
            WRITERS[suffix](mesh, *fields(results, names, mesh, rows), asked.output)
        else:
            _export_on_points(results, name, asked, suffix)
    return exits.OK


def _check_options(asked: ExportOptions, suffix: str) -> None:
    given = {"--mesh": asked.mesh, "--rows": asked.rows}
    for option, value in given.items():
        if value is not None and suffix not in WRITERS:
            raise InputError(
                f"says where rows are on a mesh, which {suffix} has none of",
                field=option,
                remedy="Write a .vtu or .vtkhdf.",
            )
    if asked.rows is not None and asked.mesh is None:
        raise InputError("goes with --mesh", field="--rows", remedy="Give the mesh, too.")
    if suffix == ".xdmf":
        _check_utf8(asked.output)


def _export_on_points(results: ResultVectors, name: str, asked: ExportOptions, suffix: str) -> None:
    points, block_size = _points(results, asked.matrix, asked.coordinates)
    shapes = results.summary.shapes
    names = [one for one in shapes if shapes[one][0] == len(points) and name in ("", one)]
    if not names:
        raise InputError(
            f"has no vector with a value for each of {len(points)} points",
            file=asked.result,
            remedy="Give the coordinates of the matrix that was solved with.",
        )
    if suffix == ".xdmf":
        export_xdmf(results, names, points, block_size, asked.output)
        return
    nodes = shared_points(points, block_size)
    mesh = cloud(points if nodes is None else nodes)
    WRITERS[suffix](mesh, *fields(results, names, mesh), asked.output)


def _check_utf8(output: str) -> None:
    try:
        Path(output).name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            "has a name that is not UTF-8, which XDMF cannot refer to",
            file=output,
            field="--output",
            remedy="Choose another name.",
        ) from error


def _points(
    results: ResultVectors, matrix: str | None, coordinates: str | None
) -> tuple[np.ndarray, int]:
    """Points in the user's order, and the unknowns of a node."""
    if coordinates is not None:
        from hpc_sla.storage.importers import read_vector  # loads scipy.sparse: see `hpc_sla.cli`

        points = read_vector(coordinates)
        points = points[:, None] if points.ndim == 1 else points
        return _of_rows(results, points)
    about = results.summary.attributes
    if matrix is None:
        # The result names its matrix, but what to open is for the user to say.
        known = f" It was made from {about['input']}." if "input" in about else ""
        raise InputError(
            "has no coordinates itself",
            file=results.path,
            remedy="Give them with --matrix FILE.h5 or --coordinates C.npy, or for a .vtu the mesh "
            f"with --mesh.{known}",
        )
    with MatrixFile(matrix) as file:
        digest = about.get("input_digest", "")
        if digest and file.digest and digest != file.digest:
            raise InputError(
                "is not the matrix that the result was made with: their digests differ",
                file=matrix,
                field="--matrix",
                remedy="Give that one, or the points alone with --coordinates.",
            )
        stored = file.read_coordinates(0, file.n_rows)
        points = np.empty_like(stored)
        points[file.read_permutation(0, file.n_rows)] = stored
        return points, file.block_size


def _of_rows(results: ResultVectors, points: np.ndarray) -> tuple[np.ndarray, int]:
    """Points of the rows; those of their nodes are repeated, once an unknown."""
    rows, nodes = results.summary.n_rows, len(points)
    if nodes == 0 or rows not in (2 * nodes, 3 * nodes):
        return points, 1
    return points.repeat(rows // nodes, axis=0), rows // nodes
