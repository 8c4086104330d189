"""Distributed products of a multigrid cycle. **Collective**, all of them; not differentiable.

As in `DistributedPattern.matmul` the halo travels while the owned block is multiplied.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.transport import Channel
from hpc_sla.kernels import native
from hpc_sla.kernels import relax as kernels
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.csr import CsrMatrix
from hpc_sla.kernels.matrix import RankMatrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.packed import Packed
from hpc_sla.precond.amg.blocks import as_pattern, as_scipy, some_rows
from hpc_sla.precond.amg.prolongator import Prolongator
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.values import Values

Tensor = torch.Tensor

_FEWEST_ROWS = 2048
"""With fewer, packing costs more than it saves."""


class LevelOperator:
    """A level's matrix, in the cycle's dtype.

    Parameters
    ----------
    pattern : DistributedPattern
    values : torch.Tensor [nnz_owned], or Values that stay packed
    """

    def __init__(self, pattern: DistributedPattern, values: Tensor | Values) -> None:
        self.pattern = pattern
        self._transposed: Tensor | None = None
        self._owned: CsrMatrix | Packed
        self._values: Tensor | None = None
        if isinstance(values, Values):
            assert values.packed is not None
            self._owned, self._halo = values.packed, CsrMatrix(pattern.halo, values.halo)
            return
        self._owned, self._halo = _blocks(pattern, values)
        # Where rows repeat, a product takes a fifth of the time, and the values need not be held.
        packed = None
        if pattern.owned.n_rows >= _FEWEST_ROWS and native.serves(values):
            packed = Packed.of(pattern.owned, self._owned.values)
        if packed is None:
            self._values = values
        else:
            self._owned = packed
            self._halo = CsrMatrix(pattern.halo, self._halo.values.clone())

    @property
    def values(self) -> Tensor:
        """[nnz_owned]: made anew where they are not held. Local."""
        if self._values is not None:
            return self._values
        assert isinstance(self._owned, Packed)
        return torch.cat([torch.from_numpy(self._owned.csr()[2]), self._halo.values])

    @property
    def bytes(self) -> int:
        """What is held on this rank beside the pattern."""
        if self._values is not None:
            return self._values.numel() * self._values.element_size()
        return self._owned.bytes + self._halo.values.numel() * self._halo.values.element_size()

    def matmul(self, x: Tensor, out: Tensor, dot: Tensor | None = None) -> None:
        """`out = A x`, and in `dot` this rank's part of x . A x."""
        pattern = self.pattern
        if self._values is not None:
            pattern.matmul(self._values, x, out, dot)
            return
        weights = None
        if dot is not None:
            weights = x
            dot.zero_()
        assert isinstance(self._owned, Packed)
        channel = pattern.plan.start_exchange(x)
        self._owned.matmul(x, out, None, dot, weights)
        channel.finish()
        if pattern.halo.nnz:
            there, values = channel.recv_buffer, self._halo.values
            pattern.halo.fused_matmul(values, there, out, pattern.boundary, dot, weights)

    def residual(self, x: Tensor, b: Tensor, out: Tensor) -> None:
        """`out = b - A x`."""
        _affine(self.pattern, self._owned, self._halo, x, -1.0, b, out)

    def relax(
        self,
        x: Tensor,
        b: Tensor,
        inverse: Tensor,
        alpha: float,
        beta: float,
        before: Tensor | None,
        after: Tensor | None,
        out: Tensor,
    ) -> None:
        """`q = beta before + alpha inverse (b - A x); out = x + q; after = q`."""
        pattern = self.pattern
        channel = pattern.plan.start_exchange(x)
        kernels.relax(self._owned, x, b, inverse, alpha, beta, before, after, out)
        channel.finish()
        if pattern.halo.nnz:
            there, rows = channel.recv_buffer, pattern.boundary
            kernels.relax_rest(self._halo, there, rows, inverse, alpha, after, out)

    def compiled(self, like: Tensor) -> Distributed:
        """It as a compiled cycle takes it, for vectors like this. **Collective.**"""
        return _compiled(self.pattern, self._owned, self._halo, like)

    @property
    def T(self) -> TransposedOperator:
        """The transpose. Local."""
        if self._transposed is None:
            with lasting():
                values = self.values if isinstance(self.values, Tensor) else self.values.plain
                self._transposed = self.pattern.transpose_values(values)
        return TransposedOperator(self.pattern, self._transposed)


class TransposedOperator:
    """The transpose of a level's matrix, for the adjoint's cycle."""

    def __init__(self, pattern: DistributedPattern, values: Tensor) -> None:
        self.pattern, self._values = pattern, values

    def matmul(self, x: Tensor, out: Tensor) -> None:
        """`out = A^T x`."""
        self.pattern.rmatmul(self._values, x, out, transposed=True)

    def residual(self, x: Tensor, b: Tensor, out: Tensor) -> None:
        """`out = b - A^T x`."""
        self.matmul(x, out)
        torch.sub(b, out, out=out)

    def relax(
        self,
        x: Tensor,
        b: Tensor,
        inverse: Tensor,
        alpha: float,
        beta: float,
        before: Tensor | None,
        after: Tensor | None,
        out: Tensor,
    ) -> None:
        """As `LevelOperator.relax`, with A^T."""
        self.residual(x, b, out)
        out.mul_(inverse if b.dim() == 1 else inverse.unsqueeze(1)).mul_(alpha)
        if before is not None:
            out.add_(before, alpha=beta)
        if after is not None:
            torch.mul(out, 1.0, out=after)
        out.add_(x)


class Transfer:
    """Prolongation and restriction between a level and the next.

    The restriction is the prolongator's transpose, stored by rows as well: a product by columns
    would add in an order that a GPU changes each time.

    Parameters
    ----------
    P : Prolongator
    dtype : torch.dtype
    """

    def __init__(self, P: Prolongator, dtype: torch.dtype) -> None:
        pattern, device = P.pattern, P.pattern.layout.world.device
        self._pattern, self.plan = pattern, pattern.plan
        values = torch.from_numpy(P.values).to(device, dtype)
        self._owned, self._halo = _blocks(pattern, values)
        self._values = values
        transposed = P.transposed
        n = pattern.columns.n_owned
        self._down: list[CsrMatrix] = []
        for begin, end in ((0, n), (n, transposed.shape[0])):
            block = some_rows(transposed, begin, end)
            data = torch.from_numpy(block.data).to(device, dtype)
            self._down.append(CsrMatrix(as_pattern(block, device), data))

    @property
    def bytes(self) -> int:
        """What both directions take on this rank, indices included."""
        return sum(block.bytes for block in (self._owned, self._halo, *self._down))

    def prolongator(self) -> Prolongator:
        """What it was made of, as set-up takes it. Local."""
        down = [as_scipy(block.pattern, block.values) for block in self._down]
        transposed = sp.vstack([block.astype(np.float64) for block in down], format="csr")
        values = self._values.cpu().numpy()
        return Prolongator(self._pattern, values, transposed.T.tocsr(), transposed)

    def prolong_add(self, coarse: Tensor, x: Tensor) -> None:
        """`x += P coarse`."""
        _affine(self._pattern, self._owned, self._halo, coarse, 1.0, x, x)

    def restrict(self, r: Tensor, out: Tensor) -> None:
        """`out = P^T r`."""
        owned, halo = self._down
        channel = self.plan.reduce_channel(r)
        halo.matmul(r, channel.send_buffer)
        channel.start()
        owned.matmul(r, out)
        self.plan.finish_reduce(channel, out)

    def compiled_up(self, like: Tensor) -> Distributed:
        """The prolongation as a compiled cycle takes it. **Collective.**"""
        return _compiled(self._pattern, self._owned, self._halo, like)

    def compiled_down(self, like: Tensor) -> Distributed:
        """The restriction, where what arrives goes to the rows `send_index`. **Collective.**"""
        owned, halo = self._down
        channel, rows = self.plan.reduce_channel(like), self.plan.send_index
        return linked(
            self.plan.layout, channel, like, owned, halo if halo.n_rows else None, None, rows
        )


def _compiled(
    pattern: DistributedPattern, owned: RankMatrix, halo: CsrMatrix, like: Tensor
) -> Distributed:
    channel, rows = pattern.plan.forward_channel(like), pattern.plan.send_index
    there = halo if pattern.halo.nnz else None
    return linked(pattern.layout, channel, like, owned, there, pattern.boundary, rows)


def linked(
    layout: RowLayout,
    channel: Channel,
    like: Tensor,
    owned: RankMatrix | None = None,
    halo: RankMatrix | None = None,
    boundary: Tensor | None = None,
    send_index: Tensor | None = None,
) -> Distributed:
    """A channel and what goes through it, for compiled loops. Local."""
    calls, requests = layout.world.transport.calls(like.dtype), channel.requests()
    assert calls is not None and requests is not None
    here, there = (None if block is None else block.matrix for block in (owned, halo))
    send, received = channel.send_buffer, channel.recv_buffer
    return Distributed(calls, here, there, boundary, send_index, send, received, requests)


def _blocks(pattern: DistributedPattern, values: Tensor) -> tuple[CsrMatrix, CsrMatrix]:
    """The blocks of owned and of halo columns. Local."""
    return (
        CsrMatrix(pattern.owned, pattern.owned_values(values)),
        CsrMatrix(pattern.halo, pattern.halo_values(values)),
    )


def _affine(
    pattern: DistributedPattern,
    owned: RankMatrix,
    halo: CsrMatrix,
    x: Tensor,
    scale: float,
    b: Tensor,
    out: Tensor,
) -> None:
    """`out = b + scale A x`; b may be out."""
    channel = pattern.plan.start_exchange(x)
    kernels.affine(owned, x, scale, out, b)
    channel.finish()
    if pattern.halo.nnz:
        kernels.affine(halo, channel.recv_buffer, scale, out, rows=pattern.boundary)
