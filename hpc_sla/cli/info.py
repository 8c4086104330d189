"""``info``: any of our files in about ten lines. Serial."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits
from hpc_sla.cli.exits import serial
from hpc_sla.cli.files import Read
from hpc_sla.cli.settle import settle
from hpc_sla.report.tables import count, print_facts, size, spread

if TYPE_CHECKING:
    import numpy as np

    from hpc_sla.storage.matrix_file import MatrixFile  # loads h5py
    from hpc_sla.storage.result_file import ResultSummary


@click.command("info", short_help="Describe a matrix or result file.")
@click.argument("file", metavar="FILE.h5", type=Read())
@serial
def command(file: str) -> int:
    """Describe FILE.h5, a matrix or a result, in about ten lines."""
    from hpc_sla.storage.attributes import kind_of  # loads h5py: see `hpc_sla.cli`

    settle()
    kind = kind_of(file)
    if kind == "matrix":
        from hpc_sla.storage.matrix_file import MatrixFile  # loads h5py

        with MatrixFile(file) as matrix:
            facts = _matrix_facts(matrix)
    else:
        from hpc_sla.storage.result_file import describe  # loads h5py

        facts = _result_facts(describe(file))
    facts.append(("size", size(os.path.getsize(file))))
    print_facts(f"{file}: {kind} file", facts)
    return exits.OK


def _matrix_facts(file: MatrixFile) -> list[tuple[str, str]]:
    parts = f"{file.parts}, rows per part {_sizes(file.part_offsets)}"
    if not file.square:
        parts += f", columns per part {_sizes(file.column_part_offsets)}"
    about = dict(file.attributes)
    nodes = [("unknowns per node", str(file.block_size))] if file.block_size > 1 else []
    known = file.near_nullspace_vectors
    vectors = [("near-nullspace", f"{known} vector(s)")] if known else []
    return [
        ("matrix", f"{count(file.n_rows)} x {count(file.n_cols)}, {file.dtype}"),
        ("entries", f"{count(file.nnz)} ({file.nnz / max(file.n_rows, 1):.1f} a row)"),
        ("parts", parts),
        *nodes,
        ("method", str(about.get("partition_method", "not recorded"))),
        ("right-hand sides", ", ".join(file.rhs_names) or "none"),
        ("known solutions", ", ".join(file.solution_names) or "none"),
        ("coordinates", "yes" if file.has_coordinates else "no"),
        *vectors,
        ("source", str(about.get("source", "not recorded"))),
        ("digest", file.digest or "not recorded"),
    ]


def _result_facts(summary: ResultSummary) -> list[tuple[str, str]]:
    about = summary.attributes
    vectors = ", ".join(
        name + "".join(f" x {columns}" for columns in shape[1:])
        for name, shape in summary.shapes.items()
    )

    first = "seconds_"
    spent = [
        f"{key.removeprefix(first)} {about[key]:.3g} s" for key in about if key.startswith(first)
    ]

    def recorded(key: str) -> str:
        return _text(about.get(key, "not recorded"))

    return [
        ("vectors", f"{vectors}: {count(summary.n_rows)} rows, {summary.dtype}"),
        ("status", f"{recorded('status')} after {recorded('iterations')} iterations"),
        ("relative residual", recorded("relative_residual")),
        ("solved with", f"{recorded('method')} + {recorded('precond')}, rtol {recorded('rtol')}"),
        ("ran on", f"{recorded('ranks')} rank(s), {recorded('device')}, {recorded('transport')}"),
        ("time", ", ".join(spent) or "not recorded"),
        ("input", recorded("input")),
        ("input digest", recorded("input_digest")),
        ("command", recorded("command")),
        ("date", recorded("date")),
        ("hpc_sla", recorded("version_hpc_sla")),
    ]


def _sizes(offsets: np.ndarray) -> str:
    return spread(offsets[1:] - offsets[:-1])


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
