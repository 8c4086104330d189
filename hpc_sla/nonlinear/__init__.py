"""Nonlinear solvers. `nonlinear_solve` is the one entry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_sla.nonlinear.choices import METHODS as METHODS
    from hpc_sla.nonlinear.coloured import ColouredJacobian as ColouredJacobian
    from hpc_sla.nonlinear.colouring import colour_columns as colour_columns
    from hpc_sla.nonlinear.info import MEANINGS as MEANINGS
    from hpc_sla.nonlinear.info import NonlinearInfo as NonlinearInfo
    from hpc_sla.nonlinear.solver import nonlinear_solve as nonlinear_solve

# Loaded on first use: `--help` lists the methods without torch.
_HOMES = {
    "MEANINGS": "info",
    "METHODS": "choices",
    "ColouredJacobian": "coloured",
    "NonlinearInfo": "info",
    "colour_columns": "colouring",
    "nonlinear_solve": "solver",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
