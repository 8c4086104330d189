"""``partition``: cut a matrix into parts and write it as a matrix file."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import PartitionOptions
from hpc_sla.cli.files import MANUFACTURED, NAMED_VECTORS, ONES, Read, Written
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError


def _list_generators(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from hpc_sla.problems import summaries  # loads scipy.sparse: see `hpc_sla.cli`

    for text, line in summaries().items():
        print(f"{text}\n    {line}")
    context.exit()


@click.command("partition", short_help="Cut a matrix into parts and write it to HDF5.")
@click.argument("source", type=Read(generators=True))
@click.option(
    "-o",
    "--output",
    type=Written(hdf5=True),
    required=True,
    metavar="FILE.h5",
    help="The file to write.",
)
@click.option(
    "--parts",
    type=int,
    default=1,
    show_default=True,
    metavar="P",
    help="Best the rank count; any number of ranks opens the file.",
)
@click.option(
    "--method",
    type=click.Choice(["metis", "multilevel", "rcb", "sfc", "contiguous"]),
    default="metis",
    show_default=True,
    help="rcb (bisection) and sfc (a space-filling curve) need coordinates. metis is of one "
    "process: under mpiexec it means multilevel, whose coarsest graph METIS cuts.",
)
@click.option(
    "--rhs",
    type=Read(lambda rhs: rhs not in (ONES, MANUFACTURED)),
    multiple=True,
    metavar="B.npy|B.mtx|ones|manufactured",
    help="Right-hand side; may be repeated. Default: the source's own, else ones.",
)
@click.option(
    "--coordinates",
    type=Read(),
    metavar="C.npy",
    help="Points of the rows, one a row or one a node, for rcb, multigrid and export.",
)
@click.option(
    "--block-size",
    type=int,
    metavar="B",
    help="Keep each B consecutive rows, the unknowns of a node, in one part. "
    "Default: the source's own, else what is found in its pattern; 1 for none.",
)
@click.option(
    "--near-nullspace",
    type=Read(lambda vectors: vectors not in NAMED_VECTORS),
    metavar="B.npy|rigid_body|constants",
    help="Vectors that the matrix hardly changes, as columns, for multigrid. rigid_body is made of "
    "coordinates, of 2 or 3 displacements a node.",
)
@click.option(
    "--generators",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_generators,
    help="List the generators with their parameters' defaults, and exit.",
)
@options.config_option
@options.filled(PartitionOptions)
def command(asked: PartitionOptions) -> int:
    """Cut SOURCE into parts and write it as FILE.h5.

    SOURCE is a file (.mtx, .npz, .petsc, .bin, .mat, .rb, .hb, .h5ad, .h5; text also as .gz, .bz2,
    .xz, or in a .tar.gz) or a generator such as poisson2d:n=256 (--generators lists them). Any
    number of ranks can open the result, whatever --parts was.

    Of a rectangular matrix, metis cuts the graph whose nodes are the rows and the columns, and
    each column goes to the part that has most of its entries.

    Under mpiexec all ranks read, cut and write, each its share, for matrices (square ones) that no
    process holds. --parts need not be the number of ranks.
    """
    if asked.parts < 1:
        raise InputError(f"is {asked.parts}", field="--parts", remedy="Give at least 1.")
    # They load scipy.sparse: see `hpc_sla.cli`.
    from hpc_sla.cli.run.partition import run, run_together

    return run(asked) if launch().size == 1 else run_together(asked)
