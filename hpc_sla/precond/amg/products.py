"""Distributed products of a multigrid cycle. **Collective**, all of them; not differentiable.

As in `DistributedPattern.matmul` the halo travels while the owned block is multiplied.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.transport import Channel
from hpc_sla.kernels import device_products, native
from hpc_sla.kernels import relax as kernels
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.matrix import CSR, TILED, Matrix, RankMatrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.packing import Csr
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.prolongator import Prolongator
from hpc_sla.sparse.compressed import in_slices
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
    own : bool
        Whether nobody else multiplies with the pattern: on a GPU it is then held in slices alone.
    """

    def __init__(
        self, pattern: DistributedPattern, values: Tensor | Values, own: bool = False
    ) -> None:
        self.pattern = pattern
        self._transposed: Tensor | None = None
        self._transposed_rows: DeviceMatrix | None = None
        self._owned: CsrMatrix | Packed | DeviceMatrix
        self._values: Tensor | None = None
        few = pattern.owned.n_rows < _FEWEST_ROWS
        if isinstance(values, Values) and values.sliced is None and few:
            values = values.plain  # as they are where these values come in another way
        self._sliced: Values | None = None
        if own and isinstance(values, Tensor):
            values = in_slices(pattern, Values(values))
            values = values.plain if values.written else values
        if isinstance(values, Values) and values.sliced is not None:
            self._owned, self._halo = values.sliced, CsrMatrix(pattern.halo, values.halo)
            self._sliced = values
            return
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
            if device_products.serves(values):
                found = DeviceMatrix.of(pattern.owned, self._owned.values)
                self._owned = self._owned if found.form == "csr" else found
        else:
            self._owned = packed
            if not packed.refers:
                self._halo = CsrMatrix(pattern.halo, self._halo.values.clone())

    @property
    def values(self) -> Tensor:
        """[nnz_owned]: made anew where they are not held. Local."""
        if self._values is not None:
            return self._values
        if self._sliced is not None:
            return self._sliced.plain
        assert isinstance(self._owned, Packed)
        return torch.cat([torch.from_numpy(self._owned.csr()[2]), self._halo.values])

    @property
    def bytes(self) -> int:
        """What is held on this rank beside the pattern."""
        if self._values is not None:
            slices = self._owned.bytes if isinstance(self._owned, DeviceMatrix) else 0
            return slices + self._values.numel() * self._values.element_size()
        assert not isinstance(self._owned, CsrMatrix)
        return self._owned.bytes + self._halo.values.numel() * self._halo.values.element_size()

    def matmul(self, x: Tensor, out: Tensor, dot: Tensor | None = None) -> None:
        """`out = A x`, and in `dot` this rank's part of x . A x."""
        pattern = self.pattern
        if self._values is not None:
            slices = self._owned if isinstance(self._owned, DeviceMatrix) else None
            pattern.matmul(self._values, x, out, dot, None, None, slices)
            return
        if self._sliced is not None:
            pattern.matmul(self._sliced, x, out, dot)
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
                if device_products.serves(self._transposed):
                    self._transposed_rows = self.pattern.transposed_rows(self._transposed)
        return TransposedOperator(self.pattern, self._transposed, self._transposed_rows)


class TransposedOperator:
    """The transpose of a level's matrix, for the adjoint's cycle."""

    def __init__(
        self, pattern: DistributedPattern, values: Tensor, rows: DeviceMatrix | None
    ) -> None:
        self.pattern, self._values, self._rows = pattern, values, rows

    def matmul(self, x: Tensor, out: Tensor) -> None:
        """`out = A^T x`."""
        self.pattern.rmatmul(self._values, x, out, transposed=True, packed=self._rows)

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
    as well. P^T of many single entries is held with 16-bit columns and, where few values are
    distinct, their places among these.

    Parameters
    ----------
    P : Prolongator
    dtype : torch.dtype
    """

    def __init__(self, P: Prolongator, dtype: torch.dtype) -> None:
        self.plan, self._dtype, down = P.plan, dtype, P.transposed
        kind = np.dtype(str(dtype).removeprefix("torch."))
        tiles = replace(down, values=down.values.astype(kind, copy=False))
        self._tiles: Tiles | None = tiles
        self._matrices: tuple[Matrix, Matrix] | None = None
        self._plain: _Plain | None = None
        if native.LIBRARY is None or self.plan.layout.world.device.type != "cpu":
            self._plain = _Plain(tiles, self.plan)
            return
        first, second = _parts(tiles, self.plan)
        mine = first.transfer()
        if mine.form not in (CSR, TILED):
            # Which would keep all of the plain arrays, being a piece of them.
            arrays = (second.indptr, second.indices, second.values)
            indptr, indices, values = (a.copy() for a in arrays)
            second = Tiles(indptr, indices, values, second.columns, second.flipped)
            self._tiles = None
        self._matrices = mine, second.transfer()

    @property
    def bytes(self) -> int:
        """What is held on this rank, indices included."""
        held = 0 if self._plain is None else self._plain.bytes
        if self._tiles is not None:
            return held + self._tiles.bytes
        return held + sum(t.numel() * t.element_size() for m in self.matrices for t in m.tensors)

    @property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """P^T's owned rows and those of the halo, for `restrict` and `prolong` of transfer.c."""
        assert self._matrices is not None
        return self._matrices

    @property
    def tiles(self) -> Tiles:
        """P^T by rows: made anew where it is held in fewer bytes. Local."""
        if self._tiles is not None:
            return self._tiles
        parts = [_entries(matrix, self._dtype) for matrix in self.matrices]
        starts = np.concatenate([[0], *(np.diff(indptr) for indptr, _, _ in parts)])
        indices, values = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        indptr, columns = np.cumsum(starts).astype(np.int32), self.matrices[0].columns
        return Tiles(indptr, indices, values.reshape(-1, 1, 1), columns, True)

    def prolongator(self) -> Prolongator:
        """What it was made of, as set-up takes it. Local."""
        tiles = self.tiles
        return Prolongator(self.plan, tiles.transposed(), tiles)

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
        kernels.affine(plain.up, coarse, 1.0, x, x)
        channel.finish()
        if len(plain.boundary):
            kernels.affine(plain.up_halo, channel.recv_buffer, 1.0, x, rows=plain.boundary)

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
            if plain.down_halo.n_rows:
                plain.down_halo.matmul(r, channel.send_buffer)
            channel.start()
            plain.down.matmul(r, out)
        self.plan.finish_reduce(channel, out)

    def compiled_up(self, like: Tensor) -> Distributed:
        """The prolongation as a compiled cycle takes it. **Collective.**"""
        channel, rows = self.plan.forward_channel(like), self.plan.send_index
        return linked(self.plan.layout, channel, like, *self.matrices, None, rows)

    def compiled_down(self, like: Tensor) -> Distributed:
        """The restriction, where what arrives goes to the rows `send_index`. **Collective.**"""
        channel, rows = self.plan.reduce_channel(like), self.plan.send_index
        return linked(self.plan.layout, channel, like, *self.matrices, None, rows)

    def _by_entries(self) -> _Plain:
        if self._plain is None:
            with lasting():
                self._plain = _Plain(self.tiles, self.plan)
        return self._plain


class _Plain:
    """P and P^T by single entries, each with its halo apart, on the rank's device."""

    def __init__(self, transposed: Tiles, plan: HaloPlan) -> None:
        device = plan.layout.world.device
        first, second = (part.csr() for part in _parts(transposed, plan))
        above = second.T.tocsr()
        rows = np.flatnonzero(np.diff(above.indptr)).astype(np.int32)
        self.down, self.down_halo = for_device(_on(device, first)), _on(device, second)
        self.up = for_device(_on(device, first.T.tocsr()))
        self.up_halo = _on(device, above[rows])
        self.boundary = torch.from_numpy(rows).to(device)

    @property
    def bytes(self) -> int:
        """What is held."""
        return sum(part.bytes for part in (self.down, self.down_halo, self.up, self.up_halo))


def _parts(transposed: Tiles, plan: HaloPlan) -> tuple[Tiles, Tiles]:
    """Owned rows, and those of the halo."""
    owned = plan.layout.n_owned // transposed.size[1]
    return transposed.between(0, owned), transposed.between(owned, transposed.rows)


def _entries(matrix: Matrix, dtype: torch.dtype) -> Csr:
    """One of `matrices` of single entries, as plain CSR. Local."""
    if matrix.form != CSR:
        return Packed(matrix, dtype).csr()
    indptr, indices, values = (tensor.numpy() for tensor in matrix.tensors[:3])
    return indptr, indices, values.ravel()


def _on(device: torch.device, matrix: sp.csr_matrix) -> CsrMatrix:
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32, copy=False)).to(device)
        for a in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data).to(device)
    return CsrMatrix(CsrPattern(indptr, indices, matrix.shape[1]), values)


def for_device(matrix: CsrMatrix) -> CsrMatrix | DeviceMatrix:
    """The same in slices alone, on a GPU and where that pays. Local."""
    if not device_products.serves(matrix.values):
        return matrix
    return DeviceMatrix.alone(matrix.pattern, matrix.values) or matrix


def _compiled(
    pattern: DistributedPattern, owned: RankMatrix, halo: CsrMatrix, like: Tensor
) -> Distributed:
    channel, rows = pattern.plan.forward_channel(like), pattern.plan.send_index
    there = halo.matrix if pattern.halo.nnz else None
    return linked(pattern.layout, channel, like, owned.matrix, there, pattern.boundary, rows)


def linked(
    layout: RowLayout,
    channel: Channel,
    like: Tensor,
    owned: Matrix | None = None,
    halo: Matrix | None = None,
    boundary: Tensor | None = None,
    send_index: Tensor | None = None,
) -> Distributed:
    """A channel and what goes through it, for compiled loops. Local."""
    calls, requests = layout.world.transport.calls(like.dtype), channel.requests()
    assert calls is not None and requests is not None
    send, received = channel.send_buffer, channel.recv_buffer
    parts = owned, halo, boundary, send_index, send, received
    return Distributed(calls, *parts, requests, channel)


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
