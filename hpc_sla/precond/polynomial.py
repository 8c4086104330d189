"""A truncated Neumann series: as chebyshev, weaker, needs no eigenvalue estimate."""

from __future__ import annotations

import torch

from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.chebyshev import Product
from hpc_sla.precond.decoupled import for_spectrum
from hpc_sla.precond.jacobi import inverse_diagonal
from hpc_sla.precond.options import check_products
from hpc_sla.precond.spectrum import spectral_bound
from hpc_sla.precond.workspace import Workspace, scale
from hpc_sla.sparse.matrix import DSparseMatrix


class Polynomial(Preconditioner):
    """`sum_{i=0}^{degree} (I - w D^-1 A)^i w D^-1`, D the diagonal of A.

    Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., section 12.3.1. Safe in that
    w = 1 / b with b a bound on the eigenvalues' moduli that needs no estimate
    (`spectral_bound`): where A is symmetric positive definite, the eigenvalues of w D^-1 A lie in
    (0, 1], so that the series converges and each truncation is symmetric positive definite too.

    Applying takes `degree` products and no reduction. `Chebyshev` gets more out of as many; this
    one asks less of the spectrum.

    Parameters
    ----------
    degree : int
        0 to 1000; 0 is Jacobi up to a factor.

    Attributes
    ----------
    weight : float
        w, once it is set up. Replicated.

    Raises
    ------
    InputError
        For a degree out of range.
    """

    name = "polynomial"
    capturable = True
    always = ("degree",)

    def __init__(self, degree: int = 3) -> None:
        self.degree = degree
        self.check_options()
        check_products("polynomial", degree, 0)

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        self.weight = 1 / spectral_bound(*for_spectrum(A))
        self._weighted = inverse_diagonal(A.diagonal()) * self.weight
        self._pattern, self._values = A.pattern, A.values.detach()
        self._work = Workspace(1, A.layout.n_owned)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            return self._apply(self._pattern.matmul, r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            return self._apply(self._pattern.rmatmul, r, out)

    def _apply(self, product: Product, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        # Horner's scheme, which is Richardson's iteration: z += w D^-1 (r - A z).
        (q,) = self._work.like(r)
        scale(r, self._weighted, out)
        for _ in range(self.degree):
            product(self._values, out, q)
            torch.sub(r, q, out=q)
            out.add_(scale(q, self._weighted, q))
        return out
