"""Cut a matrix into parts and write it as a matrix file: on one process, or on all ranks."""

from __future__ import annotations

import numpy as np

from hpc_sla.cli import exits
from hpc_sla.cli.asked import PartitionOptions
from hpc_sla.cli.config import effective
from hpc_sla.cli.prepare import Source, check_parts, load_source, write_partitioned
from hpc_sla.cli.prepare_rows import SourceRows, load_source_rows, write_partitioned_rows
from hpc_sla.cli.session import open_peers
from hpc_sla.cli.settle import settle
from hpc_sla.partition import PartitionQuality
from hpc_sla.report.tables import count, dimensions, print_facts, spread


def run(asked: PartitionOptions) -> int:
    """Do what ``partition`` does; the exit code. Local."""
    settle()
    source = load_source(
        asked.source, asked.rhs, asked.coordinates, asked.block_size, asked.near_nullspace
    )
    check_parts(asked.parts, source.matrix.shape[0])
    configuration = {"config": effective()}
    quality = write_partitioned(source, asked.output, asked.parts, asked.method, configuration)
    title = f"{asked.source} in {asked.parts} part(s), {asked.output}"
    matrix = source.matrix
    print_facts(title, _facts(source, matrix.shape, matrix.nnz, quality, asked.method))
    return exits.OK


def run_together(asked: PartitionOptions) -> int:
    """The same on all ranks of a launch, none of which holds the whole. **Collective.**"""
    with open_peers() as peers:
        with peers.agree():
            if peers.rank == 0:  # it tries whether the output can be written
                settle()
        method = "multilevel" if asked.method == "metis" else asked.method
        source = load_source_rows(
            peers,
            asked.source,
            asked.rhs,
            asked.coordinates,
            asked.block_size,
            asked.near_nullspace,
        )
        configuration = {"config": effective()}
        about = source.rows.shape, int(peers.sum(np.array([source.rows.matrix.nnz]))[0])
        quality = write_partitioned_rows(
            peers, source, asked.output, asked.parts, method, configuration
        )
        if peers.rank == 0:
            said = method
            if asked.method != method:
                said += f" ({asked.method} cuts its coarsest graph: by itself it is of one process)"
            title = f"{asked.source} in {asked.parts} part(s), {asked.output}"
            print_facts(title, _facts(source, *about, quality, said))
    return exits.OK


def _facts(
    source: Source | SourceRows,
    shape: tuple[int, int],
    nnz: int,
    quality: PartitionQuality,
    method: str,
) -> list[tuple[str, str]]:
    columns = [("columns per part", spread(quality.columns))] if shape[0] != shape[1] else []
    return [
        ("matrix", f"{dimensions(shape)}, {count(nnz)} entries"),
        *_nodes(source),
        ("method", method),
        ("edge cut", count(quality.edge_cut)),
        ("rows per part", spread(quality.rows)),
        *columns,
        ("halo per part", spread(quality.halo)),
        ("neighbours per part", spread(quality.neighbours)),
        ("balance", f"{quality.row_balance:.3f} rows, {quality.nnz_balance:.3f} entries (1 best)"),
        ("right-hand sides", ", ".join(source.rhs)),
    ]


def _nodes(source: Source | SourceRows) -> list[tuple[str, str]]:
    """What is known of the unknowns, where they are not simply one a node."""
    facts = []
    if source.block_size > 1:
        found = " (found in the pattern; --block-size 1 for none)" if source.found else ""
        facts.append(("unknowns per node", f"{source.block_size}{found}"))
    if source.near_nullspace is not None:
        facts.append(("near-nullspace", f"{source.near_nullspace.shape[1]} vector(s)"))
    return facts
