"""``partition``: cut a matrix into parts and write it as a matrix file. Serial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpc_sla.cli import exits
from hpc_sla.cli.config import config_option, effective
from hpc_sla.cli.files import Read, Written, is_file, settle
from hpc_sla.cli.launch import serial
from hpc_sla.cli.prepare import MANUFACTURED, ONES
from hpc_sla.errors import InputError

if TYPE_CHECKING:
    from hpc_sla.cli.prepare import Source
    from hpc_sla.partition import PartitionQuality


def _list_generators(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from hpc_sla.problems import summaries

    for text, line in summaries().items():
        print(f"{text}\n    {line}")
    context.exit()


@click.command("partition", short_help="Cut a matrix into parts and write it to HDF5.")
@click.argument("source", type=Read(is_file))
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
    type=click.Choice(["metis", "rcb", "contiguous"]),
    default="metis",
    show_default=True,
    help="rcb needs coordinates.",
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
    help="Points of the rows, one a row or one a node, for rcb and export.",
)
@click.option(
    "--block-size",
    type=int,
    metavar="B",
    help="Keep each B consecutive rows, the unknowns of a node, in one part. "
    "Default: the source's own, else 1.",
)
@click.option(
    "--generators",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_generators,
    help="List the generators with their parameters' defaults, and exit.",
)
@config_option
@serial
def command(
    source: str,
    output: str,
    parts: int,
    method: str,
    rhs: tuple[str, ...],
    coordinates: str | None,
    block_size: int | None,
) -> int:
    """Cut SOURCE into parts and write it as FILE.h5.

    SOURCE is a file (.mtx, .npz, .petsc, .bin, .mat, .rb, .hb, .h5ad, .h5; text also as .gz, .bz2,
    .xz, or in a .tar.gz) or a generator such as poisson2d:n=256 (--generators lists them). Any
    number of ranks can open the result, whatever --parts was.

    Of a rectangular matrix, metis cuts the graph whose nodes are the rows and the columns, and
    each column goes to the part that has most of its entries.
    """
    from hpc_sla.cli.prepare import check_parts, load_source, write_partitioned
    from hpc_sla.report.tables import print_facts

    if parts < 1:
        raise InputError(f"is {parts}", field="--parts", remedy="Give at least 1.")
    settle()
    loaded = load_source(source, rhs, coordinates, block_size)
    check_parts(parts, loaded.matrix.shape[0])
    quality = write_partitioned(loaded, output, parts, method, {"config": effective()})
    print_facts(f"{source} in {parts} part(s), {output}", _facts(loaded, quality, method))
    return exits.OK


def _facts(source: Source, quality: PartitionQuality, method: str) -> list[tuple[str, str]]:
    from hpc_sla.report.tables import count, dimensions, spread

    shape = source.matrix.shape
    columns = [("columns per part", spread(quality.columns))] if shape[0] != shape[1] else []
    return [
        ("matrix", f"{dimensions(shape)}, {count(source.matrix.nnz)} entries"),
        ("method", method),
        ("edge cut", count(quality.edge_cut)),
        ("rows per part", spread(quality.rows)),
        *columns,
        ("halo per part", spread(quality.halo)),
        ("neighbours per part", spread(quality.neighbours)),
        ("balance", f"{quality.row_balance:.3f} rows, {quality.nnz_balance:.3f} entries (1 best)"),
        ("right-hand sides", ", ".join(source.rhs)),
    ]
