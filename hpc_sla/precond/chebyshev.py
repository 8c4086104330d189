"""A polynomial in D^-1 A, no reductions: symmetric positive definite, many ranks, GPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.decoupled import for_spectrum
from hpc_sla.precond.jacobi import inverse_diagonal
from hpc_sla.precond.options import check_products, check_ratio
from hpc_sla.precond.spectrum import largest_eigenvalue, spectral_bound
from hpc_sla.precond.workspace import Workspace, scale
from hpc_sla.sparse.matrix import DSparseMatrix

_SAFETY = 1.1

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class Chebyshev(Preconditioner):
    """`degree` steps of the Chebyshev iteration on A z = r from z = 0.

    Its residual is T_d((theta - D^-1 A) / delta) / T_d(theta / delta) with D the diagonal of A
    and T_d the Chebyshev polynomial of the first kind, the smallest that there is on the
    interval theta +- delta (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed.,
    algorithm 12.1; as a smoother: Adams, Brezina, Hu and Tuminaro, J. Comput. Phys. 188, 2003).
    The interval ends a tenth above the largest eigenvalue of D^-1 A as ten steps of Lanczos'
    method see it, but not beyond a bound that holds for sure.

    Applying takes degree - 1 products (the first step needs none) and no reduction. Meant for
    matrices whose D^-1 A has positive eigenvalues.

    Parameters
    ----------
    degree : int
        1 to 1000; 1 is Jacobi up to a factor.
    eigenvalue_ratio : float
        Upper over lower end of the interval, above 1.

    Attributes
    ----------
    largest, smallest : float
        The ends of the interval, once it is set up. Replicated.

    Raises
    ------
    InputError
        For options out of range.
    """

    name = "chebyshev"
    capturable = True
    always = ("degree", "eigenvalue_ratio")

    def __init__(self, degree: int = 4, eigenvalue_ratio: float = 30.0) -> None:
        self.degree, self.eigenvalue_ratio = degree, eigenvalue_ratio
        self.check_options()
        check_products("chebyshev", degree)
        check_ratio("chebyshev", eigenvalue_ratio)

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        self._inverse = inverse_diagonal(A.diagonal())
        seen = for_spectrum(A)
        bound, estimate = spectral_bound(*seen), _SAFETY * largest_eigenvalue(*seen)
        self.largest = min(estimate, bound) if estimate > 0 else bound
        self.smallest = self.largest / self.eigenvalue_ratio
        self._pattern, self._values = A.pattern, A.values.detach()
        self._work = Workspace(3, A.layout.n_owned)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            return self._apply(self._pattern.matmul, r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.** The same polynomial of D^-1 A^T: p(D^-1 A) D^-1 transposed."""
        with self._turns:
            return self._apply(self._pattern.rmatmul, r, out)

    def _apply(self, product: Product, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        theta = (self.largest + self.smallest) / 2
        delta = (self.largest - self.smallest) / 2
        scale(r, self._inverse, out).mul_(1 / theta)
        if self.degree == 1:
            return out
        direction, residual, q = self._work.like(r)
        copy_(direction, out)
        copy_(residual, r)
        rho = delta / theta
        for _ in range(self.degree - 1):
            product(self._values, direction, q)
            residual.sub_(q)
            previous, rho = rho, 1 / (2 * theta / delta - rho)
            scale(residual, self._inverse, q)
            direction.mul_(rho * previous).add_(q, alpha=2 * rho / delta)
            out.add_(direction)
        return out
