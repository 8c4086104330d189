"""Options of a preconditioner or a method as text: `degree=6,eigenvalue_ratio=20`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from hpc_sla.errors import InputError

_LARGEST = 1 << 31
"""No size or count that an option gives is as large: it would not end."""
MOST_PRODUCTS = 1000
"""A preconditioner that multiplies more often each time it is applied is a typing error."""


def check_products(name: str, degree: int, least: int = 1) -> None:
    """Raise InputError unless the polynomial of preconditioner `name` has a usable degree. Local.

    One application is one step of the method around it, which can do nothing in between.
    """
    if degree < least:
        what = "negative" if least == 0 else f"below {least}"
        raise InputError(f"{degree} is {what}", field=f"{name}:degree")
    if degree > MOST_PRODUCTS:
        raise InputError(
            f"{degree} products each time it is applied, more than {MOST_PRODUCTS}",
            field=f"{name}:degree",
            remedy="Choose a lower degree and more iterations",
        )


@cache  # every solve asks, and a signature takes long to read
def options_of(make: Callable[..., Any]) -> Mapping[str, Any]:
    """The options a constructor takes after the matrix or system, with their defaults."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    return MappingProxyType({p.name: p.default for p in parameters})


def parse_options(
    name: str, text: str, known: Mapping[str, Any], field: str = "precond"
) -> dict[str, Any]:
    """The options in `text`, of the types that their defaults have. Local.

    Raises
    ------
    InputError
        Naming the valid ones.
    """
    options: dict[str, Any] = {}
    taken = ", ".join(f"{key}={value}" for key, value in known.items()) or "none"
    for item in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in known or not equals or key in options:
            what = "given twice" if key in options else "not an option"
            raise InputError(
                f"{item.strip()!r} is {what} of {name}",
                field=field,
                remedy=f"Its options, with their defaults: {taken}",
            )
        kind = type(known[key])
        try:
            options[key] = kind(value)
        except ValueError as error:
            number = "a whole number" if kind is int else "a number"
            raise InputError(f"{value[:40]!r} is not {number}", field=f"{name}:{key}") from error
        if kind is int and abs(options[key]) >= _LARGEST:
            raise InputError(f"is {value}, beyond any use", field=f"{name}:{key}")
    return options
