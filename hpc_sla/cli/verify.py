"""``verify``: the same rows through PETSc or SciPy; do they agree?"""

from __future__ import annotations

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import VerifyOptions
from hpc_sla.cli.files import Read
from hpc_sla.cli.session import open_world


@click.command("verify", short_help="Compare products and solution with PETSc or SciPy.")
@click.argument("file", metavar="FILE.h5|GENERATOR", type=Read(generators=True))
@click.option(
    "--against",
    type=click.Choice(["petsc", "scipy"]),
    help="Default: petsc where it is installed, else scipy (a direct solve on one rank).",
)
@options.solver_options
@options.world_options
@options.run_options
@options.recorded(VerifyOptions)
def command(asked: VerifyOptions) -> int:
    """Put the rows of FILE.h5, or of a generator, into another library's matrix, and compare.

    Compared are A x, A^T x, the solution of A x = b, and, of a method and a preconditioner that are
    named, the number of iterations.

    Exit codes: 0 all agree, 1 they do not, 2 bad input or usage, 3 the products agree and the
    solve did not converge.
    """
    options.check_tolerances(asked.rtol, asked.atol, asked.max_iterations)
    with open_world(asked) as world:
        from hpc_sla.cli.run.verify import run  # loads torch: see `hpc_sla.cli`

        return run(world, asked)
