"""DistributedPattern: where a distributed matrix has entries, and the products on it."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.shared import Shared
from hpc_sla.errors import InputError
from hpc_sla.kernels import absolute
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.csr import COUNTED, CsrPattern
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.matrix import Matrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.vectors import inner_products
from hpc_sla.sparse.split import SplitRows, counted
from hpc_sla.sparse.values import Values


class DistributedPattern(Shared):
    """The sparsity of this rank's rows, split by who owns the columns. **Collective.**

    Columns are owned as `columns` says: in a square matrix as the rows are, and the two layouts
    are one object. x of A x lives in `columns`, A x in `layout`.

    The entries of one rank are ordered [owned-column block | halo-column block], each in CSR
    order, so both blocks' values are views of one tensor. The owned block has all owned rows;
    the halo block only those that reach another rank's columns (`boundary`), so that it costs
    nothing elsewhere.

    Attributes
    ----------
    layout, columns : RowLayout
        Of the rows, and of the columns.
    owned : CsrPattern
        layout.n_owned rows, columns.n_owned columns.
    halo : CsrPattern
        len(boundary) rows, n_halo columns.
    boundary : int32 tensor
        Owned rows with an entry in a halo column, ascending.
    plan : HaloPlan
        Of vectors in `columns`.
    nnz_owned, nnz_global : int
        This rank's entries, both blocks; and those of all ranks.
    """

    def __init__(
        self,
        layout: RowLayout,
        owned: CsrPattern,
        halo: CsrPattern,
        boundary: torch.Tensor,
        plan: HaloPlan,
    ) -> None:
        self.layout = layout
        self.columns = plan.layout
        self.owned = owned
        self.halo = halo
        self.boundary = boundary
        self.plan = plan
        self.nnz_owned = owned.nnz + halo.nnz
        counts = np.array([self.nnz_owned, owned.crowded or halo.crowded])
        self.nnz_global, crowded = layout.world.sums(counts).tolist()
        # So that what cannot be done with so many entries is refused on every rank.
        owned.crowded = halo.crowded = crowded > 0
        self._halo_product: dict[tuple[torch.dtype, tuple[int, ...]], torch.Tensor] = {}

    @classmethod
    def from_rows(
        cls,
        layout: RowLayout,
        indptr: np.ndarray,
        columns: np.ndarray,
        values: np.ndarray,
        column_layout: RowLayout | None = None,
    ) -> tuple[DistributedPattern, np.ndarray]:
        """Split this rank's rows into blocks and find the halo. **Collective.**

        Works in place where it can, since this is where memory peaks: `columns` and `values`
        are overwritten.

        Parameters
        ----------
        layout : RowLayout
        indptr : int64 array [n_owned + 1]
        columns : int32 or int64 array [nnz]
            Stored (contiguous by rank) column numbers.
        values : array [nnz] or [nnz, m]
            Anything that goes with the entries.
        column_layout : RowLayout, optional
            Default: `layout` itself, for a square matrix.

        Returns
        -------
        DistributedPattern
        array [nnz]
            `values` in the pattern's entry order.

        Raises
        ------
        InputError
            On every rank, where one on the CPU has too many entries for its loops, which count
            them in 32 bits.
        """
        own = layout if column_layout is None else column_layout
        split = SplitRows.of(indptr, columns, values, own.start, own.start + own.n_owned)
        return cls.of_split(layout, split, own), split.values

    @classmethod
    def of_split(
        cls, layout: RowLayout, split: SplitRows, columns: RowLayout
    ) -> DistributedPattern:
        """That of rows which are split. **Collective.** Raises as `from_rows`."""
        with layout.world.agree():
            if split.entries >= COUNTED and layout.world.device.type == "cpu":
                raise InputError(
                    f"{split.entries} entries on one rank do not fit 32-bit local indices",
                    remedy="Use more ranks, or a GPU for each",
                )
        boundary, counts = np.unique(split.away_rows, return_counts=True)
        halo_columns, halo_indices = np.unique(split.away_columns, return_inverse=True)
        device = layout.world.device

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.int32, copy=False)).to(device)

        ends = torch.from_numpy(counted(np.concatenate([[0], np.cumsum(counts)]))).to(device)
        return cls(
            layout,
            split.owned(columns.n_owned, device),
            CsrPattern(ends, tensor(halo_indices), len(halo_columns)),
            tensor(boundary),
            HaloPlan(columns, halo_columns),
        )

    # narrow() and not slicing, here and in the loops: slicing a fake CUDA tensor needs a CUDA
    # build, and the CUDA path is tested where there is none.

    def owned_values(self, values: torch.Tensor) -> torch.Tensor:
        """The part of `values` in owned columns: a view. Local."""
        return values.narrow(0, 0, self.owned.nnz) if self.halo.nnz else values

    def halo_values(self, values: torch.Tensor) -> torch.Tensor:
        """The part of `values` in halo columns: a view. Local."""
        return values.narrow(0, self.owned.nnz, self.halo.nnz)

    def _parts(
        self, values: torch.Tensor | Values, x: torch.Tensor
    ) -> tuple[torch.Tensor | Packed | DeviceMatrix, torch.Tensor]:
        """What the two blocks are multiplied with, for vectors like x. Local."""
        if isinstance(values, Values):
            packed = values.serving(x)
            if packed is not None:
                return packed, values.halo
            values = values.plain
        # Of a block without entries nobody asks for values: a view takes as long as a small loop.
        return self.owned_values(values), self.halo_values(values) if self.halo.nnz else values

    # Raw products: collective, not differentiable, and after the first call without allocation

    def matmul(
        self,
        values: torch.Tensor | Values,
        x: torch.Tensor,
        out: torch.Tensor,
        dot: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        square: torch.Tensor | None = None,
        packed: Packed | DeviceMatrix | None = None,
    ) -> None:
        """`out = A x`, and inner products as of `kernels.vectors.inner_products`. **Collective.**

        The halo travels while the owned block is multiplied; `packed` is that block in fewer bytes.
        """
        if dot is None:
            weights = None
        elif weights is None:
            if self.columns is not self.layout:
                raise ValueError("x . (A x) needs the same layout of rows and columns")
            weights = x
        here, away = self._parts(values, x)
        channel = self.plan.start_exchange(x)
        if isinstance(here, Packed) or self.owned.compiled(x):
            for sums in (dot, square):
                if sums is not None:
                    sums.zero_()
            fused = (x, out, None, dot, weights, square)
            whole = packed if isinstance(packed, Packed) else here
            if isinstance(whole, Packed):
                whole.matmul(*fused)
            else:
                assert isinstance(whole, torch.Tensor)
                self.owned.fused_matmul(whole, *fused)
            channel.finish()
            if self.halo.nnz:
                there = channel.recv_buffer
                self.halo.fused_matmul(away, there, out, self.boundary, dot, weights, square)
            return
        owned = packed if isinstance(packed, DeviceMatrix) else here
        if isinstance(owned, DeviceMatrix):
            rows = owned.on_device(x)
        else:
            rows = self.owned.device_rows(owned, x)
        if rows is None:
            assert isinstance(here, torch.Tensor)
            self.owned.matmul(here, x, out)
        else:
            rows(x, out, weights=weights, dot=dot, square=square)
        channel.finish()
        if self.halo.nnz:
            there = channel.recv_buffer
            more = None if rows is None else self.halo.device_rows(away, there)
            if more is None:
                part = self._buffer(x)
                self.halo.matmul(away, there, part)
                out.index_add_(0, self.boundary, part)
                rows = None
            else:
                at = self.boundary
                more(there, out, rows=at, weights=weights, dot=dot, square=square)
        if rows is None:
            inner_products(x, out, dot, weights, square)

    def compiled(self, x: torch.Tensor) -> bool:
        """Whether `distributed` serves vectors like x. Local."""
        compiled = x.dim() == 1 and self.columns is self.layout and self.owned.compiled(x)
        return compiled and self.layout.world.transport.calls(x.dtype) is not None

    def blocks(
        self, values: torch.Tensor | Values, x: torch.Tensor, packed: Packed | None = None
    ) -> tuple[Matrix, torch.Tensor]:
        """The owned block as compiled loops take it, and the halo block's values. Local.

        Arguments as of `matmul`.
        """
        here, away = self._parts(values, x)
        here = here if packed is None else packed
        assert not isinstance(here, DeviceMatrix)
        return here.matrix if isinstance(here, Packed) else self.owned.matrix(here), away

    def distributed(
        self, values: torch.Tensor | Values, x: torch.Tensor, packed: Packed | None = None
    ) -> Distributed:
        """It with values [nnz_owned], as compiled loops take it. **Collective**, at first.

        Arguments as of `matmul`.
        """
        plan, transport = self.plan, self.layout.world.transport
        channel, calls = plan.forward_channel(x), transport.calls(x.dtype)
        requests = channel.requests()
        assert calls is not None and requests is not None
        owned, away = self.blocks(values, x, packed)
        halo = self.halo.matrix(away) if self.halo.nnz else None
        buffers = channel.send_buffer, channel.recv_buffer
        parts = owned, halo, self.boundary, plan.send_index, *buffers
        here, _ = self._parts(values, x)  # rows of a packed copy would have to be written out
        if isinstance(here, Packed):
            entries, longest = here.matrix, here.longest
        else:
            assert isinstance(here, torch.Tensor)
            entries, longest = self.owned.matrix(here), 0
        return Distributed(calls, *parts, requests, channel, entries, longest)

    def absolute_matmul(
        self,
        values: torch.Tensor | Values,
        x: torch.Tensor,
        out: torch.Tensor,
        again: bool = False,
    ) -> None:
        """`out = |A| |x|`. **Collective.**

        With `again`, x is what was exchanged last.
        """
        here, away = self._parts(values, x)
        channel = self.plan.start_exchange(x, again)
        if isinstance(here, Packed):
            absolute.packed_matmul(here, x, out)
        elif isinstance(here, DeviceMatrix):
            here.mapped(torch.abs).matmul(x.abs(), out)
        else:
            absolute.matmul(self.owned, here, x, out)
        channel.finish()
        if self.halo.nnz:
            absolute.matmul(self.halo, away, channel.recv_buffer, out, self.boundary)

    def absolute_row_sums(self, values: torch.Tensor | Values, out: torch.Tensor) -> None:
        """`out = |A| 1`, for out [n_owned]. Local."""
        here, away = self._parts(values, out)
        if isinstance(here, Packed):
            absolute.packed_matmul(here, None, out)
        elif isinstance(here, DeviceMatrix):
            here.mapped(torch.abs).matmul(out.new_ones(self.owned.n_columns), out)
        else:
            absolute.row_sums(self.owned, here, out)
        if self.halo.nnz:
            absolute.row_sums(self.halo, away, out, self.boundary)

    def rmatmul(
        self,
        values: torch.Tensor,
        x: torch.Tensor,
        out: torch.Tensor,
        transposed: bool = False,
        packed: DeviceMatrix | None = None,
    ) -> None:
        """`out = A^T x`. **Collective.** Halo contributions travel during the owned product.

        With `transposed`, `values` are in the order of `transpose_values`: for many products
        with one matrix, which then do not reorder them each time; `packed` is what
        `transposed_rows` made of them.
        """
        channel = self.plan.reduce_channel(x)
        if self.halo.nnz:
            boundary = self._buffer(x)
            torch.index_select(x, 0, self.boundary, out=boundary)
            self.halo.rmatmul(self.halo_values(values), boundary, channel.send_buffer, transposed)
        channel.start()
        rows = None if packed is None else packed.on_device(x)
        if rows is not None:
            rows(x, out)
        else:
            self.owned.rmatmul(self.owned_values(values), x, out, transposed)
        self.plan.finish_reduce(channel, out)

    def transposed_rows(self, values: torch.Tensor) -> DeviceMatrix:
        """The owned block's transpose in the form for a GPU, of `transpose_values`. Local."""
        return DeviceMatrix.of(self.owned.transposed[0], self.owned_values(values), keep=False)

    def transpose_values(
        self, values: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`values` [nnz_owned] in the order of the transposed blocks, for `rmatmul`. Local."""
        out = torch.empty_like(values) if out is None else out
        self.owned.transpose_values(self.owned_values(values), self.owned_values(out))
        if self.halo.nnz:
            self.halo.transpose_values(self.halo_values(values), self.halo_values(out))
        return out

    def sample(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`g_i . x_j` at each stored entry (i, j), halo columns included. **Collective.**

        g lives in `layout`, x in `columns`.

        The sampled dense-dense product (SDDMM) of the GPU libraries.
        """
        channel = self.plan.start_exchange(x)
        found = g.new_empty(self.nnz_owned)
        self.owned.sample(g, x, self.owned_values(found))
        channel.finish()
        if self.halo.nnz:
            mine = g.index_select(0, self.boundary)
            self.halo.sample(mine, channel.recv_buffer, self.halo_values(found))
        return found

    def _buffer(self, like: torch.Tensor) -> torch.Tensor:
        key = (like.dtype, tuple(like.shape[1:]))
        if key not in self._halo_product:
            with lasting():
                self._halo_product[key] = like.new_empty((self.halo.n_rows, *like.shape[1:]))
        return self._halo_product[key]

    # Indices for people

    def local_rows(self) -> torch.Tensor:
        """The owned row (0 to n_owned) of each entry: int64 [nnz_owned]. Local."""
        owned = self.owned.at_hand().rows().long()
        halo = self.boundary.long().index_select(0, self.halo.rows())
        return torch.cat([owned, halo])

    def local_columns(self) -> torch.Tensor:
        """Where each entry's column is in `HaloPlan.extend`: int64 [nnz_owned]. Local."""
        owned, halo = self.owned.at_hand().indices, self.halo.indices
        return torch.cat([owned.long(), halo.long() + self.columns.n_owned])

    def stored_columns(self) -> torch.Tensor:
        """The stored column number of each entry: int64 [nnz_owned]. Local."""
        halo = torch.from_numpy(self.plan.halo.astype(np.int64)).to(self.halo.indices.device)
        return torch.cat(
            [
                self.owned.at_hand().indices.long() + self.columns.start,
                halo.index_select(0, self.halo.indices),
            ]
        )
