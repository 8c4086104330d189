"""Sparse direct solvers for a matrix that one process holds: one module per backend.

Everything here is local to a rank: nothing communicates.
"""

from __future__ import annotations

from hpc_sla.direct.base import Factorization
from hpc_sla.direct.factorize import METHODS, factorize
from hpc_sla.direct.registry import BACKENDS, Backend
from hpc_sla.errors import SingularMatrixError

__all__ = [
    "BACKENDS",
    "METHODS",
    "Backend",
    "Factorization",
    "SingularMatrixError",
    "factorize",
]
