"""Differentiable distributed sparse linear algebra on PyTorch tensors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hpc_sla.checkpoint.checkpoint import Checkpoint as Checkpoint
    from hpc_sla.distributed.layout import RowLayout as RowLayout
    from hpc_sla.distributed.world import World as World
    from hpc_sla.eigen.solver import eigsh as eigsh
    from hpc_sla.errors import AdjointSolveError as AdjointSolveError
    from hpc_sla.errors import DegenerateEigenvaluesError as DegenerateEigenvaluesError
    from hpc_sla.errors import HpcSlaError as HpcSlaError
    from hpc_sla.errors import InputError as InputError
    from hpc_sla.errors import NotConvergedWarning as NotConvergedWarning
    from hpc_sla.errors import PartialGradientWarning as PartialGradientWarning
    from hpc_sla.errors import SingularMatrixError as SingularMatrixError
    from hpc_sla.linear import SolveInfo as SolveInfo
    from hpc_sla.linear.bicgstab import BiCGStab as BiCGStab
    from hpc_sla.linear.cg import CG as CG
    from hpc_sla.linear.fgmres import FGMRES as FGMRES
    from hpc_sla.linear.gmres import GMRES as GMRES
    from hpc_sla.linear.linear_solver import LinearSolver as LinearSolver
    from hpc_sla.linear.lsqr import LSQR as LSQR
    from hpc_sla.linear.method import Method as Method
    from hpc_sla.linear.minres import MINRES as MINRES
    from hpc_sla.linear.pipelined_cg import PipelinedCG as PipelinedCG
    from hpc_sla.linear.richardson import Richardson as Richardson
    from hpc_sla.linear.solver import solve as solve
    from hpc_sla.nonlinear import NonlinearInfo as NonlinearInfo
    from hpc_sla.nonlinear.solver import nonlinear_solve as nonlinear_solve
    from hpc_sla.sparse.from_hdf5 import read_rhs as read_rhs
    from hpc_sla.sparse.matrix import DSparseMatrix as DSparseMatrix
    from hpc_sla.sparse.operators import LinearOperator as LinearOperator
    from hpc_sla.sparse_tensor import SparseTensor as SparseTensor

# Names are loaded on first use: `partition`, `info` and `--help` need neither torch nor MPI.
_HOMES = {
    "AdjointSolveError": "hpc_sla.errors",
    "BiCGStab": "hpc_sla.linear.bicgstab",
    "CG": "hpc_sla.linear.cg",
    "Checkpoint": "hpc_sla.checkpoint.checkpoint",
    "DSparseMatrix": "hpc_sla.sparse.matrix",
    "DegenerateEigenvaluesError": "hpc_sla.errors",
    "FGMRES": "hpc_sla.linear.fgmres",
    "GMRES": "hpc_sla.linear.gmres",
    "HpcSlaError": "hpc_sla.errors",
    "InputError": "hpc_sla.errors",
    "LSQR": "hpc_sla.linear.lsqr",
    "LinearOperator": "hpc_sla.sparse.operators",
    "LinearSolver": "hpc_sla.linear",
    "MINRES": "hpc_sla.linear.minres",
    "Method": "hpc_sla.linear.method",
    "NonlinearInfo": "hpc_sla.nonlinear",
    "NotConvergedWarning": "hpc_sla.errors",
    "PartialGradientWarning": "hpc_sla.errors",
    "PipelinedCG": "hpc_sla.linear.pipelined_cg",
    "Richardson": "hpc_sla.linear.richardson",
    "RowLayout": "hpc_sla.distributed.layout",
    "SingularMatrixError": "hpc_sla.errors",
    "SolveInfo": "hpc_sla.linear",
    "SparseTensor": "hpc_sla.sparse_tensor",
    "World": "hpc_sla.distributed.world",
    "eigsh": "hpc_sla.eigen",
    "nonlinear_solve": "hpc_sla.nonlinear",
    "read_rhs": "hpc_sla.sparse.from_hdf5",
    "solve": "hpc_sla.linear",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
