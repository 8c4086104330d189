"""``diff``: how far two results are apart. Serial."""

from __future__ import annotations

import json

import click

from hpc_sla.cli import exits
from hpc_sla.cli.exits import serial
from hpc_sla.cli.files import Read
from hpc_sla.cli.settle import settle
from hpc_sla.errors import InputError
from hpc_sla.report.tables import finite, print_table


@click.command("diff", short_help="Compare two results in norm and by attribute.")
@click.argument("a", metavar="A.h5", type=Read())
@click.argument("b", metavar="B.h5", type=Read())
@click.option(
    "--rtol",
    type=float,
    default=0.0,
    show_default=True,
    help="Vectors agree when ||a - b|| <= rtol ||a||. 0: when all values are equal.",
)
@click.option(
    "--attributes",
    "strict",
    is_flag=True,
    help="Attributes that differ count too, but for date, command, configuration and seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@serial
def command(a: str, b: str, rtol: float, strict: bool, as_json: bool) -> int:
    """Compare the vectors of two result files, and list the attributes that differ.

    Eigenvectors are compared up to their signs.

    Exit codes, as diff's: 0 the vectors agree, 1 they do not, 2 bad input.
    """
    # They load h5py: see `hpc_sla.cli`.
    from hpc_sla.storage.compare import compare_attributes, compare_vectors, of_circumstances
    from hpc_sla.storage.result_vectors import ResultVectors

    if not 0 <= rtol < float("inf"):
        raise InputError(f"is {rtol:g}", field="--rtol", remedy="Give 0 or a small number.")
    settle()
    with ResultVectors(a) as one, ResultVectors(b) as other:
        vectors = compare_vectors(one, other)
        attributes = compare_attributes(one, other)
    agree = all(not found.problem and found.relative <= rtol for found in vectors)
    if strict and not all(of_circumstances(name) for name, _, _ in attributes):
        agree = False
    if as_json:
        distances = {
            found.name: {"relative": finite(found.relative), "largest": finite(found.largest)}
            if not found.problem
            else {"problem": found.problem}
            for found in vectors
        }
        differing = {name: [ours, theirs] for name, ours, theirs in attributes}
        print(json.dumps({"agree": agree, "vectors": distances, "attributes": differing}))
        return exits.OK if agree else exits.FAILED
    rows = [
        [found.name, found.problem, ""]
        if found.problem
        else [found.name, f"{found.relative:.3g}", f"{found.largest:.3g}"]
        for found in vectors
    ]
    print_table(f"{a} and {b}", ("vector", "||a - b|| / ||a||", "max |a - b|"), rows)
    if attributes:
        print_table(
            "attributes that differ",
            ("attribute", "a", "b"),
            [[name, _short(ours), _short(theirs)] for name, ours, theirs in attributes],
        )
    return exits.OK if agree else exits.FAILED


def _short(value: object) -> str:
    text = "-" if value is None else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
