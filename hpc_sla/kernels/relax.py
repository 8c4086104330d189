"""A rank-local sparse product and what a multigrid cycle does with it, in one pass over memory.

Each function says what it computes; on the CPU with one thread it is a loop in C (`relax.c`),
elsewhere the same in torch operations. Vectors are `[n]` or `[n, k]`. With `rows`, the matrix has
only those rows, and what it adds goes to an `out` to which the rest was added before.
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.vectors import across

Tensor = torch.Tensor


def affine(
    pattern: CsrPattern,
    values: Tensor,
    x: Tensor,
    scale: float,
    out: Tensor,
    b: Tensor | None = None,
    rows: Tensor | None = None,
) -> None:
    """`out = b + scale A x`, or `out[rows] += scale A x`. b may be out."""
    if pattern.compiled(x):
        (factor,) = native.coefficients(x, scale)
        arrays = (pattern.indptr, pattern.indices, values)
        native.call("csr_affine", x, pattern.n_rows, *arrays, x, rows, b, factor, out)
        return
    product = x.new_empty((pattern.n_rows, *x.shape[1:]))
    pattern.matmul(values, x, product)
    if rows is not None:
        out.index_add_(0, rows, product, alpha=scale)
    elif b is not None:
        torch.add(b, product, alpha=scale, out=out)


def relax(
    pattern: CsrPattern,
    values: Tensor,
    x: Tensor,
    b: Tensor,
    inverse: Tensor,
    alpha: float,
    beta: float,
    before: Tensor | None,
    after: Tensor | None,
    out: Tensor,
) -> None:
    """`q = beta before + alpha inverse (b - A x); out = x + q; after = q`.

    before and after may be None, and may be one tensor; before may be x. out is another.
    """
    if pattern.compiled(x):
        _native(pattern, values, x, x, None, b, inverse, alpha, beta, before, after, out)
        return
    residual = torch.empty_like(b)
    pattern.matmul(values, x, residual)
    torch.sub(b, residual, out=residual)
    residual.mul_(across(inverse, b)).mul_(alpha)
    if before is not None:
        residual.add_(before, alpha=beta)
    torch.add(x, residual, out=out)
    if after is not None:
        torch.mul(residual, 1.0, out=after)


def relax_rest(
    pattern: CsrPattern,
    values: Tensor,
    x: Tensor,
    rows: Tensor,
    inverse: Tensor,
    alpha: float,
    after: Tensor | None,
    out: Tensor,
) -> None:
    """Add what `relax` lacks of this part of A: `out[rows]`, `after[rows] -= alpha inverse A x`."""
    if pattern.compiled(x):
        _native(pattern, values, x, None, rows, None, inverse, alpha, 0.0, None, after, out)
        return
    lost = x.new_empty((pattern.n_rows, *x.shape[1:]))
    pattern.matmul(values, x, lost)
    lost.mul_(across(inverse.index_select(0, rows), lost))
    for changed in (out, after):
        if changed is not None:
            changed.index_add_(0, rows, lost, alpha=-alpha)


def _native(
    pattern: CsrPattern,
    values: Tensor,
    x: Tensor,
    here: Tensor | None,
    rows: Tensor | None,
    b: Tensor | None,
    inverse: Tensor,
    alpha: float,
    beta: float,
    before: Tensor | None,
    after: Tensor | None,
    out: Tensor,
) -> None:
    coefficients = torch.tensor([alpha, beta], dtype=x.dtype, device="cpu")
    arrays = (pattern.indptr, pattern.indices, values)
    vectors = (x, here, rows, b, inverse, coefficients, before, after, out)
    native.call("csr_relax", x, pattern.n_rows, *arrays, *vectors)
