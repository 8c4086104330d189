"""Nonlinear solvers. `nonlinear_solve` is the one entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.precond.registry import lazily

if TYPE_CHECKING:
    from hpc_sla.nonlinear.choices import METHODS as METHODS
    from hpc_sla.nonlinear.coloured import ColouredJacobian as ColouredJacobian
    from hpc_sla.nonlinear.colouring import colour_columns as colour_columns
    from hpc_sla.nonlinear.info import MEANINGS as MEANINGS
    from hpc_sla.nonlinear.info import NonlinearInfo as NonlinearInfo
    from hpc_sla.nonlinear.solver import nonlinear_solve as nonlinear_solve

# Loaded on first use: `--help` lists the methods without torch.
_EXPORTS = {
    "MEANINGS": "hpc_sla.nonlinear.info",
    "METHODS": "hpc_sla.nonlinear.choices",
    "ColouredJacobian": "hpc_sla.nonlinear.coloured",
    "NonlinearInfo": "hpc_sla.nonlinear.info",
    "colour_columns": "hpc_sla.nonlinear.colouring",
    "nonlinear_solve": "hpc_sla.nonlinear.solver",
}

__getattr__, __dir__, __all__ = lazily(__name__, _EXPORTS)
