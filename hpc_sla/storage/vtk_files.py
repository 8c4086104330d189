"""Fields on a mesh as files of the Visualization Toolkit: .vtu, and .vtkhdf.

The former is written by meshio. The latter is HDF5, and made here: an UnstructuredGrid of one
piece, version 2.0 of the format (VTK File Formats, "VTKHDF").
"""

from __future__ import annotations

import os

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.hdf5_write import Output
from hpc_sla.storage.mesh import Columns, Mesh, require_meshio

# VTK's numbers (vtkCellType.h) of meshio's kinds of cells.
_KINDS = {
    "vertex": 1, "line": 3, "triangle": 5, "quad": 9, "tetra": 10, "hexahedron": 12, "wedge": 13,
    "pyramid": 14, "line3": 21, "triangle6": 22, "quad8": 23, "tetra10": 24, "hexahedron20": 25,
    "wedge15": 26, "pyramid13": 27, "quad9": 28, "hexahedron27": 29, "triangle7": 34,
}  # fmt: skip
# Both number a cell's points alike but for this one, which meshio has as Gmsh does.
_ORDERS = {"wedge": [0, 2, 1, 3, 5, 4]}


def write_vtu(
    mesh: Mesh, on_points: Columns, on_cells: Columns, output: str | os.PathLike[str]
) -> None:
    """XML with its numbers in base64, compressed.

    Raises
    ------
    MissingDependencyError
        meshio is not installed.
    """
    meshio = require_meshio()
    ends = np.cumsum([len(cells) for _, cells in mesh.cells])[:-1]
    by_kind = {name: np.split(values, ends) for name, values in on_cells.items()}
    made = meshio.Mesh(mesh.points, list(mesh.cells), point_data=on_points, cell_data=by_kind)
    with replacing(output) as temporary:
        made.write(temporary, file_format="vtu")


def write_vtkhdf(
    mesh: Mesh, on_points: Columns, on_cells: Columns, output: str | os.PathLike[str]
) -> None:
    """HDF5, as ParaView 5.12 and later open it.

    Raises
    ------
    InputError
        A kind of cell that the format does not have.
    """
    unknown = sorted({kind for kind, _ in mesh.cells} - _KINDS.keys())
    if unknown:
        raise InputError(
            f"cells of {', '.join(unknown)} are not known here",
            file=output,
            field="--output",
            remedy="Write a .vtu.",
        )
    ordered = [cells[:, _ORDERS.get(kind, slice(None))] for kind, cells in mesh.cells]
    lengths = np.concatenate([np.full(len(cells), cells.shape[1]) for cells in ordered])
    kinds = [np.full(len(cells), _KINDS[kind], dtype=np.uint8) for kind, cells in mesh.cells]
    arrays = {
        "NumberOfPoints": np.array([len(mesh.points)]),
        "NumberOfCells": np.array([mesh.n_cells]),
        "NumberOfConnectivityIds": np.array([lengths.sum()]),
        "Points": mesh.points,
        "Connectivity": np.concatenate([cells.ravel() for cells in ordered]).astype(np.int64),
        "Offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "Types": np.concatenate(kinds),
    }
    for group, columns in (("PointData", on_points), ("CellData", on_cells)):
        arrays |= {f"{group}/{_as_link(name)}": values for name, values in columns.items()}
    with replacing(output) as temporary, Output(temporary, output) as target:
        root = target.file.create_group("VTKHDF")
        root.attrs["Version"] = np.array([2, 0])
        # Of a fixed length: the format knows no other strings.
        root.attrs["Type"] = np.bytes_("UnstructuredGrid")
        for name, values in arrays.items():
            target.write(target.create(f"VTKHDF/{name}", values.shape, values.dtype), 0, values)


WRITERS = {".vtu": write_vtu, ".vtkhdf": write_vtkhdf}


def _as_link(name: str) -> str:
    """A slash would make a group."""
    return name.replace("/", "_")
