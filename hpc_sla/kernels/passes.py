"""The vector updates of bicgstab, minres and pipelined_cg in few passes over memory.

Each function says what it computes; on the CPU with one thread it is a loop in C (`passes.c`),
elsewhere the same in torch operations. Vectors are `[n]` or `[n, k]`, coefficients floats or
tensors ([] or [k]), sums tensors [m] or [m, k] of this rank's parts. `inverse` is the pointwise
preconditioner's, `[n]`, or None for the identity.
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.vectors import Scalar, across, axpy_, aypx_, copy_, dot_into

Tensor = torch.Tensor


def bicgstab_half(
    r: Tensor, alpha: Scalar, v: Tensor, inverse: Tensor | None, r_hat: Tensor
) -> Tensor:
    """`r -= alpha v`, and the preconditioned r: in `r_hat`, or r itself."""
    if native.serves(r):
        a = native.coefficients(r, alpha)
        native.call("bicgstab_half", r, r.shape[0], *a, v, inverse, r, r_hat)
        return r if inverse is None else r_hat
    axpy_(r, _minus(alpha), v)
    return r if inverse is None else torch.mul(r, across(inverse, r), out=r_hat)


def bicgstab_full(
    x: Tensor,
    r: Tensor,
    alpha: Scalar,
    omega: Scalar,
    p_hat: Tensor,
    s_hat: Tensor,
    t: Tensor,
    shadow: Tensor,
    sums: Tensor,
) -> None:
    """`x += alpha p_hat + omega s_hat; r -= omega t; sums = [shadow . r, r . r]`."""
    if native.serves(r):
        coefficients = native.coefficients(r, alpha, omega)
        wide = _wide(sums)
        vectors = (p_hat, s_hat, t, shadow, x, r)
        native.call("bicgstab_full", r, r.shape[0], *coefficients, *vectors, wide)
        if wide is not sums:
            sums.copy_(wide)
        return
    axpy_(x, alpha, p_hat)
    axpy_(x, omega, s_hat)
    axpy_(r, _minus(omega), t)
    dot_into(sums.select(0, 0), shadow, r)
    dot_into(sums.select(0, 1), r, r)


def bicgstab_turn(
    p: Tensor, beta: Scalar, omega: Scalar, r: Tensor, v: Tensor, inverse: Tensor | None
) -> None:
    """`p = inverse r + beta (p - omega inverse v)`: the preconditioned direction, kept as such."""
    if native.serves(r):
        coefficients = native.coefficients(r, beta, omega)
        native.call("bicgstab_turn", r, r.shape[0], *coefficients, r, v, inverse, p)
        return
    if inverse is not None:
        scale = across(inverse, r)
        r, v = r * scale, v * scale
    axpy_(p, _minus(omega), v)
    aypx_(p, beta, r)


def minres_lanczos(
    q: Tensor,
    v_old: Tensor,
    v: Tensor,
    r: Tensor,
    back: Scalar,
    delta: Scalar,
    scale: Scalar,
    inverse: Tensor | None,
    sums: Tensor,
) -> None:
    """`v_old = (q - back v_old - delta v) scale; q = inverse v_old`, and with the new v_old = u

    `sums = [u . q, u . r, u . u]`.
    """
    if native.serves(r):
        coefficients = native.coefficients(r, back, delta, scale)
        wide = _wide(sums)
        vectors = (v, r, inverse, v_old, q)
        native.call("minres_lanczos", r, r.shape[0], *coefficients, *vectors, wide)
        if wide is not sums:
            sums.copy_(wide)
        return
    aypx_(v_old, _minus(back), q)
    axpy_(v_old, _minus(delta), v)
    v_old.mul_(scale)
    if inverse is None:
        copy_(q, v_old)
    else:
        torch.mul(v_old, across(inverse, v_old), out=q)
    for i, other in enumerate((q, r, v_old)):
        dot_into(sums.select(0, i), v_old, other)


def minres_direction(
    w_old: Tensor,
    w: Tensor,
    z: Tensor,
    v: Tensor,
    x: Tensor,
    r: Tensor,
    older: Scalar,
    old: Scalar,
    scale: Scalar,
    step: Scalar,
    shrink: Scalar,
    turn: Scalar,
) -> None:
    """`w_old = (z - older w_old - old w) scale; x += step w_old; r = shrink r + turn v`."""
    if native.serves(r):
        coefficients = native.coefficients(r, older, old, scale, step, shrink, turn)
        native.call("minres_direction", r, r.shape[0], *coefficients, z, w, v, w_old, x, r)
        return
    aypx_(w_old, _minus(older), z)
    axpy_(w_old, _minus(old), w)
    w_old.mul_(scale)
    axpy_(x, step, w_old)
    r.mul_(shrink)
    axpy_(r, turn, v)


def pipelined_sums(
    r: Tensor, u: Tensor, w: Tensor, m: Tensor, inverse: Tensor | None, sums: Tensor
) -> None:
    """`m = inverse w; sums = [r . u, w . u, r . r]`."""
    if _serves_one(r):
        wide = _wide(sums)
        native.call("pipelined_sums", r, r.shape[0], inverse, r, u, w, m, wide)
        if wide is not sums:
            sums.copy_(wide)
        return
    if inverse is None:
        copy_(m, w)
    else:
        torch.mul(w, across(inverse, w), out=m)
    for i, (one, other) in enumerate(((r, u), (w, u), (r, r))):
        dot_into(sums.select(0, i), one, other)


def pipelined_step(
    x: Tensor,
    r: Tensor,
    u: Tensor,
    w: Tensor,
    m: Tensor,
    n: Tensor,
    z: Tensor,
    q: Tensor,
    s: Tensor,
    p: Tensor,
    alpha: Scalar,
    beta: Scalar,
    inverse: Tensor | None,
    sums: Tensor,
) -> None:
    """`z, q, s, p = n, m, w, u + beta (z, q, s, p); x += alpha p; r, u, w -= alpha (s, q, z)`,

    and what `pipelined_sums` makes of these.
    """
    if _serves_one(r):
        coefficients = native.coefficients(r, alpha, beta)
        wide = _wide(sums)
        vectors = (inverse, n, m, z, q, s, p, x, r, u, w)
        native.call("pipelined_step", r, r.shape[0], *coefficients, *vectors, wide)
        if wide is not sums:
            sums.copy_(wide)
        return
    for one, other in ((z, n), (q, m), (s, w), (p, u)):
        aypx_(one, beta, other)
    axpy_(x, alpha, p)
    for one, other in ((r, s), (u, q), (w, z)):
        axpy_(one, _minus(alpha), other)
    pipelined_sums(r, u, w, m, inverse, sums)


def _serves_one(r: Tensor) -> bool:
    """Whether there are compiled passes over vectors like this one, of one column."""
    return r.dim() == 1 and native.serves(r)


def _wide(sums: Tensor) -> Tensor:
    """Zeros to sum in: `sums` itself where it is of doubles."""
    return (
        sums.zero_() if sums.dtype == torch.float64 else torch.zeros_like(sums, dtype=torch.float64)
    )


def _minus(a: Scalar) -> Scalar:
    return -a
