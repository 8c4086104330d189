"""Linear solvers: `LinearSolver`, and `solve` for one right-hand side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.precond.registry import lazily

if TYPE_CHECKING:
    from hpc_sla.linear.choices import METHODS as METHODS
    from hpc_sla.linear.choose import default_rtol as default_rtol
    from hpc_sla.linear.info import MEANINGS as MEANINGS
    from hpc_sla.linear.info import SolveInfo as SolveInfo
    from hpc_sla.linear.info import Status as Status
    from hpc_sla.linear.linear_solver import LinearSolver as LinearSolver
    from hpc_sla.linear.solver import solve as solve

# Loaded on first use: `--help` lists the methods without torch.
_EXPORTS = {
    "LinearSolver": "hpc_sla.linear.linear_solver",
    "MEANINGS": "hpc_sla.linear.info",
    "METHODS": "hpc_sla.linear.choices",
    "SolveInfo": "hpc_sla.linear.info",
    "Status": "hpc_sla.linear.info",
    "default_rtol": "hpc_sla.linear.choose",
    "solve": "hpc_sla.linear.solver",
}

__getattr__, __dir__, __all__ = lazily(__name__, _EXPORTS)
