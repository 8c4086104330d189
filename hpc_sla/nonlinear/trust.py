"""Whether what autograd gives for a derivative is one.

Torch says nothing where it has none: forward mode is off in places (inference mode), `detach`,
`no_grad` and a way through NumPy cut a graph, a Function of the user's has a formula of its own. A
product with the Jacobian is then 0, or another one. So the first of a solve is held against
differences of the residual.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from hpc_sla.distributed import leaving
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.hashing import noise
from hpc_sla.nonlinear.equations import Equations, JacobianProducts

# Times sqrt(eps): what a one-sided difference may be off by. Beyond it a closer look follows.
_CLOSE = 100.0
# Of the product itself, below which nothing is called wrong.
_NOTHING = {torch.float64: 1e-5, torch.float32: 5e-2}
# Two differences of different steps must agree this much better with each other.
_SURE = 10.0
_NEARBY = 1e-3

_Gap = Callable[[torch.Tensor, torch.Tensor], float]
"""At a point, how far autograd is from the difference there."""


def serving_products(
    equations: Equations, u: torch.Tensor, r: torch.Tensor, asked: str
) -> tuple[str, str]:
    """Which of `PRODUCTS` serve: those asked for, or differences, and why. **Collective.**

    Parameters
    ----------
    equations : Equations
    u, r : torch.Tensor [n_owned]
        r = F(u).
    asked : str
    """
    if asked == "fd":
        return asked, ""
    x = direction(equations, u, 17)

    def product(at: torch.Tensor) -> torch.Tensor:
        return JacobianProducts(equations, at, asked).matvec(x)

    def gap(at: torch.Tensor, d: torch.Tensor) -> float:
        return equations.norm(d - product(at))

    found, why, failed = u, "", None
    try:
        found = product(u)
    except (HpcSlaError, torch.OutOfMemoryError):
        raise  # the latter is this rank's alone: it ends the job
    except (NotImplementedError, RuntimeError) as error:
        # What is no fault of torch's derivatives has shown in F(u).
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        failed = error
    try:
        _meet(equations, failed)
    finally:
        failed = None  # it holds the frames that hold it
    with equations.layout.world.agree() as agreed:
        agreed.say(why)
    why = next(filter(None, agreed.heard), "")
    if why:
        return "fd", f"differences of the residual, since torch cannot differentiate it: {why}"
    d = _difference(equations, u, x, r)
    if _near(d, *equations.norms(d - found, d)) or not _differs(equations, u, x, gap):
        return asked, ""
    return "fd", (
        "differences of the residual, since the products that torch gives are not those of its "
        "values (does it detach u, use another library, or have a derivative of its own?)"
    )


def _meet(equations: Equations, failed: Exception | None) -> None:
    """Wait for all ranks; raise `failed` where they do not come. **Collective.**

    They may be in the midst of a product, waiting for what this rank would have sent there: its
    error then is no lack of a derivative, and ends the job.
    """
    comm = equations.layout.world.comm
    if comm.size == 1:
        return
    request = comm.Ibarrier()
    end = time.monotonic() + leaving.PATIENCE_SECONDS
    while not request.Test():
        if failed is not None and time.monotonic() > end:
            raise failed
        time.sleep(1e-4)


def reverse_mode_fits(equations: Equations, u: torch.Tensor, products: JacobianProducts) -> bool:
    """Whether J^T y of reverse mode is that of the residual's values. **Collective.**

    Parameters
    ----------
    equations : Equations
    u : torch.Tensor [n_owned]
    products : JacobianProducts
        At u.

    Raises
    ------
    InputError
        On every rank, where there is no reverse mode at all.
    """
    _, image = products.graph()
    with equations.layout.world.agree():
        if len(u) and not image.requires_grad:
            raise InputError(
                "there is no gradient: autograd sees no way from the residual back to u",
                field="residual",
                remedy="Compute it with torch, and without detach, no_grad or inference_mode",
            )
    x = direction(equations, u, 19)

    def compared(at: torch.Tensor, d: torch.Tensor) -> tuple[float, float]:
        # y . J x by the difference and by J^T y, for the y along the difference.
        size = equations.norm(d)
        there = products if at is u else JacobianProducts(equations, at)
        pulled = there.rmatvec(d / size if size else d)
        (found,) = equations.sums(torch.dot(x, pulled).double()[None])
        return abs(size - found), size

    d = _difference(equations, u, x, image.detach())
    return _near(d, *compared(u, d)) or not _differs(
        equations, u, x, lambda at, d: compared(at, d)[0]
    )


def direction(equations: Equations, u: torch.Tensor, seed: int) -> torch.Tensor:
    """Numbers between -1 and 1 by chance, the same on any rank count: like u. Local."""
    return torch.from_numpy(noise(equations.layout.rows, seed)).to(u)


def _scale(equations: Equations, u: torch.Tensor) -> float:
    """**Collective.**"""
    largest = equations.layout.world.max(float(u.abs().max()) if u.numel() else 0.0)
    return largest if 0 < largest < math.inf else 1.0


def _difference(
    equations: Equations, u: torch.Tensor, x: torch.Tensor, r: torch.Tensor
) -> torch.Tensor:
    """One-sided. **Collective.**"""
    h = math.sqrt(torch.finfo(u.dtype).eps) * _scale(equations, u)
    return (equations(u + h * x) - r) / h


def _near(d: torch.Tensor, off: float, size: float) -> bool:
    return off <= _CLOSE * math.sqrt(torch.finfo(d.dtype).eps) * size


def _differs(equations: Equations, u: torch.Tensor, x: torch.Tensor, gap: _Gap) -> bool:
    """Whether two central differences agree with each other and not with autograd. **Collective.**

    Nearby and not at u itself: kinks sit at 0, where starts do.
    """
    scale = _scale(equations, u)
    v = u + _NEARBY * scale * direction(equations, u, 23)
    h = torch.finfo(u.dtype).eps ** (1 / 3) * scale
    coarse, fine = ((equations(v + t * x) - equations(v - t * x)) / (2 * t) for t in (h, h / 4))
    spread, size = equations.norms(coarse - fine, fine)
    if not math.isfinite(spread):
        return False
    # A NaN of autograd's where the values have none is as wrong as a 0.
    return not gap(v, fine) <= max(_SURE * spread, _NOTHING[u.dtype] * size)
