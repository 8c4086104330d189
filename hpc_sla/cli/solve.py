"""``solve``: read a partitioned matrix, solve on all ranks, write the result."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import SolveOptions
from hpc_sla.cli.files import Read, Written, default_output
from hpc_sla.cli.session import guarded_world
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError
from hpc_sla.linear.choices import DTOL


@click.command("solve", short_help="Solve A x = b on all ranks and write the result.")
@click.argument(
    "file",
    metavar="[FILE.h5|GENERATOR]",
    required=False,
    type=Read(generators=True, default=True),
)
@options.solver_options
@click.option(
    "--dtol",
    type=float,
    default=DTOL,
    show_default=True,
    help="End as diverged when ||b - A x|| > dtol ||b||.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Tell what the matrix is, what was chosen for it and why, and what was tried.",
)
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "result", launch().size), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.result.h5 in the current folder.",
)
@options.guard_options
@options.run_options
@options.recorded(SolveOptions)
def command(asked: SolveOptions) -> int:
    """Solve A x = b for the matrix in FILE.h5, made by 'partition', or of a generator.

    Of a generator such as poisson3d:n=100 each rank makes its own rows, without a file. Without
    either a small 2D Poisson problem is made, partitioned with METIS into as many parts
    as there are ranks, written to the current folder, and solved from there.

    Exit codes: 0 converged, 1 failed, 2 bad input or usage, 3 not converged (the result is
    written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM or SIGUSR1
    (see --checkpoint).
    """
    options.check_tolerances(asked.rtol, asked.atol, asked.max_iterations)
    if not asked.dtol > 1:
        raise InputError(f"is {asked.dtol:g}", field="--dtol", remedy="Give a number above 1.")
    with guarded_world(asked) as (world, guard):
        from hpc_sla.cli.run.solve import run  # loads torch: see `hpc_sla.cli`

        return run(world, asked, guard)
