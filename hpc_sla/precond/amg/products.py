"""Distributed products of a multigrid cycle. **Collective**, all of them; not differentiable.

As in `DistributedPattern.matmul` the halo travels while the owned block is multiplied.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.kernels import native
from hpc_sla.kernels import relax as kernels
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import Matrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.prolongator import Prolongator
from hpc_sla.sparse.pattern import DistributedPattern

Tensor = torch.Tensor


class LevelOperator:
    """A level's matrix, in the cycle's dtype.

    Parameters
    ----------
    pattern : DistributedPattern
    values : torch.Tensor [nnz_owned]
    """

    def __init__(self, pattern: DistributedPattern, values: Tensor) -> None:
        self.pattern = pattern
        self._owned, self._halo = pattern.owned_values(values), pattern.halo_values(values)
        self.values = values
        self._transposed: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the values take on this rank."""
        return self.values.numel() * self.values.element_size()

    def matmul(self, x: Tensor, out: Tensor) -> None:
        """`out = A x`."""
        self.pattern.matmul(self.values, x, out)

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
        kernels.relax(pattern.owned, self._owned, x, b, inverse, alpha, beta, before, after, out)
        channel.finish()
        if pattern.halo.nnz:
            there, rows = channel.recv_buffer, pattern.boundary
            kernels.relax_rest(pattern.halo, self._halo, there, rows, inverse, alpha, after, out)

    @property
    def T(self) -> TransposedOperator:
        """The transpose. Local."""
        if self._transposed is None:
            with lasting():
                self._transposed = self.pattern.transpose_values(self.values)
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

    The compiled loops need P^T alone, by rows: prolongation adds to each unknown in the order of
    P^T's rows. What else there is would add in another order each time, so that P is held by rows
    as well.

    Parameters
    ----------
    P : Prolongator
    dtype : torch.dtype
    """

    def __init__(self, P: Prolongator, dtype: torch.dtype) -> None:
        self.plan, down = P.plan, P.transposed
        kind = np.dtype(str(dtype).removeprefix("torch."))
        self._tiles = replace(down, values=down.values.astype(kind, copy=False))
        self._matrices: tuple[Matrix, Matrix] | None = None
        self._plain: _Plain | None = None
        if self.plan.layout.world.device.type != "cpu":
            self._plain = _Plain(self._tiles, self.plan)

    @property
    def bytes(self) -> int:
        """What is held on this rank, indices included."""
        return self._tiles.bytes + (0 if self._plain is None else self._plain.bytes)

    @property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """P^T's owned rows and those of the halo, for `restrict` and `prolong` of transfer.c."""
        if self._matrices is None:
            first, second = _parts(self._tiles, self.plan)
            self._matrices = first.matrix(), second.matrix()
        return self._matrices

    def prolongator(self) -> Prolongator:
        """What it was made of, as set-up takes it. Local."""
        return Prolongator(self.plan, self._tiles.transposed(), self._tiles)

    def prolong_add(self, coarse: Tensor, x: Tensor) -> None:
        """`x += P coarse`."""
        channel = self.plan.start_exchange(coarse)
        if native.serves(x):
            owned, halo = self.matrices
            native.call_on("prolong", x, owned.address, coarse, x)
            channel.finish()
            native.call_on("prolong", x, halo.address, channel.recv_buffer, x)
            return
        plain = self._by_entries()
        x.add_(_product(plain.up, coarse))
        channel.finish()
        if len(plain.boundary):
            x.index_add_(0, plain.boundary, _product(plain.up_halo, channel.recv_buffer))

    def restrict(self, r: Tensor, out: Tensor) -> None:
        """`out = P^T r`."""
        channel = self.plan.reduce_channel(r)
        if native.serves(r):
            owned, halo = self.matrices
            native.call_on("restrict", r, halo.address, r, channel.send_buffer)
            channel.start()
            native.call_on("restrict", r, owned.address, r, out)
        else:
            plain = self._by_entries()
            _product(plain.down_halo, r, channel.send_buffer)
            channel.start()
            _product(plain.down, r, out)
        self.plan.finish_reduce(channel, out)

    def _by_entries(self) -> _Plain:
        if self._plain is None:
            with lasting():
                self._plain = _Plain(self._tiles, self.plan)
        return self._plain


class _Plain:
    """P and P^T by single entries, each with its halo apart, on the rank's device."""

    def __init__(self, transposed: Tiles, plan: HaloPlan) -> None:
        device = plan.layout.world.device
        first, second = (part.csr() for part in _parts(transposed, plan))
        above = second.T.tocsr()
        rows = np.flatnonzero(np.diff(above.indptr)).astype(np.int32)
        self.down, self.down_halo = _on(device, first), _on(device, second)
        self.up, self.up_halo = _on(device, first.T.tocsr()), _on(device, above[rows])
        self.boundary = torch.from_numpy(rows).to(device)

    @property
    def bytes(self) -> int:
        """What is held."""
        blocks = (self.down, self.down_halo, self.up, self.up_halo)
        parts = [t for block, values in blocks for t in (block.indptr, block.indices, values)]
        return sum(t.numel() * t.element_size() for t in parts)


_Entries = tuple[CsrPattern, Tensor]


def _parts(transposed: Tiles, plan: HaloPlan) -> tuple[Tiles, Tiles]:
    """Owned rows, and those of the halo."""
    owned = plan.layout.n_owned // transposed.size[1]
    return transposed.between(0, owned), transposed.between(owned, transposed.rows)


def _on(device: torch.device, matrix: sp.csr_matrix) -> _Entries:
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32, copy=False)).to(device)
        for a in (matrix.indptr, matrix.indices)
    )
    return CsrPattern(indptr, indices, matrix.shape[1]), torch.from_numpy(matrix.data).to(device)


def _product(matrix: _Entries, x: Tensor, out: Tensor | None = None) -> Tensor:
    pattern, values = matrix
    if out is None:
        out = x.new_empty((pattern.n_rows, *x.shape[1:]))
    pattern.matmul(values, x, out)
    return out


def _affine(
    pattern: DistributedPattern,
    owned: Tensor,
    halo: Tensor,
    x: Tensor,
    scale: float,
    b: Tensor,
    out: Tensor,
) -> None:
    """`out = b + scale A x`; b may be out."""
    channel = pattern.plan.start_exchange(x)
    kernels.affine(pattern.owned, owned, x, scale, out, b)
    channel.finish()
    if pattern.halo.nnz:
        there = channel.recv_buffer
        kernels.affine(pattern.halo, halo, there, scale, out, rows=pattern.boundary)
