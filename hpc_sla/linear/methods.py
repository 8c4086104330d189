"""The Krylov methods by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hpc_sla.errors import InputError
from hpc_sla.linear.bicgstab import BiCGStab
from hpc_sla.linear.cg import ConjugateGradient
from hpc_sla.linear.gmres import FlexibleGmres, Gmres
from hpc_sla.linear.method import Method, System
from hpc_sla.linear.minres import Minres
from hpc_sla.linear.pipelined_cg import PipelinedCG
from hpc_sla.precond import Preconditioner


@dataclass(frozen=True)
class Entry:
    """A method as `solve` knows it."""

    about: str
    """When to use it, in a line."""

    make: type[Method]
    solves: Literal["spd", "symmetric", "any"]
    """The matrices it is made for. The first two need a symmetric preconditioner, too."""

    options: dict[str, type] = field(default_factory=dict)

    @property
    def needs_symmetric(self) -> bool:
        """Whether A and M must be symmetric."""
        return self.solves != "any"


ENTRIES = {
    "cg": Entry(
        "conjugate gradients: for symmetric positive definite matrices", ConjugateGradient, "spd"
    ),
    "pipelined_cg": Entry(
        "cg with one hidden reduction an iteration: for many ranks with few rows each",
        PipelinedCG,
        "spd",
        {"replacement": int},
    ),
    "minres": Entry("for symmetric matrices that are not positive definite", Minres, "symmetric"),
    "bicgstab": Entry("for non-symmetric matrices, in little memory", BiCGStab, "any"),
    "gmres": Entry(
        "for non-symmetric matrices: robust, and needs memory for `restart` vectors",
        Gmres,
        "any",
        options={"restart": int},
    ),
    "fgmres": Entry(
        "gmres for a preconditioner that changes from step to step (an inner solve, a network)",
        FlexibleGmres,
        "any",
        options={"restart": int},
    ),
}

METHODS = {name: entry.about for name, entry in ENTRIES.items()}
"""The methods `solve` accepts, with when to use each."""


@dataclass(frozen=True)
class Maker:
    """A method with its options, to be made for a system."""

    name: str
    entry: Entry
    options: dict[str, Any]

    def __call__(self, system: System) -> Method:
        return self.entry.make(system, **self.options)

    def check(self, precond: Preconditioner) -> None:
        """Raise InputError where the method cannot work with the preconditioner. Local."""
        if self.entry.needs_symmetric and not precond.symmetric:
            raise InputError(
                f"{self.name} needs a symmetric preconditioner, and {precond.name} is none",
                field="precond",
                remedy="Choose another, or a method for non-symmetric systems such as gmres",
            )


def make_method(spec: str) -> Maker:
    """The method asked for: a name in `METHODS`, options after a colon. Local.

    Raises
    ------
    InputError
        An unknown name or option, or a value that does not fit it.
    """
    name, _, rest = spec.partition(":")
    if name not in ENTRIES:
        raise InputError(
            f"unknown method {name!r}",
            field="method",
            remedy=f"Choose one of {', '.join(METHODS)}",
        )
    entry, options = ENTRIES[name], {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        kind = entry.options.get(key)
        try:
            if kind is None:
                raise ValueError
            options[key] = kind(value)
        except ValueError:
            known = ", ".join(f"{k}=<{t.__name__}>" for k, t in entry.options.items()) or "none"
            raise InputError(
                f"{name} has no option {item!r}", field="method", remedy=f"Its options: {known}"
            ) from None
    return Maker(name, entry, options)
