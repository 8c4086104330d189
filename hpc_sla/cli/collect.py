"""``collect``: one table of any number of runs. Serial."""

from __future__ import annotations

import sys

import click

from hpc_sla.cli import exits
from hpc_sla.cli.exits import message_and_code, serial
from hpc_sla.cli.files import Read, Written
from hpc_sla.cli.settle import settle
from hpc_sla.errors import InputError


@click.command("collect", short_help="One table, CSV or Parquet, of any number of results.")
@click.argument(
    "results", nargs=-1, required=True, type=Read(folders=True), metavar="RESULT.h5|FOLDER..."
)
@click.option(
    "-o",
    "--output",
    type=Written(),
    metavar="TABLE.csv|.parquet",
    help="Default: CSV on standard output.",
)
@serial
def command(results: tuple[str, ...], output: str | None) -> int:
    """Put the attributes of results into one table, a row a file.

    Of a folder, all result files directly in it. Files that cannot be read are told on standard
    error and left out.

    Exit codes: 0 done, 2 bad input (the table is of those files that could be read).
    """
    from hpc_sla.storage.collect import collect  # loads h5py: see `hpc_sla.cli`

    settle()
    bad: list[InputError] = []
    collect(results, output, bad.append)
    for error in bad:
        print(message_and_code(error)[0], file=sys.stderr)
    return exits.USAGE if bad else exits.OK
