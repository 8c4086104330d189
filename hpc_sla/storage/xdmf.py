"""Vectors on points as XDMF and HDF5, which ParaView, VisIt and meshio open.

The .xdmf file is a page of XML that says what the datasets of the .h5 file beside it mean: the
points are a cloud of vertices (there are no cells in a matrix), and each column of each vector is
a field on them. See the XDMF Model and Format, www.xdmf.org, version 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.attributes import attribute
from hpc_sla.storage.hdf5 import open_read
from hpc_sla.storage.hdf5_write import Output
from hpc_sla.storage.mesh import shared_points
from hpc_sla.storage.result_vectors import ResultVectors

_FORMAT = "hpc_sla.export"


def export_xdmf(
    results: ResultVectors,
    names: Sequence[str],
    points: np.ndarray,
    block_size: int,
    output: str | os.PathLike[str],
) -> str:
    """Write vectors of a result on their points.

    Parameters
    ----------
    results : ResultVectors
    names : sequence of str
        Vectors with a value for each of the points.
    points : float array [n, 1, 2 or 3]
        In the user's order.
    block_size : int
        Consecutive rows that are the unknowns of a node; where they share a point, two or three
        of them become one vector field.
    output : path
        The .xdmf file.

    Returns
    -------
    str
        The HDF5 file: see `heavy_file`.
    """
    dimensions = points.shape[1]
    if not 1 <= dimensions <= 3:
        raise InputError(
            f"points have {dimensions} dimensions",
            file=output,
            field="coordinates",
            remedy="One to three can be shown.",
        )
    nodes = shared_points(points, block_size)
    width = 1 if nodes is None else block_size
    points = points if nodes is None else nodes
    if dimensions == 1:
        points = np.column_stack([points[:, 0], np.zeros(len(points))])
    heavy = Path(heavy_file(output))
    if heavy.exists() and not _is_export(heavy):
        raise InputError(
            "would be overwritten by the datasets of the export",
            file=heavy,
            field="--output",
            remedy="Give the .xdmf file another name.",
        )
    count = len(points)
    fields: list[str] = []
    with replacing(heavy) as temporary, Output(temporary, heavy) as target:
        target.file.attrs["format"] = _FORMAT
        _put(target, "points", points.astype(np.float64))
        kind = np.int32 if count < 2**31 else np.int64
        _put(target, "vertices", np.arange(count, dtype=kind)[:, None])
        for name in names:
            fields += _put_fields(target, results, name, width, heavy.name, len(fields))
        text = _page(heavy.name, target.file, fields)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return os.fspath(heavy)


def heavy_file(output: str | os.PathLike[str]) -> str:
    """The HDF5 file of an .xdmf file: ``x.xdmf.h5``, since ``x.h5`` may well be the result."""
    return f"{os.fspath(output)}.h5"


def _is_export(path: Path) -> bool:
    """Whether an earlier export made it, which may be replaced."""
    try:
        with open_read(path) as file:
            return attribute(file, "format") == _FORMAT
    except InputError:
        return False


def _put(target: Output, name: str, values: np.ndarray) -> None:
    target.write(target.create(name, values.shape, values.dtype), 0, values)


def _put_fields(
    target: Output, results: ResultVectors, name: str, width: int, heavy: str, first: int
) -> list[str]:
    """The XML of each column's field, its values written. `width` rows make a node."""
    shape, dtype = results.summary.shapes[name], results.summary.dtype
    columns = shape[1] if len(shape) == 2 else 1
    trailing = () if width == 1 else (3,)  # a vector in the plane has a third component of zero
    items = [
        # Numbered: a name out of a file need not be one that XDMF can write in a path.
        target.create(f"values/{first + column}", (shape[0] // width, *trailing), dtype)
        for column in range(columns)
    ]
    rest = np.empty((0, columns), dtype=dtype)
    written = 0
    for _, block in results.blocks(name):
        rows = np.concatenate([rest, block.reshape(len(block), columns)])
        whole = len(rows) // width
        rest = rows[whole * width :]
        for column, item in enumerate(items):
            values = rows[: whole * width, column]
            if width > 1:
                padded = np.zeros((whole, 3), dtype=dtype)
                padded[:, :width] = values.reshape(whole, width)
                values = padded
            target.write(item, written, values)
        written += whole
    kind = "Vector" if width > 1 else "Scalar"
    elements = []
    for column, item in enumerate(items):
        label = quoteattr(_visible(name if columns == 1 else f"{name}_{column}"))
        elements.append(
            f'      <Attribute Name={label} AttributeType="{kind}" Center="Node">\n'
            f"        {_data_item(heavy, item)}\n      </Attribute>\n"
        )
    return elements


def _page(heavy: str, file: h5py.File, fields: Sequence[str]) -> str:
    points, vertices = file["points"], file["vertices"]
    geometry = {2: "XY", 3: "XYZ"}[points.shape[1]]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<Xdmf Version="3.0">\n  <Domain>\n'
        '    <Grid Name="result" GridType="Uniform">\n'
        f'      <Topology TopologyType="Polyvertex" NumberOfElements="{len(points)}" '
        f'NodesPerElement="1">\n        {_data_item(heavy, vertices)}\n      </Topology>\n'
        f'      <Geometry GeometryType="{geometry}">\n        {_data_item(heavy, points)}\n'
        f"      </Geometry>\n{''.join(fields)}    </Grid>\n  </Domain>\n</Xdmf>\n"
    )


def _data_item(heavy: str, item: h5py.Dataset) -> str:
    kind = "Int" if item.dtype.kind == "i" else "Float"
    shape = " ".join(str(length) for length in item.shape)
    return (
        f'<DataItem Dimensions="{shape}" NumberType="{kind}" Precision="{item.dtype.itemsize}" '
        f'Format="HDF">{escape(heavy)}:{item.name}</DataItem>'
    )


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else "_" for c in text)
