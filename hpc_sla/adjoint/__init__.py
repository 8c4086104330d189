"""Derivatives of solutions by the adjoint method, as torch.autograd.Functions.

They are given the solver to call, so that they know no solver: see `System`.
"""

from __future__ import annotations

from hpc_sla.adjoint.eigen import Pencil, eigenpairs
from hpc_sla.adjoint.forms import Form, MatrixForm, NormalForm, OperatorForm
from hpc_sla.adjoint.least_squares import LeastSquaresSystem, least_squares
from hpc_sla.adjoint.linear import System, solve
from hpc_sla.adjoint.local import LocalPattern
from hpc_sla.adjoint.nonlinear import Equation, JacobianForm, root
from hpc_sla.adjoint.wanted import Wanted, hidden_tensors, refuse_hidden

__all__ = [
    "Equation",
    "Form",
    "JacobianForm",
    "LeastSquaresSystem",
    "LocalPattern",
    "MatrixForm",
    "NormalForm",
    "OperatorForm",
    "Pencil",
    "System",
    "Wanted",
    "eigenpairs",
    "hidden_tensors",
    "least_squares",
    "refuse_hidden",
    "root",
    "solve",
]
