"""``grad``: the gradient of a loss of the solution, with respect to the matrix and b."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_sla.cli import options
from hpc_sla.cli.asked import GradOptions
from hpc_sla.cli.files import Read, Written, default_output
from hpc_sla.cli.session import open_world
from hpc_sla.errors import InputError

LOSSES = ("sum", "norm2", "misfit")


@click.command("grad", short_help="Differentiate a loss of the solution; check by differences.")
@click.argument("file", metavar="FILE.h5|GENERATOR", type=Read(generators=True))
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="norm2",
    show_default=True,
    help="Of the solution x: the sum of x, ||x||_2, or ||x - target||_2^2 / 2.",
)
@click.option(
    "--target",
    type=Read(lambda target: bool(Path(target).suffix)),
    metavar="NAME|FILE",
    help="For misfit: a known solution in FILE.h5, by the name of its right-hand side (default: "
    "that of --rhs), or a vector in your order (.npy, .mtx).",
)
@click.option(
    "--adjoint-rtol", type=float, default=None, help="Of the backward solve. Default: --rtol's."
)
@click.option(
    "--check",
    is_flag=True,
    help="Compare with central differences in random directions, over a ladder of steps.",
)
@options.solver_options
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "gradient", 0), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.gradient.h5 in the current folder.",
)
@options.run_options
@options.recorded(GradOptions)
def command(asked: GradOptions) -> int:
    """Solve A x = b of FILE.h5 or a generator, and differentiate a loss of x by A and b.

    The result has x, the gradient with respect to b and, on the matrix's pattern in compressed
    rows, that with respect to A, all in your order.

    Exit codes: 0 done, 1 failed or the check does not agree, 2 bad input or usage, 3 a solve did
    not converge (the result is written, without gradients).
    """
    options.check_tolerances(asked.rtol, asked.atol, asked.max_iterations)
    backward = asked.rtol if asked.adjoint_rtol is None else asked.adjoint_rtol
    if backward is not None and not backward > 0:
        raise InputError(
            "the backward solve has no tolerance",
            field="--adjoint-rtol",
            remedy="Give a positive number, such as 1e-8.",
        )
    if asked.target is not None and asked.loss != "misfit":
        raise InputError(
            f"{asked.loss} has no target", field="--target", remedy="Use --loss misfit."
        )
    with open_world(asked) as world:
        from hpc_sla.cli.run.grad import run  # loads torch: see `hpc_sla.cli`

        return run(world, asked)
