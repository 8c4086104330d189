"""Solutions beside SciPy's direct solver on the CPU; true residuals by SciPy's product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from plan import Plan
from record import Record

import hpc_sla as hs
from hpc_sla.problems import distribute, make

RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Asked for. In float32 far enough above rounding, which depends on the size."""

METHODS = ("cg", "minres", "bicgstab", "gmres", "pipelined_cg")
PRECONDS = ("jacobi", "chebyshev", "amg")


@dataclass
class Oracle:
    """On rank 0; the rest holds None.

    Attributes
    ----------
    A : scipy.sparse.csr_array
    b, x : ndarray [n]
        x by SuperLU.
    condition : float
        By which a relative residual may understate the error: ||A|| ||A^-1||, estimated.
    """

    A: Any
    b: np.ndarray
    x: np.ndarray
    condition: float


def right_hand_side(rows: int) -> np.ndarray:
    """Noise, the same everywhere: [rows], float64."""
    return np.random.default_rng(7).standard_normal(rows)


def ask(spec: str) -> Oracle:
    """SciPy's answer. Local."""
    A = sp.csc_array(make(spec).matrix())
    b = right_hand_side(A.shape[0])
    lu = scipy.sparse.linalg.splu(A)
    operator = scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=lu.solve, rmatvec=lambda y: lu.solve(y, "T"), dtype=A.dtype
    )
    inverse = scipy.sparse.linalg.onenormest(operator)
    return Oracle(A.tocsr(), b, lu.solve(b), float(inverse * scipy.sparse.linalg.norm(A, 1)))


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """**Collective.**"""
    symmetric = f"poisson2d:n={plan.answers}"
    for dtype in RTOL:
        choices = [(method, precond) for precond in PRECONDS for method in METHODS]
        _solve_all(world, record, symmetric, dtype, choices)
    skew = f"convection2d:n={plan.answers}"
    choices = [
        (method, precond) for precond in ("jacobi", "amg") for method in ("bicgstab", "gmres")
    ]
    _solve_all(world, record, skew, torch.float64, choices)


def _solve_all(
    world: hs.World, record: Record, spec: str, dtype: torch.dtype, choices: list[tuple[str, str]]
) -> None:
    """**Collective.**"""
    oracle = ask(spec) if world.rank == 0 else None
    A = distribute(make(spec), world, dtype)
    right = None if oracle is None else torch.from_numpy(oracle.b).to(dtype)
    b = A.layout.scatter(right)
    for method, precond in choices:
        bits = str(dtype).removeprefix("torch.")
        name = f"{spec.partition(':')[0]}, {bits}: {method} + {precond}"
        with record.attempt(name):
            x, info = hs.solve(A, b, method, precond, rtol=RTOL[dtype])
            whole = A.layout.gather(x)
            if oracle is not None and whole is not None:
                _judge(record, name, oracle, whole.cpu().double().numpy(), info, RTOL[dtype])


def _judge(
    record: Record, name: str, oracle: Oracle, x: np.ndarray, info: hs.SolveInfo, rtol: float
) -> None:
    """On rank 0. What the solver says of itself counts for nothing, but for being told."""
    residual = np.linalg.norm(oracle.b - oracle.A @ x) / np.linalg.norm(oracle.b)
    error = np.linalg.norm(x - oracle.x) / np.linalg.norm(oracle.x)
    # In float32 b itself is rounded, and so are the residuals that the solver looks at.
    allowed = rtol * (1.001 if info.dtype == "float64" else 1.5)
    record.check(
        name,
        bool(residual <= allowed and error <= oracle.condition * allowed),
        status_told=info.status,
        iterations=info.iterations,
        residual=float(residual),
        residual_allowed=allowed,
        error=float(error),
        error_allowed=oracle.condition * allowed,
        solution_norm=float(np.linalg.norm(x)),
    )
