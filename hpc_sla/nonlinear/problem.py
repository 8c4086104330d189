"""One nonlinear solve and the linear solves of its derivatives, for `hpc_sla.adjoint`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from hpc_sla.checkpoint.observer import Observer
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError, warn
from hpc_sla.linear.method import Method as LinearMethod
from hpc_sla.nonlinear.derivatives import JacobianSystem, plain
from hpc_sla.nonlinear.equations import Equations, FirstLook, JacobianProducts
from hpc_sla.nonlinear.info import NonlinearInfo, Status
from hpc_sla.nonlinear.linearise import KnownJacobian, Linearisation
from hpc_sla.nonlinear.method import Choices, Increments, NonlinearMethod
from hpc_sla.nonlinear.picard import FixedPoint
from hpc_sla.nonlinear.settings import Settings
from hpc_sla.nonlinear.trust import reverse_mode_fits
from hpc_sla.precond import needs_matrix

Theta = tuple[torch.Tensor, ...]


class NonlinearSolve:
    """F(u, theta) = 0: an `Equation` of `hpc_sla.adjoint`.

    Parameters
    ----------
    residual : callable(u, *tensors)
        Of flat tensors.
    layout : RowLayout
    choices : Choices
    method : NonlinearMethod
    settings : Settings
    maker : hpc_sla.linear.method.Method or None
    wanted : bool
        Whether a gradient may be asked for.

    Attributes
    ----------
    info : NonlinearInfo
    """

    def __init__(
        self,
        residual: Callable[..., torch.Tensor],
        layout: RowLayout,
        choices: Choices,
        method: NonlinearMethod,
        settings: Settings,
        maker: LinearMethod | None,
        wanted: bool,
    ) -> None:
        self.residual, self.layout = residual, layout
        self._choices, self._method, self._settings = choices, method, settings
        self._maker, self._wanted = maker, wanted
        self.info = NonlinearInfo("max_iterations", method=str(method))
        self.precond: Any = None
        self._found: torch.Tensor | None = None
        self._known = KnownJacobian()
        self._compared = False
        self.rtol = choices.adjoint_rtol or 0.0
        self.loosest = choices.loosest_adjoint_rtol

    def solve(self, u0: torch.Tensor, theta: Theta) -> torch.Tensor:
        """What `find` found. Local.

        Inside an autograd Function torch has no forward mode, which products with J use.
        """
        assert self._found is not None
        found, self._found = self._found, None
        return found

    @torch.inference_mode(False)
    @torch.no_grad()
    def find(self, u0: torch.Tensor, theta: Theta, first: FirstLook | None = None) -> None:
        """The solve that was asked for. **Collective.**

        `first` is of u0, if that was looked at.

        Out of inference mode, where torch has no derivatives, nor inside an autograd Function (as
        that of a reentrant `torch.utils.checkpoint`) unless it is told to leave that mode.
        """
        theta = tuple(map(plain, theta))
        u = plain(u0).clone()
        linear = self.linearisation(theta)
        choices, equations, start = self._choices, linear.equations, u
        if first is not None:
            equations.take(u, plain(first[0]), first[1])

        def increments() -> Increments:
            return FixedPoint(equations, self._map(theta), self._scaling(linear, start))

        def attach(iteration: Any) -> None:
            if choices.checkpoint is not None:
                world, identity = self.layout.world, self._identity(start)
                linear.observer = Observer(choices.checkpoint, world)
                Observer(choices.checkpoint, world, lambda: identity).attach(iteration)

        u, norm, status = self._method.run(u, linear, increments, choices, attach)
        self.precond = linear.precond
        self._finish(status, norm)
        self._check(linear)
        self._found = u

    def _identity(self, u: torch.Tensor) -> dict[str, Any]:
        """What a checkpoint belongs to. Local."""
        settings = self._settings
        jacobian = "function" if callable(settings.jacobian) else settings.jacobian
        precond = settings.precond
        return {
            "kind": "nonlinear",
            "rows": self.layout.n_global,
            "dtype": str(u.dtype).removeprefix("torch."),
            "method": str(self._method),
            "jacobian": jacobian,
            "linear_method": settings.linear_method and str(settings.linear_method),
            "precond": str(precond) if needs_matrix(precond) else type(precond).__name__,
        }

    def linearisation(self, theta: Theta) -> Linearisation:
        """Linear systems with the Jacobian at these (plain) tensors. Local."""
        settings = Settings(**vars(self._settings))
        if callable(settings.jacobian):
            jacobian = settings.jacobian
            settings.jacobian = lambda u: jacobian(u, theta)
        equations = Equations(lambda u: self.residual(u, *theta), self.layout, self.info)
        made = Linearisation(settings, self._maker, equations, self._known)
        made.precond = self.precond
        return made

    def _map(self, theta: Theta) -> Callable[[torch.Tensor], torch.Tensor] | None:
        given = self._choices.fixed_point
        return None if given is None else lambda u: given(u, theta)

    def _scaling(
        self, linear: Linearisation, u: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """M^-1 of a fixed-point iteration, of the Jacobian at u0. **Collective.**"""
        if self._choices.fixed_point is not None or linear.settings.precond in (
            None,
            "none",
            "auto",
        ):
            return None
        J, matrix = linear.at(u, None)
        linear.set_up(u, J, matrix)
        M = linear.precond
        assert M is not None

        def apply(r: torch.Tensor) -> torch.Tensor:
            return M.apply(r, torch.empty_like(r)).clone()

        return apply

    def _finish(self, status: Status, norm: float) -> None:
        info, first = self.info, self.info.residual_history[0]
        info.status = status
        info.residual_norm = norm
        info.relative_residual = norm / first if first else norm

    @property
    def one_way(self) -> bool:
        """Whether J and its preconditioner are taken for symmetric."""
        return self._maker is not None and self._maker.needs_symmetric

    def _check(self, linear: Linearisation) -> None:
        """**Collective.**"""
        M = linear.precond
        if not self._wanted or M is None or self.one_way:
            return
        named = isinstance(linear.settings.precond, str)  # then it says the same on every rank
        with nullcontext() if named else self.layout.world.agree():
            if not M.transposable:
                raise InputError(
                    f"the gradient applies the preconditioner's transpose, and {M.name} has none",
                    field="precond",
                    remedy="Pass an object with apply and apply_transpose",
                )

    def exact_products(self, linear: Linearisation, u: torch.Tensor) -> JacobianProducts:
        """Those with J(u) that a derivative must satisfy. **Collective.**

        The first time reverse mode, which they and the gradient with respect to theta go by, is
        held against the residual's values.
        """
        equations = linear.equations
        # Differences are not exact enough, and reverse mode costs nothing where it serves alone.
        forward = self.info.jvp == "forward"
        products = JacobianProducts(equations, u, "forward" if forward else "reverse")
        if not self._compared:
            self._compared = True
            if not reverse_mode_fits(equations, u, products):
                warn(
                    "the gradient of a nonlinear solve may be wrong: what autograd gives for the "
                    "residual's derivative with respect to u is not that of its values (does it "
                    "detach u, have a backward of its own, or use a sum over ranks in its rows "
                    "without world.replicate?)",
                    RuntimeWarning,
                )
        return products

    @property
    def jacobian(self) -> JacobianSystem:
        # Not kept: the two would hold each other, and with them all that a step of training made.
        return JacobianSystem(self)
