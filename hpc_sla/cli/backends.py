"""``backends``: what solves linear systems on one process, and what of it is there. Serial."""

from __future__ import annotations

import json

import click

from hpc_sla.cli import exits
from hpc_sla.cli.exits import serial
from hpc_sla.report.tables import print_table


@click.command("backends", short_help="List the solvers for one process, and which are there.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print one JSON object, {"backends": [...]}, and nothing else.',
)
@serial
def command(as_json: bool) -> int:
    """List what SparseTensor.solve(b, backend=...) accepts, and what of it can be used here.

    The direct ones also factor a rank's own block: block_jacobi:factor=lu,backend=NAME, and
    additive_schwarz alike.
    """
    from hpc_sla.sparse_tensor.backends import BACKENDS  # loads torch: see `hpc_sla.cli`

    if as_json:
        rows = [
            {
                "name": backend.name,
                "available": backend.available(),
                "reason": backend.why_not(),
                "devices": list(backend.devices),
                "methods": dict(backend.methods),
                "unavailable_methods": {
                    name: reason for name in backend.methods if (reason := backend.why_not(name))
                },
                "best_use": backend.best_use,
            }
            for backend in BACKENDS.values()
        ]
        print(json.dumps({"backends": rows}))
        return exits.OK
    print_table(
        "Linear solvers on one process",
        ("backend", "available", "devices", "methods", "best use"),
        [
            (
                backend.name,
                backend.why_not() or "yes",
                ", ".join(backend.devices),
                ", ".join(name for name in backend.methods if backend.available(name))
                or ", ".join(backend.methods),
                backend.best_use,
            )
            for backend in BACKENDS.values()
        ],
    )
    return exits.OK
