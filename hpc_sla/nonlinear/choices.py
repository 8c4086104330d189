"""What nonlinear methods there are. Needs no torch, so that `--help` can tell."""

from __future__ import annotations

from hpc_sla.precond.registry import Registry

METHODS = Registry(
    "hpc_sla.nonlinear",
    {"newton": "Newton", "picard": "Picard", "anderson": "Anderson"},
    kind="method",
    field="method",
)
"""The names `nonlinear_solve` accepts, with when to use each. Options follow a colon."""

JACOBIANS = {
    "matrix_free": "exact products by automatic differentiation, no matrix",
    "coloured": "a matrix on a given pattern, from a few products by colouring its columns",
}
"""How Newton has its Jacobian; or a function of the user's that returns a DSparseMatrix."""

PRODUCTS = {
    "forward": "exact, by forward mode: communicates in the residual's own order; evaluates the "
    "residual with each product",
    "reverse": "exact, by transposing the transposed product, on a graph that is made once for all "
    "products at one u: about twice as fast; for residuals of which every rank's part depends on "
    "all that communicates (docs/how-to/nonlinear.md)",
    "fd": "finite differences of the residual, for code that torch cannot differentiate",
}
"""How a product with the Jacobian is found without a matrix."""
