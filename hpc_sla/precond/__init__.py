"""Preconditioners: approximations of A^-1 that are cheap to apply."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_sla.precond.amg import AMG as AMG
    from hpc_sla.precond.amg import AmgOptions as AmgOptions
    from hpc_sla.precond.base import Identity as Identity
    from hpc_sla.precond.base import Preconditioner as Preconditioner
    from hpc_sla.precond.block_jacobi import BlockJacobi as BlockJacobi
    from hpc_sla.precond.chebyshev import Chebyshev as Chebyshev
    from hpc_sla.precond.choices import CHOICES as CHOICES
    from hpc_sla.precond.jacobi import Jacobi as Jacobi
    from hpc_sla.precond.jacobi import L1Jacobi as L1Jacobi
    from hpc_sla.precond.make import make_preconditioner as make_preconditioner
    from hpc_sla.precond.make import parse as parse
    from hpc_sla.precond.polynomial import Polynomial as Polynomial
    from hpc_sla.precond.schwarz import AdditiveSchwarz as AdditiveSchwarz

# Loaded on first use: `--help` lists the choices without torch.
_HOMES = {
    "CHOICES": "choices",
    "AMG": "amg",
    "AdditiveSchwarz": "schwarz",
    "AmgOptions": "amg",
    "BlockJacobi": "block_jacobi",
    "Chebyshev": "chebyshev",
    "Identity": "base",
    "Jacobi": "jacobi",
    "L1Jacobi": "jacobi",
    "Polynomial": "polynomial",
    "Preconditioner": "base",
    "make_preconditioner": "make",
    "parse": "make",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
