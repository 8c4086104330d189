"""Linear solvers. `solve` is the one entry."""

from __future__ import annotations

from hpc_sla.linear.info import MEANINGS, SolveInfo, Status
from hpc_sla.linear.methods import METHODS
from hpc_sla.linear.solve import solve

__all__ = ["MEANINGS", "METHODS", "SolveInfo", "Status", "solve"]
