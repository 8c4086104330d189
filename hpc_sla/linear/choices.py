"""What methods there are. Needs no torch, so that `--help` can tell."""

from __future__ import annotations

METHODS = {
    "auto": "look at the matrix and choose: says what it chose and why",
    "cg": "conjugate gradients: symmetric positive definite matrices",
    "pipelined_cg": "cg with one hidden reduction an iteration: many ranks with few rows each",
    "minres": "symmetric matrices that are not definite",
    "bicgstab": "any square matrix, in little memory",
    "gmres": "any square matrix: the most robust; keeps `restart` vectors",
    "fgmres": "gmres for a preconditioner that changes from step to step (an inner solve, a "
    "network)",
    "richardson": "the preconditioner on its own: amg, or another that is strong enough",
    "lsqr": "least squares: rectangular or badly conditioned matrices; uses the transpose",
}
"""The methods `solve` accepts, with when to use each. Options follow a colon, by commas."""
