"""The Krylov methods by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hpc_sla.errors import InputError
from hpc_sla.linear.bicgstab import BiCGStab
from hpc_sla.linear.cg import ConjugateGradient
from hpc_sla.linear.choices import METHODS
from hpc_sla.linear.gmres import FlexibleGmres, Gmres
from hpc_sla.linear.lsqr import Lsqr
from hpc_sla.linear.method import Method, System
from hpc_sla.linear.minres import Minres
from hpc_sla.linear.pipelined_cg import PipelinedCG
from hpc_sla.linear.richardson import Richardson
from hpc_sla.precond import Preconditioner
from hpc_sla.precond.options import options_of, parse_options


@dataclass(frozen=True)
class Entry:
    """A method as `solve` knows it."""

    make: type[Method]
    solves: Literal["spd", "symmetric", "square", "any"]
    """The matrices it is made for. The first two need a symmetric preconditioner, too."""

    @property
    def needs_symmetric(self) -> bool:
        """Whether A and M must be symmetric."""
        return self.solves in ("spd", "symmetric")


ENTRIES = {
    "cg": Entry(ConjugateGradient, "spd"),
    "pipelined_cg": Entry(PipelinedCG, "spd"),
    "minres": Entry(Minres, "symmetric"),
    "bicgstab": Entry(BiCGStab, "square"),
    "gmres": Entry(Gmres, "square"),
    "fgmres": Entry(FlexibleGmres, "square"),
    "richardson": Entry(Richardson, "square"),
    "lsqr": Entry(Lsqr, "any"),
}


@dataclass(frozen=True)
class Maker:
    """A method with its options, to be made for a system."""

    spec: str
    name: str
    entry: Entry
    options: dict[str, Any]

    def __call__(self, system: System) -> Method:
        return self.entry.make(system, **self.options)

    def check_shape(self, shape: tuple[int, int], square: bool) -> None:
        """Raise InputError where the method cannot work on a matrix of that shape. Local."""
        if not square and self.entry.solves != "any":
            raise InputError(
                f"{self.name} needs a square matrix with one layout of rows and columns, and this "
                f"one is {shape[0]} x {shape[1]}",
                field="method",
                remedy="Use lsqr for a least-squares solution",
            )

    def check_precond(self, precond: Preconditioner) -> None:
        """Raise InputError where the method cannot work with the preconditioner. Local."""
        if self.name == "lsqr" and not precond.transposable:
            raise InputError(
                f"lsqr applies the preconditioner's transpose, and {precond.name} has none",
                field="precond",
                remedy="Pass an object with apply and apply_transpose",
            )
        if self.entry.needs_symmetric and precond.of_nonsymmetric:
            raise InputError(
                f"{self.name} needs a symmetric matrix, and this one is not symmetric: its entries "
                f"were seen when {precond.name} was made",
                field="method",
                remedy="Use gmres or bicgstab",
            )
        if self.entry.needs_symmetric and not precond.symmetric:
            raise InputError(
                f"{self.name} needs a symmetric preconditioner, and {precond.name} is none, "
                "whatever the matrix",
                field="precond",
                remedy="Choose another, or a method for non-symmetric systems such as gmres",
            )


def make_method(spec: str) -> Maker:
    """The method asked for: a name but `auto`, options after a colon. Local.

    Raises
    ------
    InputError
        An unknown name or option, or a value that does not fit it.
    """
    name, _, options = str(spec).partition(":")
    if name not in ENTRIES:
        raise InputError(
            f"unknown method {name!r}",
            field="method",
            remedy=f"Choose one of {', '.join(METHODS)}",
        )
    entry = ENTRIES[name]
    chosen = parse_options(name, options, options_of(entry.make), "method")
    for key, value in chosen.items():
        if value < 1:
            raise InputError(f"{key}={value} is not positive", field="method")
    return Maker(spec, name, entry, chosen)
