"""``eigsh``: a few eigenpairs of a symmetric matrix, on all ranks."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import EigshOptions
from hpc_sla.cli.files import Read, Written, default_output
from hpc_sla.cli.session import guarded_world
from hpc_sla.distributed.launcher import launch


@click.command("eigsh", short_help="A few eigenpairs of a symmetric matrix.")
@click.argument(
    "file",
    metavar="[FILE.h5|GENERATOR]",
    required=False,
    type=Read(generators=True, default=True),
)
@click.option("-k", "k", type=int, default=6, show_default=True, help="How many pairs.")
@click.option(
    "--which",
    type=click.Choice(["smallest", "largest"]),
    default="smallest",
    show_default=True,
    help="Which end of the spectrum, algebraically.",
)
@click.option(
    "--mass",
    metavar="FILE.h5|GENERATOR",
    type=Read(generators=True),
    help="Solve A x = w M x, M of this file: symmetric positive definite, partitioned as it likes.",
)
@click.option(
    "--precond",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="Preconditioner, as for 'solve': amg for the smallest pairs of elliptic problems. auto: "
    "none, but jacobi where rows are of very different size.",
)
@click.option(
    "--tol",
    type=float,
    help="Stop when ||A v - w M v|| <= tol |w| ||M v||, or at the level of rounding. Default: "
    "1e-8, and 1e-5 in single precision.",
)
@click.option("--max-iterations", type=int, help="Give up after so many. Default: 5000.")
@click.option(
    "--guard", type=int, help="Vectors beyond k to iterate on. Default: k / 5, at least 2."
)
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "modes", launch().size), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.modes.h5 in the current folder.",
)
@options.guard_options
@options.run_options
@options.recorded(EigshOptions)
def command(asked: EigshOptions) -> int:
    """Find the k smallest or largest eigenvalues of the symmetric matrix in FILE.h5, by LOBPCG.

    FILE.h5 is one made by 'partition'; of a generator each rank makes its own rows. Without either
    the default 2D Poisson problem is made first, in the current folder. The result file has
    /eigenvalues and /modes [n, k] in your row order.

    Exit codes: 0 all pairs converged, 1 failed, 2 bad input or usage, 3 not all converged (the
    result is written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM
    or SIGUSR1 (see --checkpoint).
    """
    with guarded_world(asked) as (world, guard):
        from hpc_sla.cli.run.eigsh import run  # loads torch: see `hpc_sla.cli`

        return run(world, asked, guard)
