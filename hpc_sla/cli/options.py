"""Options that several commands share, and the checks that need no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from hpc_sla.errors import InputError
from hpc_sla.linear.choices import METHODS
from hpc_sla.precond.choices import CHOICES

Function = TypeVar("Function", bound=Callable[..., Any])

RTOL_HELP = "Default: 1e-8, in float32 1e-5."


def method_options(function: Function) -> Function:
    """--method --precond."""
    return _apply(
        function,
        click.option(
            "--method",
            default="cg",
            show_default=True,
            metavar="NAME[:OPTION=VALUE,...]",
            help="Krylov method, as in gmres:restart=50. " + _listed(METHODS),
        ),
        click.option(
            "--precond",
            default="jacobi",
            show_default=True,
            metavar="NAME[:OPTION=VALUE,...]",
            help="Preconditioner, as in chebyshev:degree=6. " + _listed(CHOICES),
        ),
    )


def solver_options(function: Function) -> Function:
    """--method --precond --rtol --atol --max-iterations --rhs."""
    return method_options(
        _apply(
            function,
            *_tolerances(),
            click.option(
                "--rhs",
                metavar="NAME",
                help="Right-hand side in the file. Default: the only one, or 'ones'.",
            ),
        )
    )


def _listed(choices: Mapping[str, str]) -> str:
    """One paragraph a choice: click keeps lines after a backspace character as they are."""
    return "\n\n\b\n" + "\n".join(f"{name}: {when}" for name, when in choices.items())


def tolerance_options(function: Function) -> Function:
    """--rtol --atol --max-iterations."""
    return _apply(function, *_tolerances())


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


def json_option(function: Function) -> Function:
    """--json."""
    return _apply(
        function,
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print one JSON object on stdout, nothing else.",
        ),
    )


def check_solver_numbers(rtol: float | None, atol: float, max_iterations: int | None) -> None:
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
            remedy="Give 0 or more, or leave it out for no limit of your own.",
        )


def check_solver_names(method: str, precond: str) -> None:
    """Refuse an unknown method, preconditioner or its option before reading. Loads torch.

    Raises
    ------
    InputError
        Naming those there are.
    """
    from hpc_sla.linear.methods import make_method
    from hpc_sla.precond import parse

    def method_known() -> None:
        if method != "auto":
            make_method(method)

    for field, check in (("--method", method_known), ("--precond", lambda: parse(precond))):
        try:
            check()
        except InputError as error:
            raise InputError(error.problem, field=field, remedy=error.remedy) from error


def _tolerances() -> tuple[Callable[[Any], Any], ...]:
    return (
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


def _apply(function: Function, *decorators: Callable[[Any], Any]) -> Function:
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
