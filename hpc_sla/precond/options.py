"""Options of a preconditioner or a method: as keywords, and as text, `degree=6,cycle=W`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from functools import cache
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from hpc_sla.errors import InputError

_LARGEST = 1 << 31
"""No size or count that an option gives is as large: it would not end."""

_KINDS = {int: (Integral, "a whole number"), float: (Real, "a number"), str: (str, "text")}
MOST_PRODUCTS = 1000
"""A preconditioner that multiplies more often each time it is applied is a typing error."""


class WithOptions:
    """What has a name, and options that are its constructor's parameters, each kept by its name.

    Text and numbers are options; what else the constructor takes has no place in a string.
    """

    name: str
    """In strings and in results; default: the class's."""

    always: tuple[str, ...] = ()
    """Options that a string tells even where they are the defaults."""

    def __init__(self) -> None:
        """Without options."""

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        names = options_of(type(self).__init__)
        if not names:
            return {}
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __str__(self) -> str:
        """As `solve` takes it for a string: the name, and the options that are not the defaults."""
        if not options_of(type(self).__init__):
            return self.name.partition(":")[0]
        options = ",".join(f"{key}={_text(value)}" for key, value in self._to_tell(self.always))
        return self.name.partition(":")[0] + (":" + options if options else "")

    def __repr__(self) -> str:
        """As it is written in Python."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._to_tell())})"

    def _to_tell(self, always: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
        defaults = options_of(type(self).__init__)
        return [
            (key, value)
            for key, value in self.options.items()
            if isinstance(value, (str, Real)) and (key in always or value != defaults[key])
        ]

    def replicated(self) -> str:
        """What ranks must agree on. Local."""
        return str(self)

    def check_options(self) -> None:
        """Raise InputError unless each option is of the kind of its default. Local."""
        for key, default in options_of(type(self).__init__).items():
            _check_kind(self.name, key, getattr(self, key), type(default))


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


def check_ratio(name: str, ratio: float) -> None:
    """Raise InputError unless an interval of that `eigenvalue_ratio` is one. Local."""
    if not 1 < ratio < math.inf:
        raise InputError(f"{ratio} is not a number above 1", field=f"{name}:eigenvalue_ratio")


def check_choice(name: str, key: str, value: str, choices: Collection[str]) -> None:
    """Raise InputError unless an option is one of those that it may be. Local."""
    if value not in choices:
        raise InputError(
            f"unknown {key} {value!r}",
            field=f"{name}:{key}",
            remedy=f"Choose one of {', '.join(choices)}",
        )


@cache  # every solve asks, and a signature takes long to read
def options_of(constructor: Callable[..., Any]) -> Mapping[str, Any]:
    """The options that a class's constructor takes, with their defaults."""
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    return MappingProxyType(
        {
            p.name: p.default
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and (p.default is p.empty or isinstance(p.default, (str, Real)))
        }
    )


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
            what = f"{value[:40]!r} is not {_KINDS[kind][1]}"
            raise InputError(what, field=f"{name}:{key}") from error
        _check_kind(name, key, options[key], kind)
    return options


def _check_kind(name: str, key: str, value: Any, kind: type) -> None:
    wanted, what = _KINDS[kind]
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(f"{value!r} is not {what}", field=f"{name}:{key}")
    if kind is int and abs(value) >= _LARGEST:
        raise InputError(f"is {value}, beyond any use", field=f"{name}:{key}")


def _text(value: str | Real) -> str:
    """As text, 30.0 as 30."""
    return str(value).removesuffix(".0")
