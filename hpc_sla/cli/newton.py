"""``newton``: solve a nonlinear model problem on all ranks and write the result."""

from __future__ import annotations

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.asked import NewtonOptions
from hpc_sla.cli.files import Written, newton_output
from hpc_sla.cli.session import guarded_world
from hpc_sla.nonlinear.choices import JACOBIANS, METHODS
from hpc_sla.report.tables import print_table

DEFAULT_PROBLEM = "bratu2d:n=128,lambda=6"


@click.command("newton", short_help="Solve a nonlinear model problem and write the result.")
@click.argument("problem", metavar="[PROBLEM]", default=DEFAULT_PROBLEM)
@click.option("--problems", "listing", is_flag=True, help="List the problems and stop.")
@click.option(
    "--method",
    default="newton",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="As in anderson:memory=10. " + options.listed(METHODS),
)
@click.option(
    "--jacobian",
    type=click.Choice(["auto", "exact", *JACOBIANS]),
    default="auto",
    show_default=True,
    help="exact: the problem's own, where it has one; else coloured (auto). "
    + options.listed(JACOBIANS),
)
@click.option(
    "--linear-method",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="Of the linear systems, as --method of 'solve'. auto: cg or gmres, as suits the problem.",
)
@click.option(
    "--precond",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="Of the linear systems, as --precond of 'solve'. auto: amg, or block_jacobi for several "
    "unknowns a point.",
)
@click.option(
    "--precond-lag",
    type=int,
    default=None,
    help="Steps it serves; 0: for all. Default: as long as it pays.",
)
@click.option(
    "--forcing",
    type=float,
    default=None,
    help="Relative tolerance of the linear systems. Default: Eisenstat and Walker's.",
)
@options.tolerance_options
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(
        lambda params: None if params["listing"] else newton_output(params["problem"]),
        hdf5=True,
    ),
    metavar="RESULT.h5",
    help="Default: <name of PROBLEM>.result.h5 in the current folder.",
)
@options.guard_options
@options.run_options
@options.recorded(NewtonOptions)
def command(asked: NewtonOptions) -> int:
    """Solve F(u) = 0 for the model problem PROBLEM, such as bratu2d:n=256,lambda=6.

    Stops when ||F(u)|| <= max(rtol ||F(u0)||, atol).

    Exit codes: 0 converged, 1 failed, 2 bad input or usage, 3 not converged (the result is
    written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM or SIGUSR1
    (see --checkpoint, which is for --method newton).
    """
    if asked.listing:
        return _list()
    options.check_tolerances(asked.rtol, asked.atol, asked.max_iterations)
    with guarded_world(asked) as (world, guard):
        from hpc_sla.cli.run.newton import run  # loads torch: see `hpc_sla.cli`

        return run(world, asked, guard)


def _list() -> int:
    from hpc_sla.problems import summaries_nonlinear  # loads scipy.sparse: see `hpc_sla.cli`

    rows = [list(pair) for pair in summaries_nonlinear().items()]
    print_table("nonlinear problems", ("problem", "equation"), rows)
    return exits.OK
