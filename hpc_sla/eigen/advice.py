"""What to change where pairs did not converge."""

from __future__ import annotations

from dataclasses import replace

import torch

from hpc_sla.eigen.lobpcg import Lobpcg
from hpc_sla.eigen.precondition import GRADED, spread
from hpc_sla.eigen.problem import EigenProblem, magnitudes
from hpc_sla.linear.info import SolveInfo, Status
from hpc_sla.precond import make_preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix

_NULL = 1e-10
"""v . B v beside |v| |B||v|, below which B is as good as singular."""

_LOOK = 100
"""Iterations to look for such a v."""

_HUGE = 1e6
"""Ratio of diagonal entries that a hierarchy does not bridge."""

_NEAR = 1e3
"""Residuals up to so many times tol are within reach of a looser one."""

SINGULAR = (
    "B is singular, or nearly: vectors of its null space have infinite eigenvalues, which the "
    "largest run into. Ask for the smallest of A x = lambda B x, or for those of B x = mu A x, or "
    "leave out the unknowns without mass"
)
_TAKE_OUT = "rows of huge entries (Dirichlet conditions by penalty) taken out of the matrix"


def advice(problem: EigenProblem, info: SolveInfo, matrix: object, mass: object) -> list[str]:
    """The likeliest first; nothing where all is well. **Collective**; replicated.

    Parameters
    ----------
    problem : EigenProblem
    info : SolveInfo
    matrix, mass : object
        A and B, as they were given.
    """
    status: Status = info.status
    if status in ("converged", "preempted"):
        return []
    largest = problem.sign < 0
    if largest and problem.B is not None and _is_singular(problem, mass):
        return [SINGULAR]
    kind = problem.precond.name.partition(":")[0]
    graded = spread(matrix)
    if info.method == "dense":  # without a preconditioner or guesses
        return ["float64"] if problem.dtype == torch.float32 else [_TAKE_OUT, "a larger tol"]
    tries = []
    if any(not c.converged and c.relative_residual <= problem.tol for c in info.columns):
        tries.append("x0 left out: whether there are pairs beside these guesses is open")
    if largest and kind not in ("none", "jacobi of B"):
        tries.append(f"no preconditioner: {kind} is made for the smallest pairs, not the largest")
    if not largest and kind == "none":
        tries.append("jacobi" if graded >= GRADED else "amg for an elliptic problem, or jacobi")
    if not largest and kind not in ("none", "jacobi"):
        tries.append(
            "jacobi, where rows are of very different size"
            if graded >= GRADED
            else "another preconditioner: it is to approximate A, and to be positive definite"
        )
    if graded >= _HUGE and not largest:
        tries.append(_TAKE_OUT)
    if problem.dtype == torch.float32:
        tries.append("float64: rounding in float32 may allow no smaller residual")
    if info.relative_residual <= _NEAR * problem.tol:
        tries.append("a larger tol, where the residuals are good enough")
    tries.append("a larger guard, where eigenvalues beyond k are close to those wanted")
    if status == "max_iterations":
        tries.append("a larger max_iterations")
    return tries


def _is_singular(problem: EigenProblem, mass: object) -> bool:
    """Whether there is a v of which B, made of `mass`, makes next to nothing. **Collective.**"""
    assert problem.B is not None
    B, world = problem.B, problem.A.world
    if isinstance(mass, DSparseMatrix):
        diagonal = mass.diagonal()
        if world.max(float((diagonal <= 0).any())):
            return True
    look = replace(
        problem,
        A=B,
        B=None,
        precond=make_preconditioner(None, B),
        k=1,
        m=3,
        sign=1.0,
        tol=1e-3,
        max_iterations=_LOOK,
        constraints=None,
        callback=None,
        attach=None,
    )
    v = Lobpcg(look, None).run().vectors
    parts = [v.double() * problem.B_times(v), v.double().abs() * magnitudes(B, v)]
    square, size = problem.all_sum(torch.stack([part.sum() for part in parts])).tolist()
    return square <= max(_NULL, 10 * problem.eps) * size
