"""PETSc's counterparts of our methods and preconditioners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.linear.gmres import GMRES
from hpc_sla.linear.methods import make_method
from hpc_sla.precond import CHOICES, AdditiveSchwarz, BlockJacobi

_FACTOR = {"ilu0": "ilu", "ic0": "icc", "lu": "lu"}
# PETSc gives up on a residual that has grown by this much. CG's residual may grow for a while
# without harm, and ours has no such rule.
_DIVERGENCE = 1e30
_PREFIX = "hpc_sla_reference_"
# Those of its preconditioners that need no more than is said below.
_PCS = ("none", "jacobi", "bjacobi", "asm", "gamg", "redundant")
_OWN = ("gmres", "block_jacobi")
# PETSc has no lsmr, and its lsqr finds the same solution.
_NEAREST = {"lsmr": "lsqr"}
_LEAST_SQUARES = ("lsqr", "lsmr")


@dataclass(frozen=True)
class Counterpart:
    """A KSP, and how far it does the same.

    Attributes
    ----------
    ksp : petsc4py KSP
    same_iterations : bool
        Whether its iteration count should be ours: the same method with the same preconditioner,
        stopped by the same norm.
    """

    ksp: Any
    same_iterations: bool


def counterpart(
    petsc: Any,
    mat: Any,
    method: str,
    precond: str,
    rtol: float,
    atol: float,
    max_iterations: int,
    singular_values: bool = False,
) -> Counterpart:
    """The KSP that does what `hpc_sla.solve` does with these names. **Collective.**

    The residual norm tested is the *unpreconditioned* one, as ours, where PETSc's method has it
    (minres and lsqr have not). For lsmr, which PETSc has not, it is lsqr.

    Parameters
    ----------
    petsc : module
        petsc4py.PETSc.
    mat : petsc4py Mat
    method, precond : str
        Ours, options included. A preconditioner without a counterpart becomes Jacobi: another
        number of iterations to the same solution.
    rtol, atol : float
    max_iterations : int
    singular_values : bool
        Estimate the extreme ones on the way (cg and gmres can).
    """
    ours = make_method(method)
    name, rows = ours.name, int(mat.getSize()[0])
    ksp = petsc.KSP().create(mat.getComm())
    ksp.setOptionsPrefix(_PREFIX)
    ksp.setOperators(mat)
    ksp.setType(ours.petsc or _NEAREST[name])
    # Before it is set up: the room for them is made then.
    ksp.setComputeSingularValues(singular_values)
    if ours.side == "right" and not ours.transposes:
        ksp.setPCSide(petsc.PC.Side.RIGHT)
    if isinstance(ours, GMRES):
        # As ours does; PETSc makes room for the square of it.
        ksp.setGMRESRestart(min(ours.restart, max(rows, 1)))
    if name not in ("minres", *_LEAST_SQUARES):
        ksp.setNormType(petsc.KSP.NormType.UNPRECONDITIONED)
    same = _set_precond(petsc, ksp, name, precond, rows)
    limit = min(max_iterations, int(np.iinfo(petsc.IntType).max))
    ksp.setTolerances(rtol=rtol, atol=atol, divtol=_DIVERGENCE, max_it=limit)
    ksp.setInitialGuessNonzero(False)
    return Counterpart(ksp, same and name not in ("minres", *_LEAST_SQUARES))


def names_for_petsc(method: str, precond: str) -> tuple[str, str]:
    """What PETSc is to run beside a solve that chose these, by our names. Local.

    The same where it has both; else what it takes by itself: GMRES, with ILU(0) of each rank's
    block.
    """
    try:
        ours, M = make_method(method), CHOICES.make(precond)
    except InputError:  # made by the choosing, and no name that one can ask for
        return _OWN
    return (method, precond) if ours.petsc and M.petsc in _PCS else _OWN


def _set_precond(petsc: Any, ksp: Any, method: str, precond: str, rows: int) -> bool:
    """Choose the PC; whether it is the same as ours."""
    ours = CHOICES.make(precond)
    database, pc = petsc.Options(_PREFIX), ksp.getPC()
    if method in _LEAST_SQUARES or ours.name == "none":
        pc.setType("none")
        return bool(ours.name == "none")
    pc.setType(ours.petsc or "jacobi")
    if isinstance(ours, (BlockJacobi, AdditiveSchwarz)):
        database["sub_pc_type"] = _FACTOR[ours.factor]
    if isinstance(ours, AdditiveSchwarz):
        pc.setASMOverlap(min(ours.overlap, rows))
        database["pc_asm_type"] = ours.type
    if method == "minres" and pc.getType() == "jacobi":
        database["pc_jacobi_abs"] = True
    ksp.setFromOptions()
    # The blocks' solvers read theirs when they are made.
    ksp.setUp()
    for key in ("sub_pc_type", "pc_asm_type", "pc_jacobi_abs"):
        database.delValue(key)
    return ours.name in ("jacobi", "block_jacobi", "additive_schwarz")
