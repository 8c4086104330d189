"""Smoothed aggregation multigrid: elliptic problems; iterations hardly grow with their size."""

from hpc_sla.precond.amg.amg import AMG
from hpc_sla.precond.amg.options import AmgOptions

__all__ = ["AMG", "AmgOptions"]
