"""Options that several commands share, each group with the object its values go to.

A command's `Options` has a field for each of its parameters, those of the groups it takes by
inheritance, and the command's function is called with one such object (`filled`, `recorded`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from hpc_sla.cli import exits
from hpc_sla.cli.asked import RunOptions
from hpc_sla.cli.config import configure
from hpc_sla.cli.files import CONFIG, Read, Written, log_names
from hpc_sla.cli.record import Record
from hpc_sla.errors import InputError
from hpc_sla.linear.choices import AUTO, DEFAULT_METHOD, DEFAULT_PRECOND, METHODS
from hpc_sla.precond.choices import CHOICES

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")
R = TypeVar("R", bound=RunOptions)

_OPEN = "Look at the matrix and choose, and go on with another where that does not pay"

RTOL_HELP = "Default: 1e-8, in float32 1e-5."


def filled(kind: type[T]) -> Callable[[Callable[[T], int]], Callable[..., int]]:
    """Call a command with one object of `kind`, of which each parameter is a field."""

    def decorate(function: Callable[[T], int]) -> Callable[..., int]:
        @functools.wraps(function)
        def callback(**parameters: Any) -> int:
            return function(kind(**parameters))

        return callback

    return decorate


def recorded(kind: type[R]) -> Callable[[Callable[[R], int]], Callable[..., int]]:
    """Do as `filled` does, and keep the log and the profile of `run_options` around it."""

    def decorate(function: Callable[[R], int]) -> Callable[..., int]:
        def within(asked: R) -> int:
            if asked.log_all_ranks and asked.log_file is None:
                raise InputError(
                    "needs a file to log to",
                    field="--log-all-ranks",
                    remedy="Add --log-file FILE.",
                )
            with Record(asked.log_file, asked.log_all_ranks, asked.profile) as record:
                record.code = function(asked)
            return record.code

        return filled(kind)(functools.wraps(function)(within))

    return decorate


def method_options(function: Function) -> Function:
    """--method --precond."""
    return _apply(
        function,
        click.option(
            "--method",
            default=DEFAULT_METHOD,
            show_default=True,
            metavar="NAME[:OPTION=VALUE,...]",
            help="Krylov method, as in gmres:restart=50. " + listed(METHODS),
        ),
        click.option(
            "--precond",
            default=DEFAULT_PRECOND,
            show_default=True,
            metavar="NAME[:OPTION=VALUE,...]",
            help="Preconditioner, as in chebyshev:degree=6. " + listed({AUTO: _OPEN, **CHOICES}),
        ),
    )


def tolerance_options(function: Function) -> Function:
    """--rtol --atol --max-iterations."""
    return _apply(
        function,
        click.option(
            "--rtol",
            type=float,
            default=None,
            help=f"Stop when ||b - A x|| <= max(rtol ||b||, atol). {RTOL_HELP}",
        ),
        click.option("--atol", type=float, default=0.0, show_default=True, help="See --rtol."),
        click.option(
            "--max-iterations", type=int, default=None, help="Give up after so many iterations."
        ),
    )


def solver_options(function: Function) -> Function:
    """--method --precond --rtol --atol --max-iterations --rhs."""
    return _apply(
        function,
        method_options,
        tolerance_options,
        click.option(
            "--rhs",
            metavar="NAME",
            help="Right-hand side in the file. Default: the only one, or 'ones'.",
        ),
    )


def world_options(function: Function) -> Function:
    """--device --transport."""
    return _apply(
        function,
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda|cuda:N",
            help="Where each rank computes.",
        ),
        click.option(
            "--transport",
            default="auto",
            show_default=True,
            metavar="auto|mpi|gloo|nccl",
            help="How ranks exchange values.",
        ),
    )


def guard_options(function: Function) -> Function:
    """--checkpoint ... --resume --stall-timeout."""
    return _apply(
        function,
        click.option(
            "--checkpoint",
            type=Written(),
            metavar="FILE",
            help="Save the solver's state there from time to time, and on SIGTERM or SIGUSR1 "
            f"before ending with exit code {exits.PREEMPTED}.",
        ),
        click.option(
            "--checkpoint-every",
            metavar="60s|100iterations",
            default="60s",
            show_default=True,
            help="How often: also 5min, 1h; a number is of seconds.",
        ),
        click.option(
            "--checkpoint-local",
            metavar="DIR",
            help="Save in this folder of each node instead, every rank its own part, and in "
            "--checkpoint from time to time. --resume takes the newer one that is whole.",
        ),
        click.option(
            "--checkpoint-copy-every",
            type=click.IntRange(min=1),
            metavar="K",
            default=10,
            show_default=True,
            help="With --checkpoint-local: each how many-th goes to --checkpoint as well.",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on from --checkpoint; start afresh, with a notice, where there is none.",
        ),
        click.option(
            "--stall-timeout",
            type=float,
            metavar="SECONDS",
            help="End the job where a rank makes no progress for so long, with the stack of every "
            f"rank and exit code {exits.STALLED}. Longer than the longest step: reading, a "
            "factorization, an iteration.",
        ),
    )


def run_options(function: Function) -> Function:
    """--log-file --log-all-ranks --profile --json --config."""
    return _apply(
        function,
        click.option(
            "--log-file",
            type=Written(names=log_names, replaces=False),
            metavar="FILE.jsonl",
            help="Write what happens there, one JSON object a line; added to a log that exists.",
        ),
        click.option(
            "--log-all-ranks",
            is_flag=True,
            help="A log for each rank: run.3.jsonl is that of rank 3 for --log-file run.jsonl.",
        ),
        click.option(
            "--profile",
            is_flag=True,
            help="Measure what the time goes to, and print a table of it at the end.",
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print one JSON object on stdout, nothing else.",
        ),
        config_option,
    )


def config_option(function: Function) -> Function:
    """--config."""
    return _apply(
        function,
        click.option(
            "--config",
            type=Read(),
            metavar="RUN.toml|RESULT.h5",
            is_eager=True,
            expose_value=False,
            callback=_configure,
            help="Options from a TOML file, or those a result was made with; what is given on the "
            "command line comes first.",
        ),
    )


def _configure(context: click.Context, option: click.Parameter, path: str | None) -> None:
    if path is None or context.resilient_parsing:
        return
    context.meta[CONFIG] = path
    configure(context, path)


def listed(choices: Mapping[str, str]) -> str:
    """One paragraph a choice: click keeps lines after a backspace character as they are."""
    return "\n\n\b\n" + "\n".join(f"{name}: {when}" for name, when in choices.items())


def check_tolerances(rtol: float | None, atol: float, max_iterations: int | None) -> None:
    """Refuse tolerances and limits no solver can work with.

    Raises
    ------
    InputError
        Unless ``rtol > 0`` or None, or ``rtol = 0`` and ``atol > 0``; and
        ``max_iterations >= 0``.
    """
    remedy = "Give a positive --rtol, such as 1e-8, or --rtol 0 with a positive --atol."
    for field, value in (("--rtol", rtol), ("--atol", atol)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"is {value:g}", field=field, remedy=remedy)
    if rtol == 0 and atol == 0:
        raise InputError("is 0 and so is --atol", field="--rtol", remedy=remedy)
    if rtol is not None and rtol >= 1:
        raise InputError(
            f"is {rtol:g}, which the zero vector already meets", field="--rtol", remedy=remedy
        )
    if max_iterations is not None and max_iterations < 0:
        raise InputError(
            f"is {max_iterations}",
            field="--max-iterations",
            remedy="Give 0 or more, or leave it out for the default limit.",
        )


def _apply(function: Function, *decorators: Callable[[Any], Any]) -> Function:
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
