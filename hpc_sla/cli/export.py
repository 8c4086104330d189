"""``export``: a result's vectors for other programs. Serial."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import ExportOptions
from hpc_sla.cli.exits import serial
from hpc_sla.cli.files import Params, Read, Written


def _written(output: str, params: Params, ranks: int) -> list[str]:
    from hpc_sla.storage.xdmf import heavy_file  # loads h5py: see `hpc_sla.cli`

    return [output, heavy_file(output)] if output.lower().endswith(".xdmf") else [output]


@click.command("export", short_help="A result as .npy, .mtx, or for ParaView .vtu, VTKHDF, XDMF.")
@click.argument("result", metavar="RESULT.h5", type=Read())
@click.option(
    "-o",
    "--output",
    type=Written(names=_written),
    required=True,
    metavar="FILE.npy|.mtx|.vtu|.vtkhdf|.xdmf",
    help="What to write.",
)
@click.option(
    "--vector", metavar="NAME", help="Default: x, or the only one; with points all that fit."
)
@click.option(
    "--matrix",
    type=Read(),
    metavar="FILE.h5",
    help="The matrix file that has the coordinates.",
)
@click.option(
    "--coordinates",
    type=Read(),
    metavar="C.npy",
    help="Points of your rows or of their nodes, [n, 1, 2 or 3].",
)
@click.option(
    "--mesh",
    type=Read(),
    metavar="MESH.msh|.vtu|...",
    help="For .vtu, .vtkhdf: the mesh that was solved on, with its cells (any that meshio reads).",
)
@click.option(
    "--rows",
    type=Read(),
    metavar="I.npy",
    help="Of --mesh: the point of each row, from 0, or [point, component].",
)
@serial
@options.filled(ExportOptions)
def command(asked: ExportOptions) -> int:
    """Write the vectors of RESULT.h5, in your row order, for other programs.

    ParaView opens FILE.vtu, FILE.vtkhdf and FILE.xdmf, which comes with FILE.xdmf.h5 beside it.
    They need your mesh (a row for each point, for each unknown of a point, or for each cell), or
    points alone.
    """
    from hpc_sla.cli.run.export import run  # loads h5py: see `hpc_sla.cli`

    return run(asked)
