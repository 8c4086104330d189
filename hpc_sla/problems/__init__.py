"""Model problems, each built slab by slab: ``make("poisson2d:n=256").rows(r0, r1)``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.problems.anisotropic import anisotropic2d
from hpc_sla.problems.base import (
    RHS_KINDS,
    LinearProblem,
    parameter_text,
    rhs_manufactured,
    rhs_ones,
)
from hpc_sla.problems.bratu import bratu2d, bratu3d
from hpc_sla.problems.convection import convection2d
from hpc_sla.problems.diffusion import diffusion2d
from hpc_sla.problems.distribute import distribute
from hpc_sla.problems.elasticity import elasticity3d
from hpc_sla.problems.graph import graph_laplacian
from hpc_sla.problems.jumps import jumps2d
from hpc_sla.problems.neumann import neumann2d
from hpc_sla.problems.nonlinear import NonlinearProblem, NonlinearSystem
from hpc_sla.problems.nullspace import project_out, rigid_body_modes
from hpc_sla.problems.plaplacian import plaplacian2d
from hpc_sla.problems.poisson import poisson2d, poisson3d
from hpc_sla.problems.reaction import reaction2d
from hpc_sla.problems.unstructured import unstructured3d

__all__ = [
    "RHS_KINDS",
    "LinearProblem",
    "NonlinearProblem",
    "NonlinearSystem",
    "distribute",
    "is_spec",
    "make",
    "make_nonlinear",
    "names",
    "project_out",
    "rhs_manufactured",
    "rhs_ones",
    "rigid_body_modes",
    "signatures",
    "summaries",
    "summaries_nonlinear",
]

_FAMILIES: dict[str, Callable[..., LinearProblem]] = {
    family.__name__: family
    for family in (
        poisson2d,
        poisson3d,
        anisotropic2d,
        jumps2d,
        neumann2d,
        convection2d,
        unstructured3d,
        elasticity3d,
        graph_laplacian,
    )
}

_NONLINEAR: dict[str, Callable[..., NonlinearProblem]] = {
    family.__name__: family for family in (bratu2d, bratu3d, diffusion2d, plaplacian2d, reaction2d)
}

# Their entries must have 64-bit numbers.
_MOST_ROWS = 1 << 56

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def names() -> tuple[str, ...]:
    """The generators' names."""
    return tuple(_FAMILIES)


def signatures() -> tuple[str, ...]:
    """The generators with their parameters' defaults, such as ``poisson2d:n=256``."""
    return tuple(_summaries(_FAMILIES))


def summaries() -> dict[str, str]:
    """Each generator with its defaults, as in `signatures`, and what it is in a line."""
    return _summaries(_FAMILIES)


def summaries_nonlinear() -> dict[str, str]:
    """Each nonlinear problem with its defaults, and what it is in a line."""
    return _summaries(_NONLINEAR)


def _summaries(families: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    return {
        f"{name}:{parameter_text(_defaults(family))}": (inspect.getdoc(family) or "").splitlines()[
            0
        ]
        for name, family in families.items()
    }


def is_spec(text: str) -> bool:
    """Whether `text` names a generator rather than a file."""
    return text.split(":", 1)[0] in _FAMILIES


def make(spec: str) -> LinearProblem:
    """Build a problem from text such as ``poisson2d:n=256`` or ``convection2d:n=64,peclet=10``.

    Parameters left out keep their defaults.

    Raises
    ------
    InputError
        Unknown generator or parameter (the nearest name is suggested), or a value that is not
        a number of the right kind.
    """
    problem: LinearProblem = _build(spec, _FAMILIES)
    return problem


def make_nonlinear(spec: str) -> NonlinearProblem:
    """Build a nonlinear problem from text such as ``bratu2d:n=256,lambda=6``; else as `make`."""
    problem: NonlinearProblem = _build(spec, _NONLINEAR)
    return problem


def _build(spec: str, families: Mapping[str, Callable[..., Any]]) -> Any:
    name, _, given = spec.partition(":")
    if name not in families:
        raise _unknown("generator", name, list(families), spec)
    defaults = _defaults(families[name])
    values: dict[str, Any] = {}
    for item in filter(None, given.split(",")):
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise InputError(
                f"{item!r} is not of the form name=value",
                field=spec,
                remedy=f"Write it as in {name}:" + parameter_text(defaults),
            )
        if key not in defaults:
            raise _unknown("parameter", key, list(defaults), spec)
        if key in values:
            raise InputError(f"{key} is given twice", field=spec, remedy="Leave one of them out.")
        kind = type(defaults[key])
        try:
            values[key] = _TRUTHS[text.lower()] if kind is bool else kind(text)
            if kind is float and not math.isfinite(values[key]):
                raise ValueError
        except (KeyError, ValueError):
            wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
            raise InputError(
                f"{key}={text} is not {wanted}",
                field=spec,
                remedy=f"Such as {parameter_text(defaults)}.",
            ) from None
    given_names = {_text_of(p): p for p in inspect.signature(families[name]).parameters}
    problem = families[name](**{given_names[k]: v for k, v in {**defaults, **values}.items()})
    if problem.n_rows > _MOST_ROWS:
        raise InputError(
            f"has {problem.n_rows} rows, more than {_MOST_ROWS}",
            field=spec,
            remedy="Give a smaller n.",
        )
    return problem


def _defaults(family: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(family).parameters.values()
    return {_text_of(parameter.name): parameter.default for parameter in parameters}


def _text_of(parameter: str) -> str:
    """A parameter as it is written: one that Python reserves has an underscore after it."""
    return parameter.rstrip("_")


def _unknown(what: str, name: str, known: list[str], spec: str) -> InputError:
    near = get_close_matches(name, known, 1, cutoff=0.5)
    guess = f"Did you mean {near[0]}? " if near else ""
    return InputError(
        f"there is no {what} {name!r}",
        field=spec,
        remedy=f"{guess}Known: {', '.join(known)}.",
    )
