"""How large the eigenvalues of a Jacobi-scaled matrix are.

Both functions look at S = |D|^-1/2 sign(D) A |D|^-1/2, which has the eigenvalues of D^-1 A, is
symmetric where A is and D positive, and does not change when such an A is scaled symmetrically.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import noise
from hpc_sla.sparse.matrix import DSparseMatrix

STEPS = 10
"""Steps of Arnoldi's method, as many as PETSc's Chebyshev takes."""


def spectral_bound(A: DSparseMatrix, inverse: torch.Tensor) -> float:
    """No eigenvalue of D^-1 A is larger in modulus. **Collective.**

    The smaller of the infinity norms of D^-1 A and of S. Never 0, and 1 where A is not finite.

    Parameters
    ----------
    A : DSparseMatrix
    inverse : torch.Tensor [n_owned]
        The diagonal of D^-1; 0 in rows that do not count.

    Returns
    -------
    float
        Replicated.
    """
    size = A.values.detach().abs()
    norms = []
    root = inverse.abs().sqrt()
    for left, right in ((inverse.abs(), torch.ones_like(inverse)), (root, root)):
        sums = torch.empty_like(inverse)
        A.pattern.matmul(size, right, sums)
        largest = float((left * sums).max()) if sums.numel() else 0.0
        # MPI's maximum makes of a NaN what it likes.
        norms.append(A.world.max(largest if math.isfinite(largest) else math.inf))
    bound = min(norms)
    return bound if 0 < bound < math.inf else 1.0


def largest_eigenvalue(A: DSparseMatrix, inverse: torch.Tensor, steps: int = STEPS) -> float:
    """The largest real part of an eigenvalue of D^-1 A, from below. **Collective.**

    Of the Hessenberg matrix of Arnoldi's method (Saad, Numerical Methods for Large Eigenvalue
    Problems, 2nd ed., section 6.2) on S; for a symmetric A that is Lanczos' method with full
    orthogonalisation. It starts from the same vector on any number of ranks.

    Parameters
    ----------
    A : DSparseMatrix
    inverse : torch.Tensor [n_owned]
    steps : int

    Returns
    -------
    float
        Replicated. NaN where A is not finite.
    """
    layout = A.layout
    steps = min(steps, layout.n_global)
    root = inverse.abs().sqrt()
    signed = torch.where(inverse < 0, -root, root)
    basis = inverse.new_zeros((steps + 1, layout.n_owned))
    basis[0] = start_vector(layout).to(inverse)
    basis[0] /= _norm(A, basis[0])
    hessenberg = np.zeros((steps + 1, steps))
    w = torch.empty_like(inverse)
    values = A.values.detach()
    for j in range(steps):
        A.pattern.matmul(values, root * basis[j], w)
        w *= signed
        before = _norm(A, w)
        for _ in range(2):  # once more for the digits that the first pass lost
            known = basis[: j + 1]
            overlap = known @ w
            A.world.transport.all_reduce_sum(overlap)
            w -= overlap @ known
            hessenberg[: j + 1, j] += overlap.double().cpu().numpy()
        after = _norm(A, w)
        if not (math.isfinite(before) and math.isfinite(after)):
            return math.nan
        if after <= 100 * torch.finfo(w.dtype).eps * before:  # an invariant subspace
            steps = j + 1
            break
        hessenberg[j + 1, j] = after
        basis[j + 1] = w / after
    if steps == 0:
        return 0.0
    return float(np.linalg.eigvals(hessenberg[:steps, :steps]).real.max())


def start_vector(layout: RowLayout) -> torch.Tensor:
    """Numbers in [-1, 1) that look random, a function of the user's row alone. Local.

    Returns
    -------
    torch.Tensor [n_owned], float64, on the CPU
    """
    return torch.from_numpy(noise(layout.rows + 1, 0))


def _norm(A: DSparseMatrix, x: torch.Tensor) -> float:
    return float(A.layout.norm(x))
