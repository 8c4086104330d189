"""Fused vector updates, with coefficients that are Python numbers or device tensors."""

from __future__ import annotations

import torch

Scalar = float | torch.Tensor
"""A coefficient: a float on the CPU; elsewhere a tensor ([] or [k]), which needs no host sync."""


def across(scale: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A factor of each row [n] in the shape that multiplies `like`, [n] or [n, k]. Local."""
    return scale if like.dim() == 1 else scale.unsqueeze(1)


def axpy_(y: torch.Tensor, a: Scalar, x: torch.Tensor) -> None:
    """`y += a x` in place; `a` may be one value a column. Local."""
    if isinstance(a, torch.Tensor):
        y.addcmul_(x, a)
    else:
        y.add_(x, alpha=a)


def aypx_(y: torch.Tensor, a: Scalar, x: torch.Tensor) -> None:
    """`y = x + a y` in place. Local."""
    if isinstance(a, torch.Tensor):
        torch.addcmul(x, y, a, out=y)
    else:
        torch.add(x, y, alpha=a, out=y)


def dense(b: torch.Tensor) -> torch.Tensor:
    """`b`, contiguous; or as it is where it is one number, expanded to [n]: a vector of no bytes.

    Local. What may be such a vector is read by `torch` and by `kernels.accuracy` alone.
    """
    return b if b.dim() == 1 and b.stride(0) == 0 else b.contiguous()


def copy_(y: torch.Tensor, x: torch.Tensor) -> None:
    """`y = x` in place. Local."""
    # Tensor.copy_ on fake CUDA tensors needs a CUDA build, and the loops are tested without one.
    torch.mul(x, 1.0, out=y)


def inner_products(
    x: torch.Tensor,
    out: torch.Tensor,
    dot: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    square: torch.Tensor | None = None,
) -> None:
    """This rank's parts of the inner products that go with `out = A x`, where asked for. Local.

    Parameters
    ----------
    x, out : torch.Tensor [n] or [n, k]
    dot : torch.Tensor [] or [k], optional
        Overwritten with weights . out, by columns.
    weights : torch.Tensor like out, optional
        Default: x, which is then as long as `out`.
    square : torch.Tensor [] or [k], optional
        Overwritten with out . out, by columns.
    """
    if dot is not None:
        dot_into(dot, x if weights is None else weights, out)
    if square is not None:
        dot_into(square, out, out)


def dot_into(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    """This rank's part of `x . y` into `out` ([] or [k]). Local; no host sync."""
    if x.dim() == 1:
        torch.dot(x, y, out=out)
    else:
        torch.linalg.vecdot(x, y, dim=0, out=out)
