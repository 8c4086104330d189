"""Prolongation and restriction of what was set up on a device."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern, expand_rows
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.matrix import Matrix
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.device.arrays import pointers, true_places
from hpc_sla.precond.amg.device.prolongator import DeviceProlongator, VectorRows
from hpc_sla.precond.amg.products import Transfer, _Plain, for_device

Tensor = torch.Tensor


class DeviceTransfer(Transfer):
    """What `Transfer` is, of a prolongator on a device: nothing of it comes to the host.

    **Collective** where there are several near-nullspace vectors.

    Parameters
    ----------
    P : DeviceProlongator
    dtype : torch.dtype
    """

    def __init__(self, P: DeviceProlongator, dtype: torch.dtype) -> None:
        self._nodes, self._vectors, self._dtype = P.nodes, P.vectors, dtype
        self.plan = _of_unknowns(P.nodes, P.vectors)
        self._tiles, self._matrices, self._plain = None, None, _ByEntries(P, dtype)

    @property
    def bytes(self) -> int:
        """What is held on this rank, indices included."""
        return self._by_entries().bytes

    @property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """For compiled loops, which there are on the CPU: made when they ask."""
        if self._matrices is None:
            plain = self._by_entries()
            parts = _written(plain.down), plain.down_halo
            first, second = (_tiles(part).transfer() for part in parts)
            self._matrices = first, second
        return self._matrices

    def _by_entries(self) -> _ByEntries:
        assert isinstance(self._plain, _ByEntries)
        return self._plain

    def prolongator(self) -> DeviceProlongator:  # type: ignore[override]
        """What it was made of. Local."""
        plain, m, n = self._by_entries(), self._vectors, self._nodes.layout.n_owned
        near, far = (_vectors_by_rows(part, m) for part in (_written(plain.up), plain.up_halo))
        down = [_vectors_by_columns(part, m) for part in (_written(plain.down), plain.down_halo)]
        transposed = VectorRows(
            torch.cat([down[0].indptr, down[1].indptr[1:] + down[0].indptr[-1]]),
            *(torch.cat(pair) for pair in zip(*((d.columns, d.values) for d in down), strict=True)),
        )
        if not len(far.columns):
            return DeviceProlongator(self._nodes, near, transposed)
        rows = expand_rows(near.indptr, len(near.columns))
        of_boundary = expand_rows(far.indptr, len(far.columns))
        rows = torch.cat([rows, plain.boundary.index_select(0, of_boundary)])
        rows, order = torch.sort(rows, stable=True)
        columns = torch.cat([near.columns, far.columns + n]).index_select(0, order)
        values = torch.cat([near.values, far.values]).index_select(0, order)
        indptr = pointers(rows, plain.up.n_rows).to(torch.int32)
        return DeviceProlongator(self._nodes, VectorRows(indptr, columns, values), transposed)


class _ByEntries(_Plain):
    """P and P^T, where a GPU multiplies by slices in these alone."""

    def __init__(self, P: DeviceProlongator, dtype: torch.dtype) -> None:
        n, fine = P.nodes.layout.n_owned, len(P.rows.indptr) - 1
        # Nothing small may be a view of P's arrays, which go where there are slices.
        rows, values = P.rows, P.rows.values.to(dtype)
        if P.nodes.n_halo:
            row = expand_rows(rows.indptr, len(rows.columns))
            near, far = true_places(rows.columns < n), true_places(rows.columns >= n)
            self.boundary = torch.unique_consecutive(row.index_select(0, far))
            place = torch.searchsorted(self.boundary, row.index_select(0, far))
            up = _by_rows(
                pointers(row.index_select(0, near), fine),
                rows.columns.index_select(0, near),
                values.index_select(0, near),
                n,
            )
            self.up_halo = _by_rows(
                pointers(place, len(self.boundary)),
                rows.columns.index_select(0, far) - n,
                values.index_select(0, far),
                P.nodes.n_halo,
            )
        else:
            none, no_values = rows.columns.new_empty(0), values.new_empty((0, values.shape[1]))
            up, self.boundary = _by_rows(rows.indptr, rows.columns, values, n), none
            self.up_halo = _by_rows(rows.indptr.new_zeros(1), none, no_values, 0)
        turned, values = P.transposed, P.transposed.values.to(dtype)
        cut = up.pattern.nnz // values.shape[1]
        down = _by_columns(turned.indptr[: n + 1], turned.columns[:cut], values[:cut], fine)
        beyond = turned.columns[cut:].clone(), values[cut:].clone()
        self.down_halo = _by_columns(turned.indptr[n:] - cut, *beyond, fine)
        self.up, self.down = for_device(up), for_device(down)


def _written(part: CsrMatrix | DeviceMatrix) -> CsrMatrix:
    """As it was before it was in slices. Local."""
    if isinstance(part, CsrMatrix):
        return part
    return CsrMatrix(part.pattern.at_hand(), part.values())


def _of_unknowns(nodes: HaloPlan, m: int) -> HaloPlan:
    """The plan of values at all of m unknowns of each node. **Collective** but for one."""
    if m == 1:
        return nodes
    layout = nodes.layout
    halo = (nodes.halo[:, None] * m + np.arange(m)).ravel()
    return HaloPlan(RowLayout(layout.world, layout.offsets * m), halo)


# Between rows of vectors and single entries


def _matrix(indptr: Tensor, columns: Tensor, values: Tensor, width: int) -> CsrMatrix:
    pattern = CsrPattern(indptr.to(torch.int32), columns.to(torch.int32), width)
    return CsrMatrix(pattern, values.contiguous())


def _by_rows(indptr: Tensor, columns: Tensor, values: Tensor, width: int) -> CsrMatrix:
    """One whose vectors lie along the rows. Local."""
    m = values.shape[1]
    unknowns = torch.arange(m, device=columns.device)
    columns = (columns[:, None] * m + unknowns).view(-1) if m > 1 else columns
    return _matrix(indptr * m, columns, values.reshape(-1), width * m)


def _vectors_by_rows(matrix: CsrMatrix, m: int) -> VectorRows:
    """`_by_rows`, back. Local."""
    pattern = matrix.pattern
    columns = pattern.indices[::m].div(m, rounding_mode="floor")
    return VectorRows(pattern.indptr // m, columns, matrix.values.view(-1, m))


def _by_columns(indptr: Tensor, columns: Tensor, values: Tensor, width: int) -> CsrMatrix:
    """One whose vectors are columns of m rows. Local."""
    if values.shape[1] == 1:
        return _matrix(indptr, columns, values.reshape(-1), width)
    places, ends = _places(indptr, len(columns), values.shape[1])
    spread = columns[:, None].expand(values.shape).reshape(-1)
    spread, values = (
        torch.empty_like(part).index_copy_(0, places.view(-1), part)
        for part in (spread, values.reshape(-1))
    )
    return _matrix(ends, spread, values, width)


def _vectors_by_columns(matrix: CsrMatrix, m: int) -> VectorRows:
    """`_by_columns`, back. Local."""
    pattern = matrix.pattern
    indptr = pattern.indptr[::m] // m
    places, _ = _places(indptr, pattern.nnz // m, m)
    values = matrix.values.index_select(0, places.view(-1)).view(-1, m)
    return VectorRows(indptr, pattern.indices.index_select(0, places[:, 0]), values)


def _places(indptr: Tensor, count: int, m: int) -> tuple[Tensor, Tensor]:
    """Where each number of `count` columns of m is by single entries: [count, m]; row pointers."""
    lengths, unknowns = indptr.diff().long(), torch.arange(m, device=indptr.device)
    begins = indptr[:-1, None].long() * m + lengths[:, None] * unknowns
    row = torch.repeat_interleave(
        torch.arange(len(lengths), device=indptr.device), lengths, output_size=count
    )
    within = torch.arange(count, device=indptr.device) - indptr.index_select(0, row)
    ends = torch.cat([begins.view(-1), indptr[-1:].long() * m])
    return begins.index_select(0, row) + within[:, None], ends


def _tiles(matrix: CsrMatrix) -> Tiles:
    """For the CPU. Local."""
    pattern = matrix.pattern
    indptr, indices, values = (
        part.numpy() for part in (pattern.indptr, pattern.indices, matrix.values)
    )
    return Tiles(indptr, indices, values.reshape(-1, 1, 1), pattern.n_columns, True)
