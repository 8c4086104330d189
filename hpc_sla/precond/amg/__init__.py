"""Distributed algebraic multigrid."""

from hpc_sla.precond.amg.amg import AMG, amg
from hpc_sla.precond.amg.options import AmgOptions

__all__ = ["AMG", "AmgOptions", "amg"]
