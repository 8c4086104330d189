"""Model problems, each built slab by slab: ``make("poisson2d:n=256").rows(r0, r1)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.problems.anisotropic import anisotropic2d
from hpc_sla.problems.base import RHS_KINDS, Problem
from hpc_sla.problems.convection import convection2d
from hpc_sla.problems.poisson import poisson2d, poisson3d
from hpc_sla.problems.rhs import rhs_manufactured, rhs_ones

__all__ = [
    "RHS_KINDS",
    "Problem",
    "is_spec",
    "make",
    "names",
    "rhs_manufactured",
    "rhs_ones",
    "signatures",
]

_FAMILIES: dict[str, Callable[..., Problem]] = {
    family.__name__: family for family in (poisson2d, poisson3d, anisotropic2d, convection2d)
}


def names() -> tuple[str, ...]:
    """The generators' names."""
    return tuple(_FAMILIES)


def signatures() -> tuple[str, ...]:
    """The generators with their parameters' defaults, such as ``poisson2d:n=256``."""
    return tuple(
        f"{name}:" + ",".join(f"{key}={default}" for key, default in _defaults(name).items())
        for name in _FAMILIES
    )


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
                remedy=f"Write it as in {name}:" + _example(defaults),
            )
        if key not in defaults:
            raise _unknown("parameter", key, list(defaults), spec)
        kind = type(defaults[key])
        try:
            values[key] = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise InputError(
                f"{key}={text} is not {wanted}", field=spec, remedy=f"Such as {_example(defaults)}."
            ) from None
    return _FAMILIES[name](**{**defaults, **values})


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(_FAMILIES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _example(defaults: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in defaults.items())


def _unknown(what: str, name: str, known: list[str], spec: str) -> InputError:
    near = get_close_matches(name, known, 1, cutoff=0.5)
    guess = f"Did you mean {near[0]}? " if near else ""
    return InputError(
        f"there is no {what} {name!r}",
        field=spec,
        remedy=f"{guess}Known: {', '.join(known)}.",
    )
