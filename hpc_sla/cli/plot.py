"""``plot``: pictures of matrices, results and logs. Serial."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import PlotOptions
from hpc_sla.cli.exits import serial
from hpc_sla.cli.files import Read, Written

KINDS = ("convergence", "spectrum", "scaling", "partition", "halo", "spy", "profile", "hierarchy")


@click.command("plot", short_help="A picture of results, of a matrix, or of a log.")
@click.argument("files", nargs=-1, required=True, type=Read(), metavar="RESULT|MATRIX|LOG...")
@click.option(
    "-o",
    "--output",
    type=Written(),
    required=True,
    metavar="FILE.png|.svg|.pdf",
    help="What to write.",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Default: convergence of results and logs (of eigenpairs their spectrum), partition of a "
    "matrix with coordinates, spy of one without.",
)
@click.option(
    "--part", type=int, default=0, show_default=True, metavar="P", help="Of --kind halo: whose."
)
@click.option("--title", metavar="TEXT", help="Default: none, or what the picture says itself.")
@serial
@options.filled(PlotOptions)
def command(asked: PlotOptions) -> int:
    """Draw FILEs as a picture.

    \b
    results (.h5)        convergence of each, spectrum, scaling (runs on several rank counts)
    a matrix (.h5)       partition, halo of a part, spy
    a log (.jsonl)       convergence (several, too), profile by rank (of a run with --profile),
                         hierarchy (of a run with amg)

    The same pictures on Axes of yours: `hpc_sla.report.plots`. Needs matplotlib.
    """  # noqa: D301
    from hpc_sla.cli.run.plot import run  # loads h5py and matplotlib: see `hpc_sla.cli`

    return run(asked)
