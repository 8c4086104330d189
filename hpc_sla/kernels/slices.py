"""Slices of rows side by side, as a GPU reads them: made with torch, on whatever device.

The k-th entries of `HEIGHT` rows lie one after another, so that lanes which have a row each read
memory in one piece (sliced ELL: Kreutzer, Hager, Wellein, Fehske and Bishop, SIAM J. Sci. Comput.
36, 2014: SELL-C-sigma). Where rows are uneven they are sorted by length, in windows of `WINDOW`,
which keeps a slice's rows alike and its writes near. Columns are 16-bit distances from a base that
each slice has for its k-th entries, which in a stencil are neighbours however large the grid is;
slices where that does not reach have whole columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

Tensor = torch.Tensor

HEIGHT = 32
"""Rows of a slice: the lanes of a warp."""

WINDOW = 1024
"""Rows that are sorted by length."""

PAD = 32767
"""The distance that stands for no entry."""

_REACH = 65534
"""Columns from the first to the last that distances tell apart, `PAD` left out."""

_MIDDLE = 32768

_COLUMNS = 1 << 18
"""Columns of slices that are made at a time."""

_MOST_DISTINCT = 4096
"""Values that a dictionary has at most: more would not stay in the nearest cache."""

_SAMPLE = 1 << 16

_MOST_PADDED = 1.5
"""Slots an entry, beyond which no form of slices takes fewer bytes than plain CSR."""

_EVEN = 1.02
"""What sorting must gain: it scatters what is written."""

_BITS = {torch.float64: torch.int64, torch.float32: torch.int32}


@dataclass(frozen=True, eq=False)
class Slices:
    """The pattern of a rank-local matrix in slices. Local.

    Attributes
    ----------
    starts : int32 tensor [slices + 1]
        Where each begins, counted in columns of `HEIGHT` slots.
    near, bases : int16 tensor [., HEIGHT] and int32 tensor [.], or None
        Distances of columns, and what to add. Of near slices, one after another.
    far : int32 tensor [., HEIGHT] or None
        Columns of the others; -1 for no entry.
    places : int32 tensor [slices] or None
        Where a slice is in `near`, or `~` where in `far`; None where all are in one, at `starts`.
    order : int16 tensor [slices * HEIGHT] or None
        The row, in its window, at each place; None where rows stay in order.
    """

    starts: Tensor
    near: Tensor | None
    bases: Tensor | None
    far: Tensor | None
    places: Tensor | None
    order: Tensor | None
    slots: int

    @property
    def bytes(self) -> int:
        """What is held."""
        parts = (self.starts, self.near, self.bases, self.far, self.places, self.order)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)

    @classmethod
    def of(cls, indptr: Tensor, indices: Tensor) -> Slices | None:
        """The slices of a pattern, or None where too much of them would be padding. Local.

        Waits for the device a few times.

        Parameters
        ----------
        indptr : int32 or int64 tensor [n_rows + 1]
        indices : int32 tensor [nnz]
        """
        n, nnz = indptr.numel() - 1, indices.numel()
        if not nnz:
            return None
        lengths = torch.diff(indptr).to(torch.int32)
        # To whole windows, without entries: a slice beyond the last row has no width.
        whole = torch.zeros(-(-n // WINDOW) * WINDOW, dtype=torch.int32, device=lengths.device)
        whole[:n] = lengths
        sorted_lengths, order = torch.sort(
            whole.view(-1, WINDOW), dim=1, descending=True, stable=True
        )
        widths = [a.reshape(-1, HEIGHT).amax(1) for a in (whole, sorted_lengths)]
        plain, least = (HEIGHT * int(w.sum(dtype=torch.int64)) for w in widths)
        if least > _MOST_PADDED * nnz:
            return None
        even = plain <= _EVEN * least
        slices = -(-n // HEIGHT)
        starts = _ends(widths[0 if even else 1][:slices])
        kept = None if even else order.to(torch.int16).reshape(-1)[: slices * HEIGHT].contiguous()
        slots = plain if even else least
        bare = cls(starts, None, None, None, None, kept, slots)
        del lengths, whole, sorted_lengths, order, widths
        return bare._with_columns(indptr, indices)

    def _with_columns(self, indptr: Tensor, indices: Tensor) -> Slices:
        slices = self.starts.numel() - 1
        wide = torch.zeros(slices, dtype=torch.bool, device=indptr.device)
        for part in self._parts(indptr):
            columns, low = _columns_of(part, indices)
            high = torch.where(part.there, columns, low.unsqueeze(1)).amax(1)
            beyond = (high - low > _REACH).nonzero().squeeze(1)
            wide[part.slice_.index_select(0, beyond)] = True
        widths = torch.diff(self.starts)
        total = int(self.starts[-1])
        here = int(torch.where(wide, 0, widths).sum(dtype=torch.int64))
        near = bases = far = places = None
        near_starts, far_starts = self.starts[:-1], self.starts[:-1]
        if 0 < here < total:
            near_starts = _ends(torch.where(wide, 0, widths))[:-1]
            far_starts = _ends(torch.where(wide, widths, 0))[:-1]
            places = torch.where(wide, ~far_starts, near_starts)
        device = indptr.device
        if here:
            near = torch.empty((here, HEIGHT), dtype=torch.int16, device=device)
            bases = torch.empty(here, dtype=torch.int32, device=device)
        if here < total:
            far = torch.empty((total - here, HEIGHT), dtype=torch.int32, device=device)
        for part in self._parts(indptr):
            columns, low = _columns_of(part, indices)
            away = wide.index_select(0, part.slice_)
            if near is not None and bases is not None:
                mine = (~away).nonzero().squeeze(1)
                at = (
                    (near_starts.index_select(0, part.slice_) + part.k).index_select(0, mine).long()
                )
                base = low.index_select(0, mine) + _MIDDLE
                distance = columns.index_select(0, mine) - base.unsqueeze(1)
                kept = torch.where(part.there.index_select(0, mine), distance, PAD)
                near[at], bases[at] = kept.to(torch.int16), base.to(torch.int32)
            if far is not None:
                mine = away.nonzero().squeeze(1)
                at = (far_starts.index_select(0, part.slice_) + part.k).index_select(0, mine)
                far[at] = torch.where(part.there, columns, -1).index_select(0, mine)
        return Slices(self.starts, near, bases, far, places, self.order, self.slots)

    def _parts(self, indptr: Tensor) -> Iterator[_SliceColumns]:
        """Columns of slices, some at a time: which row's entry is in each of their slots."""
        n, device = indptr.numel() - 1, indptr.device
        slices, total = self.starts.numel() - 1, int(self.starts[-1])
        marks = torch.arange(0, total, _COLUMNS, dtype=torch.int32, device=device)
        firsts = torch.searchsorted(self.starts[:-1], marks, right=True) - 1
        edges = [*sorted(set(firsts.tolist())), slices]
        lane = torch.arange(HEIGHT, dtype=torch.int64, device=device)
        ends, nnz = torch.cat([indptr, indptr[-1:]]), int(indptr[-1])
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            starts = self.starts[first : last + 1].long()
            begin, end = int(starts[0]), int(starts[-1])
            own = torch.arange(first, last, dtype=torch.int64, device=device)
            slice_ = torch.repeat_interleave(own, torch.diff(starts), output_size=end - begin)
            k = torch.arange(end - begin, dtype=torch.int64, device=device)
            k -= (starts - begin).index_select(0, slice_ - first)
            row = slice_.unsqueeze(1) * HEIGHT + lane
            if self.order is not None:
                row = row // WINDOW * WINDOW + self.order[row].long()
            row.clamp_(max=n)  # those beyond the last row have no entries
            entry = ends[row].long() + k.unsqueeze(1)
            there = entry < ends[1:][row.clamp(max=n - 1)]
            there &= row < n
            yield _SliceColumns(begin, slice_, k, row, entry.clamp_(max=nnz - 1), there)

    def spread(self, indptr: Tensor, values: Tensor) -> Tensor:
        """Values [nnz] as they lie in slots, 0 in those without an entry: [slots]. Local."""
        out = values.new_empty(self.slots)
        for part in self._parts(indptr):
            there = torch.where(part.there, values.detach()[part.entry], 0)
            out.narrow(0, part.begin * HEIGHT, there.numel()).copy_(there.view(-1))
        return out

    def coded(self, indptr: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Values [nnz] as places in a list of the distinct ones: the places [slots], the list.

        None where there are too many of these, or none. Told apart by their bits. Local.
        """
        bits = values.detach().view(_BITS[values.dtype])
        distinct = _distinct(bits)
        if distinct is None:
            return None
        kind = torch.uint8 if distinct.numel() <= 256 else torch.int16
        out = torch.empty(self.slots, dtype=kind, device=values.device)
        for part in self._parts(indptr):
            code = torch.searchsorted(distinct, bits[part.entry])
            code = torch.where(part.there, code, 0).to(kind)
            out.narrow(0, part.begin * HEIGHT, code.numel()).copy_(code.view(-1))
        return out, distinct.view(values.dtype)

    def columns(self, indptr: Tensor) -> Tensor:
        """The column of each entry, as they were given: int32 [nnz]. Local."""
        out = self._room(indptr, torch.int32)
        for part in self._parts(indptr):
            out[self._place(part, out)] = self._columns(part)
        return out[:-1]

    def entries(self, indptr: Tensor, codes: Tensor, found: Tensor | None) -> Tensor:
        """The values [nnz] that `spread` or `coded` was given. Local."""
        out = self._room(indptr, (codes if found is None else found).dtype)
        for part in self._parts(indptr):
            out[self._place(part, out)] = _laid(part, codes, found)
        return out[:-1]

    def diagonal(self, indptr: Tensor, codes: Tensor, found: Tensor | None) -> Tensor:
        """The diagonal's, 0 where none is stored: [n]. Local."""
        n = indptr.numel() - 1
        out = codes.new_zeros(n + 1, dtype=(codes if found is None else found).dtype)
        for part in self._parts(indptr):
            row = torch.where(part.there & (self._columns(part) == part.row), part.row, n)
            out[row] = _laid(part, codes, found)
        return out[:-1]

    def beside(self, indptr: Tensor, codes: Tensor, found: Tensor | None) -> Tensor:
        """Which rows have a nonzero that is not on the diagonal: bool [n]. Local."""
        n = indptr.numel() - 1
        out = torch.zeros(n + 1, dtype=torch.bool, device=indptr.device)
        for part in self._parts(indptr):
            there = part.there & (self._columns(part) != part.row)
            out[torch.where(there & (_laid(part, codes, found) != 0), part.row, n)] = True
        return out[:-1]

    def _room(self, indptr: Tensor, dtype: torch.dtype) -> Tensor:
        """For a number an entry, and one for all slots without."""
        return torch.empty(int(indptr[-1]) + 1, dtype=dtype, device=indptr.device)

    @staticmethod
    def _place(part: _SliceColumns, out: Tensor) -> Tensor:
        return torch.where(part.there, part.entry, out.numel() - 1)

    def _columns(self, part: _SliceColumns) -> Tensor:
        """The column in each slot that has an entry: [m, HEIGHT]."""
        at = self.starts.index_select(0, part.slice_) if self.places is None else None
        if at is None:
            assert self.places is not None and self.near is not None and self.far is not None
            place = self.places.index_select(0, part.slice_)
            away, k = place < 0, part.k.to(place.dtype)
            close, distant = torch.where(away, 0, place + k), torch.where(away, ~place + k, 0)
            return torch.where(
                away.unsqueeze(1), self.far[distant.long()], self._near_columns(close.long())
            )
        where = at.long() + part.k
        return self._near_columns(where) if self.far is None else self.far[where]

    def _near_columns(self, where: Tensor) -> Tensor:
        assert self.near is not None and self.bases is not None
        return self.near[where].int() + self.bases[where].unsqueeze(1)

    def same(self, indptr: Tensor, values: Tensor, codes: Tensor, found: Tensor | None) -> bool:
        """Whether what `spread` or `coded` made was made of these [nnz]. Waits for the device."""
        kind, alike = _BITS[values.dtype], True
        for part in self._parts(indptr):
            laid = _laid(part, codes, found)
            alike &= not (part.there & (laid.view(kind) != values.view(kind)[part.entry])).any()
        return bool(alike)


@dataclass(frozen=True, eq=False)
class _SliceColumns:
    """Columns of slices: [m] of each its slice and its number there, [m, HEIGHT] its rows, its
    entries, and whether there is one.
    """

    begin: int
    slice_: Tensor
    k: Tensor
    row: Tensor
    entry: Tensor
    there: Tensor


def _laid(part: _SliceColumns, codes: Tensor, found: Tensor | None) -> Tensor:
    """The values in their slots [m, HEIGHT]."""
    laid = codes.narrow(0, part.begin * HEIGHT, part.there.numel()).view_as(part.there)
    return laid if found is None else found[laid.long()]


def _columns_of(part: _SliceColumns, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The column in each slot, and the least of each [m]: of entries that are there."""
    columns = indices[part.entry]
    low = torch.where(part.there, columns, torch.iinfo(columns.dtype).max).amin(1)
    return columns, low


def _ends(widths: Tensor) -> Tensor:
    """Where pieces so wide begin, and where the last ends: int32."""
    ends = torch.zeros(widths.numel() + 1, dtype=torch.int32, device=widths.device)
    ends[1:] = torch.cumsum(widths, 0)
    return ends


def _distinct(bits: Tensor) -> Tensor | None:
    """The distinct numbers, ascending, or None where they are too many. Local."""
    step = max(bits.numel() // _SAMPLE, 1)
    known = torch.unique(bits[::step])
    for first in range(0, bits.numel(), HEIGHT * _COLUMNS):
        if known.numel() > _MOST_DISTINCT:
            return None
        piece = bits[first : first + HEIGHT * _COLUMNS]
        at = torch.searchsorted(known, piece).clamp_(max=known.numel() - 1)
        new = piece[known[at] != piece]
        if new.numel():
            known = torch.unique(torch.cat([known, torch.unique(new)]))
    return known if 0 < known.numel() <= _MOST_DISTINCT else None
