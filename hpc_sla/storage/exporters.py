"""A result's vector in other programs' formats, written a slab at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.result_vectors import ResultVectors


def export_npy(results: ResultVectors, name: str, output: str | os.PathLike[str]) -> None:
    """Write the vector `name` as a NumPy array, `[n]` or `[n, k]`."""
    summary = results.summary
    stored = summary.dtype.newbyteorder("<")
    header = {
        "descr": npy.dtype_to_descr(stored),
        "fortran_order": False,
        "shape": summary.shapes[name],
    }
    with replacing(output) as temporary, open(temporary, "wb") as stream:
        npy.write_array_header_1_0(stream, header)
        for _, block in results.blocks(name):
            stream.write(np.ascontiguousarray(block, dtype=stored).data)


def export_matrix_market(results: ResultVectors, name: str, output: str | os.PathLike[str]) -> None:
    """Write the vector `name` as a dense MatrixMarket array, to the last bit of each value."""
    shape = results.summary.shapes[name]
    columns = shape[1] if len(shape) == 2 else 1
    with replacing(output) as temporary, open(temporary, "w", encoding="ascii") as stream:
        stream.write("%%MatrixMarket matrix array real general\n")
        stream.write(f"{shape[0]} {columns}\n")
        for column in range(columns):  # the format is column by column
            for _, block in results.blocks(name):
                values = block.reshape(len(block), -1)[:, column]
                stream.writelines(f"{value}\n" for value in values.astype(object))


EXPORTERS: dict[str, Callable[[ResultVectors, str, Any], None]] = {
    ".npy": export_npy,
    ".mtx": export_matrix_market,
}


ON_POINTS = (".xdmf", ".vtu", ".vtkhdf")
"""Formats that need points beside the vector."""


def exporter_for(output: str) -> str:
    """The suffix of `output`, which must be one that is known.

    Raises
    ------
    InputError
    """
    suffix = Path(output).suffix.lower()
    known = (*EXPORTERS, *ON_POINTS)
    if suffix not in known:
        raise InputError(
            f"a result cannot be exported to a file ending in {suffix!r}",
            file=output,
            field="--output",
            remedy=f"Choose one of {', '.join(known)}.",
        )
    return suffix
