"""``info``: any of our files in about ten lines. Serial."""

from __future__ import annotations

import click

from hpc_sla.cli.exits import serial
from hpc_sla.cli.files import Read


@click.command("info", short_help="Describe a matrix or result file.")
@click.argument("file", metavar="FILE.h5", type=Read())
@serial
def command(file: str) -> int:
    """Describe FILE.h5, a matrix or a result, in about ten lines."""
    from hpc_sla.cli.run.info import run  # loads h5py: see `hpc_sla.cli`

    return run(file)
