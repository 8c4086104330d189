"""Smoothers: a few steps `p = beta p + alpha D^-1 (b - A x); x += p`, whatever their name."""

from __future__ import annotations

import torch

from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.jacobi import inverse_diagonal
from hpc_sla.sparse.matrix import DSparseMatrix

_SAFETY = 1.1
_DAMPING = 4 / 3


class Steps:
    """The inverse diagonal, and alpha and beta of each step.

    Parameters
    ----------
    inverse : torch.Tensor [n_owned]
        What `smoothing_diagonal` gives.
    largest : float
        Of the eigenvalues of D^-1 A, from below. Replicated.
    options : AmgOptions
    dtype : torch.dtype

    Attributes
    ----------
    inverse : torch.Tensor [n_owned]
        D^-1 times the first alpha, so that the first step from zero is one product.
    coefficients : list of (alpha, beta)
        Relative to that.
    """

    def __init__(
        self,
        inverse: torch.Tensor,
        largest: float,
        options: AmgOptions,
        dtype: torch.dtype,
    ) -> None:
        if options.smoother == "l1_jacobi":
            steps = [(1.0, 0.0)] * options.degree
        else:
            steps = [(_DAMPING / largest, 0.0)] * options.degree
            if options.smoother == "chebyshev":
                upper = _SAFETY * largest
                steps = chebyshev(upper, upper / options.eigenvalue_ratio, options.degree)
        first = steps[0][0]
        self.inverse = (inverse * first).to(dtype)
        self.coefficients = [(alpha / first, beta) for alpha, beta in steps]


def smoothing_diagonal(
    A: DSparseMatrix, inverse: torch.Tensor, options: AmgOptions
) -> torch.Tensor:
    """The diagonal that the steps multiply by: [n_owned]. **Collective** for `l1_jacobi`.

    Parameters
    ----------
    A : DSparseMatrix
    inverse : torch.Tensor [n_owned]
        The diagonal of D^-1; 0 in rows that are to stay as they are.
    options : AmgOptions
    """
    if options.smoother != "l1_jacobi":
        return inverse
    return torch.where(inverse == 0, 0.0, inverse_diagonal(_l1_norms(A)))


def chebyshev(upper: float, lower: float, degree: int) -> list[tuple[float, float]]:
    """Alpha and beta of Chebyshev's iteration on an interval of D^-1 A's eigenvalues.

    Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 12.1.
    """
    theta, delta = (upper + lower) / 2, (upper - lower) / 2
    steps = [(1 / theta, 0.0)]
    rho = delta / theta
    for _ in range(degree - 1):
        previous, rho = rho, 1 / (2 * theta / delta - rho)
        steps.append((2 * rho / delta, rho * previous))
    return steps


def _l1_norms(A: DSparseMatrix) -> torch.Tensor:
    """The sum of a row's moduli, which as a diagonal makes Jacobi converge for any SPD matrix.

    Baker, Falgout, Kolev and Yang, SIAM J. Sci. Comput. 33 (2011), section 4. **Collective.**
    """
    size = A.held.magnitudes()
    sums = torch.empty(A.layout.n_owned, dtype=A.dtype, device=A.device)
    A.pattern.matmul(size, torch.ones_like(sums), sums)
    return sums
