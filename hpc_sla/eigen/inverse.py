"""Small dense pencils whose entries differ by far more than rounding error does.

LAPACK's eigenvectors are good to what rounding allows of the largest entry. Where that is a penalty
on a few rows, or a direction a thousand million times as stiff as those sought, it may be far above
the values sought. Inverse iteration takes the rows as they come, and mends the vectors.
"""

from __future__ import annotations

import math

import torch


def improved(
    A: torch.Tensor, B: torch.Tensor | None, X: torch.Tensor, count: int, turns: int
) -> torch.Tensor:
    """The first `count` vectors, good to what rounding allows of each row. Local.

    Parameters
    ----------
    A, B : float64 tensor [n, n]
        Symmetric, and positive definite; None is the identity.
    X : float64 tensor [n, m]
        About the vectors of the m lowest values.
    turns : int
        At most so many steps.
    """
    eps, tiny = torch.finfo(A.dtype).eps, torch.finfo(A.dtype).tiny
    best, least = X[:, :count], math.inf
    # Of a shift that is nothing beside zero eigenvalues the inverse would overflow.
    nearest = eps**2 * float(A.abs().max()) / (1.0 if B is None else float(B.abs().max()))
    for turn in range(turns + 1):
        X, values = _ritz(A, B, X)
        B_X = X if B is None else B @ X
        if not bool(((X * B_X).sum(dim=0) - 1).abs().max() < _LENGTH):
            break
        sizes = X.abs() if B is None else B.abs() @ X.abs()
        sizes = torch.linalg.vector_norm(A.abs() @ X.abs() + sizes * values.abs(), dim=0)
        residuals = torch.linalg.vector_norm(A @ X - B_X * values, dim=0)
        off = float((residuals / (eps * sizes).clamp(min=tiny))[:count].max())
        if off < least:
            best, least = X[:, :count], off
        if off <= _ROUNDED or turn == turns:
            break
        spread = float(values[-1] - values[0])
        shift = float(values[0]) - max(0.1 * spread, 1e-3 * abs(float(values[0])), nearest, tiny)
        shifted = A - shift * (torch.eye(len(A), dtype=A.dtype, device="cpu") if B is None else B)
        scale = shifted.diagonal().abs()
        scale = torch.where(scale > tiny**0.5, scale, 1.0).rsqrt()
        solved, failed = torch.linalg.solve_ex(
            shifted * scale * scale.unsqueeze(1), B_X * scale.unsqueeze(1)
        )
        if int(failed) or not bool(solved.isfinite().all()):
            break
        X = solved * scale.unsqueeze(1)
        X = X / X.abs().amax(dim=0).clamp(min=tiny)  # of which squares would overflow
    return best


_ROUNDED = 2.0
"""Residuals of so many units of rounding error are as small as they get."""

_LENGTH = 1e-6
"""How far from 1 the squares of vectors may be that are independent."""


def _ritz(
    A: torch.Tensor, B: torch.Tensor | None, X: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rayleigh and Ritz on the span of X. Local."""
    X = X / torch.linalg.vector_norm(X, dim=0)
    for _ in range(2):
        small = X.T @ (X if B is None else B @ X)
        values, Z = torch.linalg.eigh((small + small.T) * 0.5)
        X = X @ (Z * values.clamp(min=torch.finfo(A.dtype).tiny).rsqrt())
    small = X.T @ A @ X
    values, Z = torch.linalg.eigh((small + small.T) * 0.5)
    return X @ Z, values
