"""What was published, and what is to be reached.

Tables 1 to 3 of Z. Chi, torch-sla (January 2026): the 5-point Laplacian, float64, NVIDIA H200,
CUDA 12.4, PyTorch 2.2. The paper says neither which right-hand side it solved for nor what its
residuals are relative to; here b is of ones, and a residual is ||b - A x|| / ||b||.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A line of a table.

    Attributes
    ----------
    n : int
        Points of the grid along a side; n^2 rows.
    seconds : float or None
        None where the table has no such line.
    residual : float
        What its solution is good to, and ours is asked for.
    """

    n: int
    seconds: float | None
    residual: float


TABLE1 = (
    Published(100, 0.020, 1e-9),
    Published(316, 0.043, 1e-7),
    Published(1000, 0.190, 1e-7),
    Published(1414, 0.418, 1e-7),
    Published(4000, 7.3, 1e-6),
    Published(9000, 75.9, 1e-6),
    Published(13000, 224.0, 1e-6),
)
"""One GPU, CG with Jacobi."""

TABLE1_DIRECT = {
    "SciPy SuperLU": (0.024, 0.029, 19.4, 52.9, None, None, None),
    "cuDSS Cholesky": (0.128, 0.630, 7.3, 15.6, None, None, None),
}
"""Seconds at the sizes of `TABLE1`; None: out of memory."""

TABLE1_BYTES = (36e6, 76e6, 474e6, 916e6, 7.1e9, 35.9e9, 74.8e9)
"""Of CG, at the sizes of `TABLE1`."""

TABLE2_RANKS = 4

TABLE2 = (
    Published(100, 0.18, 7.5e-9),
    Published(316, 0.61, 1.2e-8),
    Published(707, 1.64, 1.2e-7),
    Published(1000, 2.82, 4.0e-7),
    Published(1414, 6.02, 1.3e-6),
)
"""`TABLE2_RANKS` GPUs, CG."""

TABLE2_BYTES = (0.03e9, 0.05e9, 0.15e9, 0.27e9, 0.50e9)
"""Of a GPU, at the sizes of `TABLE2`."""

TABLE3 = {
    "linear solve": ("< 1e-6", "2 solves"),
    "eigenvalues, k=6": ("< 1e-5", "1 forward + 1 LOBPCG"),
    "nonlinear solve": ("< 1e-6", "Newton + 1 adjoint"),
}
"""By operation: the relative error beside differences, and the solves of forward and backward."""

GOAL_CARD = "H200"
"""In the name of the card on which goals are judged."""

GOALS = {1000: 0.020, 4000: 0.3, 9000: 1.5, 13000: 3.5}
"""Seconds in which amg is to solve Table 1's sizes on that card, set-up included."""

GOAL_SHARE = 0.85
"""Part of the triad's speed at which CG with Jacobi is to iterate, from `GOAL_SHARE_FROM` rows."""

GOAL_SHARE_FROM = 10**6
