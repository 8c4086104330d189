"""A rank-local sparse product and what a multigrid cycle does with it, in one pass over memory.

Each function says what it computes; on the CPU with one thread it is a loop in C (`relax.c`, or of
another form of matrix), of one column on a GPU one launch (`triton_products.py`), elsewhere the
same in torch operations. Vectors are `[n]` or `[n, k]`. With
`rows`, the matrix has only those rows, and what it adds goes to an `out` to which the rest was
added before.
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrMatrix
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.device_products import DeviceRows
from hpc_sla.kernels.matrix import Matrix, RankMatrix
from hpc_sla.kernels.vectors import across

Tensor = torch.Tensor


def affine(
    A: RankMatrix,
    x: Tensor,
    scale: float,
    out: Tensor,
    b: Tensor | None = None,
    rows: Tensor | None = None,
) -> None:
    """`out = b + scale A x`, or `out[rows] += scale A x`. b may be out."""
    matrix = _compiled(A, x)
    if matrix is not None:
        factor = native.numbers(x, scale)
        native.call_on("affine", x, matrix.address, x, rows, b, factor, out)
        return
    launch = _launch(A, x, out, b)
    if launch is not None:
        launch(x, out, rows=rows, b=b, scale=scale)
        return
    product = x.new_empty((A.n_rows, *x.shape[1:]))
    A.matmul(x, product)
    if rows is not None:
        out.index_add_(0, rows, product, alpha=scale)
    elif b is not None:
        torch.add(b, product, alpha=scale, out=out)


def relax(
    A: RankMatrix,
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
    matrix = _compiled(A, x)
    if matrix is not None:
        numbers = native.numbers(x, alpha, beta)
        vectors = (x, x, None, b, inverse, numbers, before, after, out)
        native.call_on("relax", x, matrix.address, *vectors)
        return
    launch = _launch(A, x, out, b, before, after)
    if launch is not None:
        steps = {"inverse": inverse, "before": before, "after": after}
        launch(x, out, b=b, **steps, scale=alpha, beta=beta)
        return
    residual = torch.empty_like(b)
    A.matmul(x, residual)
    torch.sub(b, residual, out=residual)
    residual.mul_(across(inverse, b)).mul_(alpha)
    if before is not None:
        residual.add_(before, alpha=beta)
    torch.add(x, residual, out=out)
    if after is not None:
        torch.mul(residual, 1.0, out=after)


def relax_rest(
    A: RankMatrix,
    x: Tensor,
    rows: Tensor,
    inverse: Tensor,
    alpha: float,
    after: Tensor | None,
    out: Tensor,
) -> None:
    """Add what `relax` lacks of this part of A: `out[rows]`, `after[rows] -= alpha inverse A x`."""
    matrix = _compiled(A, x)
    if matrix is not None:
        numbers = native.numbers(x, alpha, 0.0)
        vectors = (x, None, rows, None, inverse, numbers, None, after, out)
        native.call_on("relax", x, matrix.address, *vectors)
        return
    launch = _launch(A, x, out, after)
    if launch is not None:
        launch(x, out, rows=rows, inverse=inverse, after=after, scale=-alpha)
        return
    lost = x.new_empty((A.n_rows, *x.shape[1:]))
    A.matmul(x, lost)
    lost.mul_(across(inverse.index_select(0, rows), lost))
    for changed in (out, after):
        if changed is not None:
            changed.index_add_(0, rows, lost, alpha=-alpha)


def _launch(A: RankMatrix, x: Tensor, *others: Tensor | None) -> DeviceRows | None:
    if not all(t is None or t.is_contiguous() for t in others):
        return None
    if isinstance(A, DeviceMatrix):
        return A.on_device(x)
    return A.pattern.device_rows(A.values, x) if isinstance(A, CsrMatrix) else None


def _compiled(A: RankMatrix, x: Tensor) -> Matrix | None:
    return A.matrix if native.serves(x) and x.is_contiguous() else None
