"""What a linear solver is made of, as text."""

from __future__ import annotations

from hpc_sla.linear.derivatives import Differentiable
from hpc_sla.linear.set_up import SetUp
from hpc_sla.sparse.operator import Operator


def view(solver: SetUp) -> str:
    """Several lines about a solver that is set up. **Collective**; replicated."""
    operator, method, M = solver.operator, solver.method, solver.precond
    side = "symmetrically" if method.side == "split" else f"from the {method.side}"
    norm = "||b - A x||_2" if operator.square else "||M^-T A^T (b - A x)||_2"
    beside = "b" if operator.square else "M^-T A^T b"
    bound = f"{solver.rtol:g} ||{beside}||_2" + (f" or {solver.atol:g}" if solver.atol else "")
    facts = solver.facts
    lines = [
        f"matrix: {_matrix(solver, operator)}",
        *(f"  {line}" for line in (facts.describe()[1:] if facts else ())),
        f"method: {method!s}, preconditioned {side}",
        f"  chosen: {solver.reason}" if solver.reason else "",
        f"  where it fails: {', '.join(map(str, solver.rungs))}" if solver.rungs else "",
        f"  stops by: {norm}, recomputed from x, below {bound}",
        f"  gives up: after {solver.max_iterations} iterations"
        + (f", or above {solver.dtol:g} ||b||_2" if operator.square else ""),
        f"  PETSc: {f'-ksp_type {method.petsc}' if method.petsc else 'has none like it'}",
        f"preconditioner: {M.name}, {'' if M.symmetric else 'not '}symmetric"
        + ("" if M.transposable else ", without a transpose"),
        f"  PETSc: -pc_type {M.petsc}" if M.petsc else "",
        *(f"  {line}" for line in M.describe()),
        f"derivatives: {_derivatives(solver)}",
        f"  to: {_adjoint_tolerance(solver)}",
    ]
    return "\n".join(line for line in lines if line)


def _matrix(solver: Differentiable, operator: Operator) -> str:
    """**Collective.**"""
    nnz = getattr(solver.A, "nnz_global", None)
    entries = "" if nnz is None else f", {nnz} entries"
    dtype = str(operator.dtype or "the dtype of b").removeprefix("torch.")
    ranks = operator.world.size
    return (
        f"{type(solver.A).__name__}, {operator.shape[0]} x {operator.shape[1]}{entries}, {dtype}, "
        f"on {ranks} rank{'s' if ranks > 1 else ''} ({operator.world.transport.name}, "
        f"{operator.device.type})"
    )


def _adjoint_tolerance(solver: SetUp) -> str:
    """What a derivative's solve must reach, of its own right-hand side. Local."""
    if solver.adjoint_rtol is not None:
        return f"a relative residual of {solver.adjoint_rtol:g}"
    return f"a relative residual of {solver.rtol:g}, or what rounding leaves"


def _derivatives(solver: Differentiable) -> str:
    """**Collective.**"""
    operator = solver.operator
    if not operator.square:
        return "by conjugate gradients on A^T A"
    if solver.one_way and not solver.lopsided:
        return f"by {solver.method.name} on the same matrix, taken for symmetric"
    if solver.one_way:
        return "by gmres on the transpose: the matrix is not symmetric"
    if operator.transposable and solver.precond.transposable:
        return f"by {solver.method.name} on the transpose, with the same preconditioner"
    return "none: there is no transpose"
