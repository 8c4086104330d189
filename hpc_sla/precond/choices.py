"""What preconditioners there are. Needs no torch, so that `--help` can tell."""

from __future__ import annotations

CHOICES = {
    "none": "no preconditioner: for a matrix whose rows are already well scaled",
    "jacobi": "divide by the diagonal: cheap, exact in parallel, the safe default",
    "l1_jacobi": "jacobi, its diagonal raised by what a row has on other ranks: as a smoother",
    "chebyshev": "a polynomial in D^-1 A, no reductions: symmetric positive definite matrices, "
    "many ranks, GPUs",
    "polynomial": "a truncated Neumann series: as chebyshev, weaker, needs no eigenvalue estimate",
    "block_jacobi": "factor each rank's own block (ilu0, ic0 or lu): a strong default on few ranks",
    "additive_schwarz": "block_jacobi on overlapping blocks: fewer iterations where ranks are "
    "many; use gmres or bicgstab, or type=basic with cg",
    "amg": "smoothed aggregation multigrid: iterations hardly grow with the problem; elliptic "
    "problems, the larger the better",
}
"""The names `solve` accepts, with when to use each. Options follow a colon, by commas."""
