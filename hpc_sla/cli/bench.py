"""``bench``: a solver of ours and PETSc's, timed and weighed on the same matrix and ranks."""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import BenchOptions
from hpc_sla.cli.files import Read
from hpc_sla.cli.session import open_world
from hpc_sla.errors import InputError


@click.command("bench", short_help="Time a solver beside PETSc's, and compare peak memory.")
@click.argument("file", metavar="FILE.h5|GENERATOR", type=Read(generators=True))
@options.method_options
@click.option("--repeats", type=int, default=5, show_default=True, help="Laps of each solver.")
@click.option("--rtol", type=float, default=None, help=f"Of both solvers. {options.RTOL_HELP}")
@click.option("--max-iterations", type=int, help="Stop both after so many iterations.")
@click.option("--memory", is_flag=True, help="Ours alone: bytes by owner, and speed of memory.")
@click.option("--rhs", metavar="NAME", help="Default: the only one, or 'ones'.")
@options.world_options
@options.run_options
@options.recorded(BenchOptions)
def command(asked: BenchOptions) -> int:
    """Race hpc_sla against PETSc on FILE.h5, or on a generator such as poisson2d:n=1000.

    Both run the same method with the same preconditioner on the same rows and ranks, with the same
    stopping rule, in turn. Of what is left open ('auto') PETSc runs what was chosen, and gmres with
    ilu where it has none like it. Of a generator each rank makes its own rows, even runs of them in
    their natural order; 'partition' makes a file of other parts.
    hpc_sla.reference.race tells how each figure is measured.

    With --memory ours solves once, without PETSc. A table says who holds which bytes, what the
    process took, and the part of the machine's memory speed that iterations reach
    (hpc_sla.reference.weigh).
    """
    options.check_tolerances(asked.rtol, 0.0, asked.max_iterations)
    if asked.repeats < 1:
        raise InputError(f"is {asked.repeats}", field="--repeats", remedy="Give at least 1.")
    with open_world(asked) as world:
        # Both load torch: see `hpc_sla.cli`.
        from hpc_sla.cli.run import bench, weigh

        return (weigh if asked.memory else bench).run(world, asked)
