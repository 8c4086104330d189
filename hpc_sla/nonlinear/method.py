"""What a nonlinear method is, and what one call was asked for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.distributed.arguments import check_count, check_flag, number_of
from hpc_sla.errors import InputError
from hpc_sla.linear.choose import default_rtol
from hpc_sla.nonlinear.choices import METHODS
from hpc_sla.nonlinear.info import Status
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.precond.options import WithOptions

# Times the usual tolerance, for one that was left open and cannot be met for rounding.
_ENOUGH = 100.0

Callback = Callable[[int, float], None]
Increments = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""g(u) - u, of a map g whose fixed point is the root, and F(u), at a u. **Collective.**"""


@dataclass
class Stop:
    """When to stop (replicated).

    Attributes
    ----------
    rtol, atol : float
        At ||F(u)|| <= max(rtol ||F(u0)||, atol).
    max_iterations : int
    divergence : float
        Give up at ||F(u)|| > divergence ||F(u0)||.
    enough : float
        ||F(u)|| <= enough ||F(u0)|| will do where rounding allows no less; 0 where a tolerance was
        asked for.
    """

    rtol: float
    atol: float
    max_iterations: int
    divergence: float = 1e4
    enough: float = 0.0

    def target(self, start: float) -> float:
        return max(self.rtol * start, self.atol)


@dataclass
class Choices:
    """What one call was asked for; `settle` fills in what was left open.

    `fixed_point` is a function of the flat u and theta's tensors.
    """

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

    def settle(self, method: NonlinearMethod, dtype: torch.dtype) -> None:
        """Raise InputError for what cannot work. Local."""
        usual = default_rtol(dtype)
        if self.rtol is None:
            self.rtol, self.enough = usual, _ENOUGH * usual
        for name in ("rtol", "atol", "adjoint_rtol"):
            value = getattr(self, name)
            if value is None and name != "atol":
                continue
            value = number_of(value, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"{value} is not a tolerance", field=name, remedy="Give a number >= 0"
                )
        if self.rtol == 0 and self.atol == 0:
            raise InputError(
                "both tolerances are zero", field="rtol", remedy="Make rtol or atol positive"
            )
        if self.checkpoint is not None and not method.saves:
            raise InputError(
                f"{method.name} cannot save its state",
                field="checkpoint",
                remedy="Use newton, or leave it out and start again from the last u",
            )
        if self.max_iterations is None:
            self.max_iterations = method.limit
        check_count(self.max_iterations, "max_iterations")
        check_flag(self.line_search, "line_search")
        if self.forcing is not None and not 0 < number_of(self.forcing, "forcing") < 1:
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


class NonlinearMethod(WithOptions, ABC):
    """A nonlinear method with its options.

    The parameters of a subclass's constructor are its options: it keeps each under its own name.
    """

    limit: ClassVar[int] = 1000
    """The most iterations, where no limit is asked for."""

    saves: ClassVar[bool] = False
    """Whether it can save its state in a checkpoint."""

    @abstractmethod
    def run(
        self,
        u: torch.Tensor,
        linear: Linearisation,
        increments: Callable[[], Increments],
        choices: Choices,
        attach: Callable[[Any], None],
    ) -> tuple[torch.Tensor, float, Status]:
        """The best iterate from u [n_owned] on, its ||F||, and the status. **Collective.**

        Writes the history to `linear.equations.info`.

        Parameters
        ----------
        u : torch.Tensor [n_owned]
        linear : Linearisation
            Linear systems with the Jacobian; `linear.equations` is F.
        increments : callable()
            Of the fixed-point iteration, for those that need no Jacobian. **Collective.**
        choices : Choices
        attach : callable(iteration)
            For a method that `saves`: to be called before it begins, with the object that
            has its `state_dict` and `load_state_dict`.
        """


def make_method(method: str | NonlinearMethod) -> NonlinearMethod:
    """The method asked for: its name, options after a colon; or itself. Local.

    Raises
    ------
    InputError
        An unknown name or option, a value that does not fit it, or neither.
    """
    if isinstance(method, NonlinearMethod):
        return method
    if not isinstance(method, str):
        raise METHODS.unknown(method, ", or pass an object such as Anderson(memory=5)")
    made: NonlinearMethod = METHODS.make(method)
    return made
