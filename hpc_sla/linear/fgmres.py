"""GMRES for a preconditioner that changes from step to step (an inner solve, a network)."""

from __future__ import annotations

from hpc_sla.linear.gmres import GMRES


class FGMRES(GMRES):
    """FGMRES (Saad 1993; Saad, 2nd ed., algorithm 9.6): M may differ from step to step.

    As `GMRES`, and keeps the preconditioned vectors too: twice the memory.

    Parameters
    ----------
    restart : int
        Basis vectors kept.
    """

    name = "fgmres"
    petsc = "fgmres"
    scale_free = True
    flexible = True
