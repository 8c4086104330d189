"""F(u) = 0 at fixed theta: evaluations, norms and products with the Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from hpc_sla.distributed.keep_in_graph import tied
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.nonlinear.info import NonlinearInfo
from hpc_sla.sparse.product import Use, tangents_alike, uses

Function = Callable[[torch.Tensor], torch.Tensor]

FirstLook = tuple[torch.Tensor, list[Use]]
"""F at the start, and the matrices that it multiplied by."""


class Equations:
    """F at fixed theta, counting what is asked of it.

    Parameters
    ----------
    function : callable(u) -> r
        Of this rank's owned entries, checking what it gives. **Collective** in general.
    layout : RowLayout
        Of u and r.
    info : NonlinearInfo
        Where the counts go.
    """

    def __init__(self, function: Function, layout: RowLayout, info: NonlinearInfo) -> None:
        self.function, self.layout, self.info = function, layout, info
        self._uses: list[Use] | None = None
        self._known: tuple[torch.Tensor, torch.Tensor] | None = None

    def take(self, u: torch.Tensor, r: torch.Tensor, found: list[Use]) -> None:
        """Know F(u) = r, until it is asked for, and what F multiplies by. Local."""
        self._known, self._uses = (u, r), found

    def uses(self, u: torch.Tensor) -> list[Use]:
        """The matrices that F multiplied by when it was first evaluated. **Collective.**"""
        if self._uses is None:
            self(u)
        assert self._uses is not None
        return self._uses

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        """F(u), checked. **Collective.** Not differentiable."""
        self.info.residual_evaluations += 1
        known, self._known = self._known, None
        if known is not None and known[0] is u:
            return known[1]
        with torch.no_grad():
            if self._uses is None:
                with uses() as found:
                    r = self.function(u)
                self._uses = found
                return r
            return self.function(u)

    def norm(self, r: torch.Tensor) -> float:
        """||r||_2 in double precision. **Collective**; replicated."""
        return self.norms(r)[0]

    def norms(self, *vectors: torch.Tensor) -> list[float]:
        """Norms of several vectors, in one reduction. **Collective**; replicated."""
        doubles = [v.double() for v in vectors]
        squares = torch.stack([torch.dot(v, v) for v in doubles])
        return [math.sqrt(s) if s >= 0 else math.nan for s in self.sums(squares)]

    def sums(self, partial: torch.Tensor) -> list[float]:
        """Sums over ranks, for the host. **Collective.**"""
        total = partial.detach().contiguous()
        self.layout.world.transport.all_reduce_sum(total)
        found: list[float] = total.tolist()
        return found


class JacobianProducts:
    """J = dF/du at one u as a matrix-free operator, for `hpc_sla.solve` and its parts.

    Parameters
    ----------
    equations : Equations
    u : torch.Tensor [n_owned]
    products : {"forward", "reverse", "fd"}
        See `PRODUCTS`.
    r : torch.Tensor [n_owned], optional
        F(u), for "fd".
    """

    def __init__(
        self,
        equations: Equations,
        u: torch.Tensor,
        products: str = "forward",
        r: torch.Tensor | None = None,
    ) -> None:
        self.layout, self.dtype, self.device = equations.layout, u.dtype, u.device
        self._equations, self._u, self._r = equations, u.detach(), r
        if products == "forward" and not _forward_mode_is_free():
            products = "reverse"
        self._products = products
        self._u_norm: float | None = None
        self._graph: tuple[torch.Tensor, torch.Tensor] | None = None
        self._transposed: tuple[torch.Tensor, torch.Tensor] | None = None

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """J x. **Collective.**"""
        self._equations.info.jacobian_products += 1
        if self._products == "fd":
            return self._difference(x)
        if self._products == "reverse":
            return self._twice_transposed(x)
        with torch.no_grad(), forward_ad.dual_level(), tangents_alike():
            image = self._equations.function(forward_ad.make_dual(self._u, x))
            tangent = forward_ad.unpack_dual(image).tangent
            return torch.zeros_like(x) if tangent is None else tangent.clone()

    def rmatvec(self, y: torch.Tensor) -> torch.Tensor:
        """J^T y, by reverse mode; the residual is evaluated for the first one. **Collective.**"""
        self._equations.info.jacobian_products += 1
        u, image = self.graph()
        return _pulled(image, u, y)

    def graph(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A variable with the values of u, and F as a function of it. **Collective** at first."""
        if self._graph is None:
            with torch.enable_grad():
                u = self._u.clone().requires_grad_()
                self._graph = u, self._equations.function(u)
        return self._graph

    def _twice_transposed(self, x: torch.Tensor) -> torch.Tensor:
        if self._transposed is None:
            with torch.enable_grad():
                u = self._u.clone().requires_grad_()
                image = self._equations.function(u)
                y = torch.zeros_like(image, requires_grad=True)
                if not image.requires_grad:
                    return torch.zeros_like(x)
                with tied(y):
                    (along,) = torch.autograd.grad(
                        image, u, y, create_graph=True, allow_unused=True
                    )
            self._transposed = y, torch.zeros_like(u) if along is None else along
        y, along = self._transposed
        return _pulled(along, y, x)

    def _difference(self, x: torch.Tensor) -> torch.Tensor:
        """One-sided, its step after D. A. Knoll and D. E. Keyes, J. Comput. Phys. 193 (2004), 2.3.

        (F(u + h x) - F(u)) / h with h = sqrt(eps (1 + ||u||)) / ||x||.
        """
        if self._u_norm is None:
            (self._u_norm,) = self._equations.norms(self._u)
        (size,) = self._equations.norms(x)
        if not 0 < size < math.inf:
            return torch.zeros_like(x) if size == 0 else x * math.nan
        h = math.sqrt(torch.finfo(x.dtype).eps * (1.0 + self._u_norm)) / size
        if self._r is None:
            self._r = self._equations(self._u)
        return (self._equations(self._u + h * x) - self._r) / h


def _forward_mode_is_free() -> bool:
    """Torch has one level of forward mode, and the caller may be in it."""
    try:
        with forward_ad.dual_level():
            return True
    except RuntimeError:
        return False


def _pulled(image: torch.Tensor, u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if not image.requires_grad:
        return torch.zeros_like(u)
    (found,) = torch.autograd.grad(image, u, y, retain_graph=True, allow_unused=True)
    return torch.zeros_like(u) if found is None else found
