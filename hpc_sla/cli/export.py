"""``export``: a result's vectors for other programs. Serial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpc_sla.cli import exits
from hpc_sla.cli.launch import serial
from hpc_sla.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from hpc_sla.storage.result_vectors import ResultVectors


@click.command("export", short_help="A result as .npy, MatrixMarket, or XDMF for ParaView.")
@click.argument("result", metavar="RESULT.h5")
@click.option("-o", "--output", required=True, metavar="FILE.npy|.mtx|.xdmf", help="What to write.")
@click.option("--vector", metavar="NAME", help="Default: x, or the only one; .xdmf: all that fit.")
@click.option(
    "--matrix", metavar="FILE.h5", help="For .xdmf: the matrix file that has the coordinates."
)
@click.option(
    "--coordinates", metavar="C.npy", help="For .xdmf: points of your rows, [n, 1, 2 or 3]."
)
@serial
def command(
    result: str, output: str, vector: str | None, matrix: str | None, coordinates: str | None
) -> int:
    """Write the vectors of RESULT.h5, in your row order, for other programs.

    FILE.xdmf comes with FILE.h5 beside it; open the former in ParaView.
    """
    from hpc_sla.storage.atomic import check_writable
    from hpc_sla.storage.exporters import EXPORTERS, exporter_for
    from hpc_sla.storage.result_vectors import ResultVectors
    from hpc_sla.storage.xdmf import export_xdmf

    suffix = exporter_for(output)
    check_writable(output)
    with ResultVectors(result) as results:
        name = results.choose(vector) if suffix != ".xdmf" or vector is not None else ""
        if suffix != ".xdmf":
            EXPORTERS[suffix](results, name, output)
            return exits.OK
        points, block_size = _points(results, matrix, coordinates)
        shapes = results.summary.shapes
        names = [one for one in shapes if shapes[one][0] == len(points) and name in ("", one)]
        if not names:
            raise InputError(
                f"has no vector with a value for each of {len(points)} points",
                file=result,
                remedy="Give the coordinates of the matrix that was solved with.",
            )
        export_xdmf(results, names, points, block_size, output)
    return exits.OK


def _points(
    results: ResultVectors, matrix: str | None, coordinates: str | None
) -> tuple[np.ndarray, int]:
    """Points in the user's order, and the unknowns of a node."""
    import numpy as np

    from hpc_sla.storage.importers import read_vector
    from hpc_sla.storage.matrix_file import MatrixFile

    if coordinates is not None:
        points = read_vector(coordinates)
        return (points[:, None] if points.ndim == 1 else points), 1
    about = results.summary.attributes
    if matrix is None:
        # The result names its matrix, but what to open is for the user to say.
        known = f" It was made from {about['input']}." if "input" in about else ""
        raise InputError(
            "has no coordinates itself",
            file=results.path,
            remedy=f"Give them with --matrix FILE.h5 or --coordinates C.npy.{known}",
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
