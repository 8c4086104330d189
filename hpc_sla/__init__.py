"""Differentiable distributed sparse linear algebra on PyTorch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.linear.choices import METHODS
from hpc_sla.nonlinear.choices import METHODS as NONLINEAR_METHODS
from hpc_sla.precond.choices import CHOICES
from hpc_sla.precond.registry import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hpc_sla.checkpoint.checkpoint import Checkpoint as Checkpoint
    from hpc_sla.distributed.layout import RowLayout as RowLayout
    from hpc_sla.distributed.world import World as World
    from hpc_sla.eigen.solver import eigsh as eigsh
    from hpc_sla.errors import AccuracyWarning as AccuracyWarning
    from hpc_sla.errors import AdjointSolveError as AdjointSolveError
    from hpc_sla.errors import DegenerateEigenvaluesError as DegenerateEigenvaluesError
    from hpc_sla.errors import HpcSlaError as HpcSlaError
    from hpc_sla.errors import InputError as InputError
    from hpc_sla.errors import NotConvergedError as NotConvergedError
    from hpc_sla.errors import NotConvergedWarning as NotConvergedWarning
    from hpc_sla.errors import PartialGradientWarning as PartialGradientWarning
    from hpc_sla.errors import SingularMatrixError as SingularMatrixError
    from hpc_sla.linear import SolveInfo as SolveInfo
    from hpc_sla.linear.bicgstab import BiCGStab as BiCGStab
    from hpc_sla.linear.cg import CG as CG
    from hpc_sla.linear.fgmres import FGMRES as FGMRES
    from hpc_sla.linear.gmres import GMRES as GMRES
    from hpc_sla.linear.linear_solver import LinearSolver as LinearSolver
    from hpc_sla.linear.lsmr import LSMR as LSMR
    from hpc_sla.linear.lsqr import LSQR as LSQR
    from hpc_sla.linear.method import Method as Method
    from hpc_sla.linear.minres import MINRES as MINRES
    from hpc_sla.linear.pipelined_cg import PipelinedCG as PipelinedCG
    from hpc_sla.linear.richardson import Richardson as Richardson
    from hpc_sla.linear.solver import solve as solve
    from hpc_sla.nonlinear import NonlinearInfo as NonlinearInfo
    from hpc_sla.nonlinear.anderson import Anderson as Anderson
    from hpc_sla.nonlinear.method import NonlinearMethod as NonlinearMethod
    from hpc_sla.nonlinear.newton import Newton as Newton
    from hpc_sla.nonlinear.picard import Picard as Picard
    from hpc_sla.nonlinear.solver import nonlinear_solve as nonlinear_solve
    from hpc_sla.observe.monitors import FileMonitor as FileMonitor
    from hpc_sla.observe.monitors import Monitor as Monitor
    from hpc_sla.observe.monitors import PrintMonitor as PrintMonitor
    from hpc_sla.observe.monitors import TensorBoardMonitor as TensorBoardMonitor
    from hpc_sla.precond.additive_schwarz import AdditiveSchwarz as AdditiveSchwarz
    from hpc_sla.precond.amg import AMG as AMG
    from hpc_sla.precond.base import Preconditioner as Preconditioner
    from hpc_sla.precond.block_jacobi import BlockJacobi as BlockJacobi
    from hpc_sla.precond.chebyshev import Chebyshev as Chebyshev
    from hpc_sla.precond.direct import Direct as Direct
    from hpc_sla.precond.jacobi import Jacobi as Jacobi
    from hpc_sla.precond.l1_jacobi import L1Jacobi as L1Jacobi
    from hpc_sla.precond.none import Identity as Identity
    from hpc_sla.precond.polynomial import Polynomial as Polynomial
    from hpc_sla.precond.schur import Schur as Schur
    from hpc_sla.sparse.from_hdf5 import read_rhs as read_rhs
    from hpc_sla.sparse.matrix import DSparseMatrix as DSparseMatrix
    from hpc_sla.sparse.operator import LinearOperator as LinearOperator
    from hpc_sla.sparse_tensor import SparseTensor as SparseTensor
    from hpc_sla.sparse_tensor import SparseTensorList as SparseTensorList

# Names are loaded on first use: `partition`, `info` and `--help` need neither torch nor MPI.
_EXPORTS = {
    "AccuracyWarning": "hpc_sla.errors",
    "AdjointSolveError": "hpc_sla.errors",
    "Checkpoint": "hpc_sla.checkpoint.checkpoint",
    "DSparseMatrix": "hpc_sla.sparse.matrix",
    "DegenerateEigenvaluesError": "hpc_sla.errors",
    "FileMonitor": "hpc_sla.observe.monitors",
    "HpcSlaError": "hpc_sla.errors",
    "InputError": "hpc_sla.errors",
    "LinearOperator": "hpc_sla.sparse.operator",
    "LinearSolver": "hpc_sla.linear",
    "Method": "hpc_sla.linear.method",
    "Monitor": "hpc_sla.observe.monitors",
    "NonlinearInfo": "hpc_sla.nonlinear",
    "NonlinearMethod": "hpc_sla.nonlinear.method",
    "NotConvergedError": "hpc_sla.errors",
    "NotConvergedWarning": "hpc_sla.errors",
    "PartialGradientWarning": "hpc_sla.errors",
    "Preconditioner": "hpc_sla.precond.base",
    "PrintMonitor": "hpc_sla.observe.monitors",
    "RowLayout": "hpc_sla.distributed.layout",
    "SingularMatrixError": "hpc_sla.errors",
    "SolveInfo": "hpc_sla.linear",
    "SparseTensor": "hpc_sla.sparse_tensor",
    "SparseTensorList": "hpc_sla.sparse_tensor",
    "TensorBoardMonitor": "hpc_sla.observe.monitors",
    "World": "hpc_sla.distributed.world",
    "eigsh": "hpc_sla.eigen",
    "nonlinear_solve": "hpc_sla.nonlinear",
    "read_rhs": "hpc_sla.sparse.from_hdf5",
    "solve": "hpc_sla.linear",
    **METHODS.exports(),
    **NONLINEAR_METHODS.exports(),
    **CHOICES.exports(),
}

__getattr__, __dir__, __all__ = lazily(__name__, _EXPORTS)
