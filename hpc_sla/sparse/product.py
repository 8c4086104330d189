"""The distributed sparse product as differentiable functions.

Three bilinear maps are closed under differentiation, so derivatives of any order exist and
each one is again a distributed operation with one halo exchange:

==============  =======================  =====================================
map             value                    cotangent c of the value gives
==============  =======================  =====================================
product(v, x)   A(v) x                   v: sample(c, x),   x: rproduct(v, c)
rproduct(v, g)  A(v)^T g                 v: sample(g, c),   g: product(v, c)
sample(g, x)    g_i x_j on the pattern   g: product(c, x),  x: rproduct(c, g)
==============  =======================  =====================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from hpc_sla.distributed.keep_in_graph import keep_in_graph
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import ordinary
from hpc_sla.sparse.pattern import DistributedPattern

Use = tuple[Any, bool]
"""A DistributedPattern, and whether it was used transposed."""

_LISTENERS: list[list[Use]] = []


@contextmanager
def uses() -> Iterator[list[Use]]:
    """Within, every product with a matrix (or its halo) is added to the list given. Local."""
    found: list[Use] = []
    _LISTENERS.append(found)
    try:
        yield found
    finally:
        # By identity: an equal list may be listening as well.
        _LISTENERS[:] = [listener for listener in _LISTENERS if listener is not found]


def used(pattern: Any, transposed: bool = False) -> None:
    """Tell those who listen. Local."""
    for listener in _LISTENERS:
        if not any(p is pattern and t == transposed for p, t in listener):
            listener.append((pattern, transposed))


def product(values: torch.Tensor, x: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
    """`A(values) x`: `[n_owned]` or `[n_owned, k]`. **Collective**, in backward too.

    x lives in `pattern.columns`, the product in `pattern.layout`.
    """
    used(pattern)
    return _Product.apply(ordinary(values), ordinary(x), pattern)


def rproduct(values: torch.Tensor, g: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
    """`A(values)^T g`: `[n_owned]` or `[n_owned, k]`. **Collective**, in backward too.

    g lives in `pattern.layout`, the product in `pattern.columns`.
    """
    used(pattern, transposed=True)
    return _TransposedProduct.apply(ordinary(values), ordinary(g), pattern)


def sample(g: torch.Tensor, x: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
    """`g_i . x_j` at each entry (i, j) of the pattern: `[nnz_owned]`. **Collective**, so too."""
    return _Sample.apply(ordinary(g), ordinary(x), pattern)


class _Bilinear(Function):
    """What the three maps share: two tensors and a pattern in, both tensors saved."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        left, right, ctx.pattern = inputs
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)
        # Or torch makes zeros of a tangent that is not there, which would be multiplied.
        ctx.set_materialize_grads(False)
        ctx.like = output.shape, output.dtype, output.device


def _cotangent(ctx: Any, grad: torch.Tensor | None, *tensors: torch.Tensor) -> torch.Tensor:
    """What came back, in the graph of `tensors`; zeros for nothing: other ranks may have some."""
    if grad is None:
        shape, dtype, device = ctx.like
        grad = torch.zeros(shape, dtype=dtype, device=device)
    return keep_in_graph(grad, *tensors)


_ALIKE: ContextVar[bool] = ContextVar("alike", default=False)


@contextmanager
def tangents_alike() -> Iterator[None]:
    """Within, what has no tangent on this rank has none on any. Local.

    Nothing is then multiplied by its zeros, which elsewhere others may be waiting for.
    """
    token = _ALIKE.set(True)
    try:
        yield
    finally:
        _ALIKE.reset(token)


def _sum_tangents(function: Any, ctx: Any, d_left: Any, d_right: Any) -> torch.Tensor:
    """The tangent of a bilinear map."""
    left, right = ctx.saved_tensors
    if not _ALIKE.get():
        d_left = torch.zeros_like(left) if d_left is None else d_left
        d_right = torch.zeros_like(right) if d_right is None else d_right
    parts = []
    if d_left is not None:
        parts.append(function.apply(d_left, right, ctx.pattern))
    if d_right is not None:
        parts.append(function.apply(left, d_right, ctx.pattern))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class _Product(_Bilinear):
    @staticmethod
    def forward(values: torch.Tensor, x: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
        # A cotangent may be of stride 0, as of a sum, and compiled loops go by the storage.
        values, x = values.contiguous(), x.contiguous()
        y = x.new_empty((pattern.layout.n_owned, *x.shape[1:]))
        pattern.matmul(values, x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, x = ctx.saved_tensors
        c = _cotangent(ctx, grads[0], values, x)
        d_values = _Sample.apply(c, x, ctx.pattern) if ctx.needs_input_grad[0] else None
        d_x = _TransposedProduct.apply(values, c, ctx.pattern) if ctx.needs_input_grad[1] else None
        return d_values, d_x, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _sum_tangents(_Product, ctx, *tangents[:2])


class _TransposedProduct(_Bilinear):
    @staticmethod
    def forward(values: torch.Tensor, g: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
        values, g = values.contiguous(), g.contiguous()
        y = g.new_empty((pattern.columns.n_owned, *g.shape[1:]))
        pattern.rmatmul(values, g, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, g = ctx.saved_tensors
        c = _cotangent(ctx, grads[0], values, g)
        d_values = _Sample.apply(g, c, ctx.pattern) if ctx.needs_input_grad[0] else None
        d_g = _Product.apply(values, c, ctx.pattern) if ctx.needs_input_grad[1] else None
        return d_values, d_g, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _sum_tangents(_TransposedProduct, ctx, *tangents[:2])


class _Sample(_Bilinear):
    @staticmethod
    def forward(g: torch.Tensor, x: torch.Tensor, pattern: DistributedPattern) -> torch.Tensor:
        return pattern.sample(g.contiguous(), x.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        g, x = ctx.saved_tensors
        c = _cotangent(ctx, grads[0], g, x)
        d_g = _Product.apply(c, x, ctx.pattern) if ctx.needs_input_grad[0] else None
        d_x = _TransposedProduct.apply(c, g, ctx.pattern) if ctx.needs_input_grad[1] else None
        return d_g, d_x, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _sum_tangents(_Sample, ctx, *tangents[:2])
