"""Linear solvers: `LinearSolver`, and `solve` for one right-hand side."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_sla.linear.choices import METHODS as METHODS
    from hpc_sla.linear.info import MEANINGS as MEANINGS
    from hpc_sla.linear.info import SolveInfo as SolveInfo
    from hpc_sla.linear.info import Status as Status
    from hpc_sla.linear.linear_solver import LinearSolver as LinearSolver
    from hpc_sla.linear.solver import solve as solve
    from hpc_sla.linear.tolerance import default_rtol as default_rtol

# Loaded on first use: `--help` lists the methods without torch.
_HOMES = {
    "LinearSolver": "linear_solver",
    "MEANINGS": "info",
    "METHODS": "choices",
    "SolveInfo": "info",
    "Status": "info",
    "default_rtol": "tolerance",
    "solve": "solver",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
