"""Eigenpairs of symmetric matrices. `eigsh` is the one entry."""

from __future__ import annotations

from hpc_sla.eigen.solver import eigsh

__all__ = ["eigsh"]
