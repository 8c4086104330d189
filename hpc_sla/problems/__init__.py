"""Model problems, each built slab by slab: ``make("poisson2d:n=256").rows(r0, r1)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.problems.anisotropic import anisotropic2d
from hpc_sla.problems.base import RHS_KINDS, Problem, parameter_text
from hpc_sla.problems.convection import convection2d
from hpc_sla.problems.distribute import distribute
from hpc_sla.problems.elasticity import elasticity3d
from hpc_sla.problems.graph import graph_laplacian
from hpc_sla.problems.jumps import jumps2d
from hpc_sla.problems.neumann import neumann2d
from hpc_sla.problems.nullspace import project_out, rigid_body_modes
from hpc_sla.problems.poisson import poisson2d, poisson3d
from hpc_sla.problems.rhs import rhs_manufactured, rhs_ones
from hpc_sla.problems.unstructured import unstructured3d

__all__ = [
    "RHS_KINDS",
    "Problem",
    "distribute",
    "is_spec",
    "make",
    "names",
    "project_out",
    "rhs_manufactured",
    "rhs_ones",
    "rigid_body_modes",
    "signatures",
    "summaries",
]

_FAMILIES: dict[str, Callable[..., Problem]] = {
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

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def names() -> tuple[str, ...]:
    """The generators' names."""
    return tuple(_FAMILIES)


def signatures() -> tuple[str, ...]:
    """The generators with their parameters' defaults, such as ``poisson2d:n=256``."""
    return tuple(f"{name}:{parameter_text(_defaults(name))}" for name in _FAMILIES)


def summaries() -> dict[str, str]:
    """Each generator with its defaults, as in `signatures`, and what it is in a line."""
    lines = (inspect.getdoc(family) or "" for family in _FAMILIES.values())
    return {text: line.splitlines()[0] for text, line in zip(signatures(), lines, strict=True)}


def is_spec(text: str) -> bool:
    """Whether `text` names a generator rather than a file."""
    return text.split(":", 1)[0] in _FAMILIES


def make(spec: str) -> Problem:
    """Build a problem from text such as ``poisson2d:n=256`` or ``convection2d:n=64,peclet=10``.

    Parameters left out keep their defaults.

    Raises
    ------
    InputError
        Unknown generator or parameter (the nearest name is suggested), or a value that is not
        a number of the right kind.
    """
    name, _, given = spec.partition(":")
    if name not in _FAMILIES:
        raise _unknown("generator", name, list(_FAMILIES), spec)
    defaults = _defaults(name)
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
        kind = type(defaults[key])
        try:
            values[key] = _TRUTHS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
            raise InputError(
                f"{key}={text} is not {wanted}",
                field=spec,
                remedy=f"Such as {parameter_text(defaults)}.",
            ) from None
    return _FAMILIES[name](**{**defaults, **values})


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(_FAMILIES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _unknown(what: str, name: str, known: list[str], spec: str) -> InputError:
    near = get_close_matches(name, known, 1, cutoff=0.5)
    guess = f"Did you mean {near[0]}? " if near else ""
    return InputError(
        f"there is no {what} {name!r}",
        field=spec,
        remedy=f"{guess}Known: {', '.join(known)}.",
    )
