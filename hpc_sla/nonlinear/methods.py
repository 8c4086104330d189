"""The nonlinear methods by name, and what one call was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.errors import InputError
from hpc_sla.linear.tolerance import default_rtol
from hpc_sla.nonlinear.choices import METHODS
from hpc_sla.nonlinear.fixed_point import check_relaxation
from hpc_sla.nonlinear.newton import Callback, Stop
from hpc_sla.precond.options import parse_options

# Times the usual tolerance, for one that was left open and cannot be met for rounding.
_ENOUGH = 100.0

_OPTIONS: dict[str, dict[str, Any]] = {
    "newton": {},
    "picard": {"relaxation": 1.0},
    "anderson": {"memory": 5, "relaxation": 1.0},
}


@dataclass(frozen=True)
class Method:
    """A method with its options."""

    spec: str
    name: str
    options: dict[str, Any]


def make_method(spec: str) -> Method:
    """The method asked for, options after a colon. Local.

    Raises
    ------
    InputError
        An unknown name or option, or a value that does not fit it.
    """
    name, _, text = str(spec).partition(":")
    if name not in METHODS:
        raise InputError(
            f"unknown method {name!r}",
            field="method",
            remedy=f"Choose one of {', '.join(METHODS)}",
        )
    known = _OPTIONS[name]
    options = {**known, **parse_options(name, text, known, "method")}
    if "relaxation" in options:
        check_relaxation(options["relaxation"])
    if options.get("memory", 1) < 1:
        raise InputError(f"memory={options['memory']} is not positive", field="method")
    return Method(spec, name, options)


@dataclass
class Choices:
    """What one call was asked for; `settle` fills in what was left open.

    `fixed_point` is a function of the flat u and theta's tensors.
    """

    method: str
    rtol: float | None
    atol: float
    max_iterations: int | None
    forcing: float | None
    line_search: bool
    fixed_point: Callable[..., torch.Tensor] | None
    callback: Callback | None
    adjoint_rtol: float | None
    checkpoint: Checkpoint | None = None
    loosest_adjoint_rtol: tuple[float, float] = (0.0, 0.0)
    """What the solve for a derivative may end at where all fails: without a word, and with one."""
    enough: float = 0.0
    """A relative residual that will do where rounding allows no less."""

    def settle(self, method: Method, limit: int, dtype: torch.dtype) -> None:
        """Raise InputError for what cannot work. Local."""
        usual = default_rtol(dtype)
        if self.rtol is None:
            self.rtol, self.enough = usual, _ENOUGH * usual
        for name in ("rtol", "atol", "adjoint_rtol"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"{value} is not a tolerance", field=name, remedy="Give a number >= 0"
                )
        if self.rtol == 0 and self.atol == 0:
            raise InputError(
                "both tolerances are zero", field="rtol", remedy="Make rtol or atol positive"
            )
        if self.checkpoint is not None and method.name != "newton":
            raise InputError(
                f"{method.name} cannot save its state",
                field="checkpoint",
                remedy="Use newton, or leave it out and start again from the last u",
            )
        if self.max_iterations is None:
            self.max_iterations = limit
        if self.max_iterations < 0:
            raise InputError(f"{self.max_iterations} is negative", field="max_iterations")
        if self.forcing is not None and not 0 < self.forcing < 1:
            raise InputError(
                f"{self.forcing} is not between 0 and 1",
                field="forcing",
                remedy="Give a relative tolerance, or leave it out for Eisenstat and Walker's",
            )
        if self.adjoint_rtol is None:
            self.adjoint_rtol = usual
            if dtype == torch.float64:
                self.adjoint_rtol = min(self.rtol or usual, usual)
            self.loosest_adjoint_rtol = usual, _ENOUGH * usual
        elif self.adjoint_rtol == 0:
            raise InputError("is 0", field="adjoint_rtol", remedy="Make it positive")

    @property
    def stop(self) -> Stop:
        assert self.max_iterations is not None and self.rtol is not None
        return Stop(self.rtol, self.atol, self.max_iterations, enough=self.enough)
