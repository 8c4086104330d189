"""Derivatives of solutions by the adjoint method, as torch.autograd.Functions.

They are given the solver to call, so that they know no solver: see `LinearSystem`.
"""

from __future__ import annotations

from hpc_sla.adjoint.eigen import Pencil, eigenpairs
from hpc_sla.adjoint.forms import (
    Form,
    LocalPattern,
    MatrixForm,
    NormalForm,
    OperatorForm,
    form_of,
    parameters_at_hand,
    parameters_of,
    with_parameters,
)
from hpc_sla.adjoint.least_squares import LeastSquares, LeastSquaresSystem
from hpc_sla.adjoint.linear import LinearSystem, Solve, plainly
from hpc_sla.adjoint.nonlinear import Equation, JacobianForm, root
from hpc_sla.adjoint.wanted import Later, Wanted, agree_on_gradients, hidden_tensors, refuse_hidden

__all__ = [
    "Equation",
    "Form",
    "JacobianForm",
    "Later",
    "LeastSquares",
    "LeastSquaresSystem",
    "LinearSystem",
    "LocalPattern",
    "MatrixForm",
    "NormalForm",
    "OperatorForm",
    "Pencil",
    "Solve",
    "Wanted",
    "agree_on_gradients",
    "eigenpairs",
    "form_of",
    "hidden_tensors",
    "parameters_at_hand",
    "parameters_of",
    "plainly",
    "refuse_hidden",
    "root",
    "with_parameters",
]
