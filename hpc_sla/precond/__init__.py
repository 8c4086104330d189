"""Preconditioners: approximations of A^-1 that are cheap to apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.precond.choices import CHOICES
from hpc_sla.precond.registry import lazily

if TYPE_CHECKING:
    from hpc_sla.precond.additive_schwarz import AdditiveSchwarz as AdditiveSchwarz
    from hpc_sla.precond.amg import AMG as AMG
    from hpc_sla.precond.base import Preconditioner as Preconditioner
    from hpc_sla.precond.block_jacobi import BlockJacobi as BlockJacobi
    from hpc_sla.precond.chebyshev import Chebyshev as Chebyshev
    from hpc_sla.precond.direct import Direct as Direct
    from hpc_sla.precond.jacobi import Jacobi as Jacobi
    from hpc_sla.precond.l1_jacobi import L1Jacobi as L1Jacobi
    from hpc_sla.precond.make import check_known as check_known
    from hpc_sla.precond.make import make_preconditioner as make_preconditioner
    from hpc_sla.precond.make import needs_matrix as needs_matrix
    from hpc_sla.precond.none import Identity as Identity
    from hpc_sla.precond.polynomial import Polynomial as Polynomial
    from hpc_sla.precond.schur import Schur as Schur

# Loaded on first use: `--help` lists the choices without torch.
_EXPORTS = {
    **CHOICES.exports(),
    "CHOICES": "hpc_sla.precond.choices",
    "Preconditioner": "hpc_sla.precond.base",
    "check_known": "hpc_sla.precond.make",
    "make_preconditioner": "hpc_sla.precond.make",
    "needs_matrix": "hpc_sla.precond.make",
}

__getattr__, __dir__, __all__ = lazily(__name__, _EXPORTS)
