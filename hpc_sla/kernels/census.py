"""What a rank's entries add up to, by rows and columns; how they differ from their mirror images.

On the host, in doubles, whatever the entries are and wherever: in C (`census.c`), else by NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.entries import call, plain
from hpc_sla.kernels.matrix import IN_SLICES, ROWS
from hpc_sla.kernels.packed import Packed


@dataclass
class Census:
    """Entries of a rank's rows, those of the diagonal left out: float64 arrays.

    Parameters
    ----------
    n_rows, n_columns : int
        Both owned.

    Attributes
    ----------
    largest : array [n_rows]
        The largest magnitude.
    positive, negative : array [n_rows]
        The sum of the positive entries, and of the magnitudes of the negative ones. A NaN is in
        the latter.
    column_positive, column_negative : array [n_columns]
        The same by columns, of the entries that this rank has in its own.
    smallest : array [1]
        The smallest magnitude that is not 0, infinity where there is none; the diagonal's count.
    """

    n_rows: int
    n_columns: int
    largest: np.ndarray = field(init=False)
    positive: np.ndarray = field(init=False)
    negative: np.ndarray = field(init=False)
    column_positive: np.ndarray = field(init=False)
    column_negative: np.ndarray = field(init=False)
    smallest: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.largest, self.positive, self.negative = np.zeros((3, self.n_rows))
        self.column_positive, self.column_negative = np.zeros((2, self.n_columns))
        self.smallest = np.array([np.inf])

    def count(self, block: CsrPattern, values: np.ndarray | Packed, diagonal: bool) -> None:
        """Add the block of owned columns. Local.

        Parameters
        ----------
        values : float64 or float32 array [nnz], or Packed
        diagonal : bool
            Whether column i belongs to row i.
        """
        if native.LIBRARY is not None:
            self._compiled(block, values, None, diagonal)
            return
        assert isinstance(values, np.ndarray)
        row, column = host(block.rows()), host(block.at_hand().indices)
        beside = np.where(row == column, 0, values) if diagonal else values
        positive, negative = self._add(row, values, beside)
        self.column_positive += np.bincount(column, positive, self.n_columns)
        self.column_negative += np.bincount(column, negative, self.n_columns)

    def count_halo(self, block: CsrPattern, values: np.ndarray, rows: np.ndarray) -> None:
        """Add the block of other columns, whose rows are `rows` here. Local."""
        if native.LIBRARY is not None:
            self._compiled(block, values, rows, False)
        else:
            self._add(rows[host(block.rows())], values, values)

    def _compiled(
        self,
        block: CsrPattern,
        values: np.ndarray | Packed,
        rows: np.ndarray | None,
        diagonal: bool,
    ) -> None:
        by_column = (self.column_positive, self.column_negative) if rows is None else (None, None)
        sums = (self.largest, self.positive, self.negative, *by_column, self.smallest)
        matrix = plain(block, values) if isinstance(values, np.ndarray) else values
        call("census", matrix, int(diagonal), (rows, *sums))

    def _add(
        self, row: np.ndarray, values: np.ndarray, beside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        magnitude = np.abs(beside, dtype=np.float64)
        nonzero = np.abs(values[values != 0])
        self.smallest[0] = min(self.smallest[0], nonzero.min(initial=np.inf))
        positive = np.where(beside > 0, magnitude, 0)
        negative = np.where(beside > 0, 0, magnitude)
        np.maximum.at(self.largest, row, magnitude)
        self.positive += np.bincount(row, positive, self.n_rows)
        self.negative += np.bincount(row, negative, self.n_rows)
        return positive, negative


def largest_of_rows(
    block: CsrPattern, values: np.ndarray | Packed, found: np.ndarray, rows: np.ndarray | None
) -> None:
    """`found` [n] is each row's largest magnitude, NaN where there is one; those before are lost.

    Local. With the int32 `rows`, `found[rows]` is raised to that of a block of such rows.
    """
    if native.LIBRARY is not None:
        matrix = plain(block, values) if isinstance(values, np.ndarray) else values
        call("row_largest", matrix, 1, (rows, found))
        return
    assert isinstance(values, np.ndarray)
    row = host(block.rows())
    if rows is None:
        found[:] = 0
    np.maximum.at(found, row if rows is None else rows[row], np.abs(values, dtype=np.float64))


@dataclass(frozen=True)
class Tally:
    """What a rank's rows have together, or its columns; floats, so that ranks' go together.

    Attributes
    ----------
    lines : float
        How many there are.
    plus, minus : float
        With a positive and with a negative diagonal entry.
    dominant : float
        Whose entries beside the diagonal add up to no more than it.
    null : float
        Whose sum is 0 to rounding.
    wrong, beside : float
        Sums beside the diagonal, where that is not 0, each by its line's largest entry: of those
        entries that have the diagonal's sign, and of all.
    high, low : float
        The largest and the smallest magnitude on the diagonal that is not 0; 0 and infinity.
    dominance : float
        The largest sum beside the diagonal over it; infinity where that is 0.
    """

    lines: float
    plus: float
    minus: float
    dominant: float
    null: float
    wrong: float
    beside: float
    high: float
    low: float
    dominance: float


def tally(
    keep: np.ndarray,
    diagonal: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray,
    largest: np.ndarray,
    small: float,
) -> tuple[Tally, np.ndarray]:
    """Count the lines to keep. Local.

    Parameters
    ----------
    keep : bool array [n]
    diagonal, positive, negative, largest : float64 arrays [n]
        On the diagonal, the sums of either sign beside it, the largest magnitude.
    small : float
        What rounding may make of a sum, beside that of the magnitudes.

    Returns
    -------
    Tally
    bool array [n]
        Which sums are 0.
    """
    null = np.empty(len(keep), dtype=bool)
    if native.LIBRARY is not None:
        out = np.empty(10)
        arrays = (keep, diagonal, positive, negative, largest, np.array([small]), null, out)
        native.call("tally", torch.from_numpy(out), len(keep), *(a.ctypes.data for a in arrays))
        return Tally(*out.tolist()), null
    on, beside = np.abs(diagonal), positive + negative
    np.less_equal(np.abs(diagonal + positive - negative), small * (on + beside), out=null)
    null &= keep
    with_one = keep & (on > 0)
    ratio = np.divide(beside, on, out=np.full(len(on), np.inf), where=on > 0)
    ratio = ratio[keep]
    wrong = np.where(diagonal > 0, positive, negative)[with_one] / largest[with_one]
    return Tally(
        lines=float(np.count_nonzero(keep)),
        plus=float(np.count_nonzero(keep & (diagonal > 0))),
        minus=float(np.count_nonzero(keep & (diagonal < 0))),
        dominant=float(np.count_nonzero(ratio <= 1 + small)),
        null=float(np.count_nonzero(null)),
        wrong=float(wrong.sum()),
        beside=float((beside[with_one] / largest[with_one]).sum()),
        high=float(on[with_one].max(initial=0)),
        low=float(on[with_one].min(initial=np.inf)),
        dominance=float(np.fmax.reduce(ratio, initial=0)),
    ), null


@dataclass(frozen=True)
class Asymmetry:
    """How entries differ from their mirror images, a_ij from a_ji.

    Attributes
    ----------
    worst : float
        The largest |a_ij - a_ji| beside the larger of |a_ij| + |a_ji| and s_i s_j.
    worst_rest : float
        The same, columns set aside left out.
    unmatched : int
        Nonzeros whose mirror image is 0 or not stored.
    """

    worst: float = 0.0
    worst_rest: float = 0.0
    unmatched: int = 0

    def __or__(self, other: Asymmetry) -> Asymmetry:
        """The same of these and others together."""
        return Asymmetry(
            max(self.worst, other.worst),
            max(self.worst_rest, other.worst_rest),
            self.unmatched + other.unmatched,
        )


def asymmetry(
    block: CsrPattern, values: np.ndarray | Packed, scale: np.ndarray, aside: np.ndarray
) -> Asymmetry:
    """How the entries of a square block differ from their mirror images. Local.

    Parameters
    ----------
    values : float64 or float32 array [nnz], or Packed
    scale : float64 array [n]
        s.
    aside : bool array [n]
        Columns. Rows of these have no entry but a diagonal one.
    """
    if isinstance(values, Packed):
        worst, found = np.empty(2), -1
        if values.matrix.form == ROWS:
            found = call("mirror_kinds", values, 1, (scale, aside, worst), rooms=False)
        elif values.matrix.form in IN_SLICES:
            cursor = np.empty(values.n_rows, dtype=np.int32)
            found = call("mirror_slices", values, 1, (scale, aside, cursor, worst), rooms=False)
        if found >= 0:
            return Asymmetry(float(worst[0]), float(worst[1]), found)
        indptr, indices, values = values.csr()
        tensors = torch.from_numpy(indptr.astype(np.int32)), torch.from_numpy(indices)
        block = CsrPattern(*tensors, block.n_columns)
    if native.LIBRARY is not None:
        worst, cursor = np.empty(2), np.empty(block.n_rows, dtype=np.int32)
        unmatched = _call("mirror", block, values, scale, aside, cursor, worst)
        if unmatched is not None and unmatched >= 0:
            return Asymmetry(float(worst[0]), float(worst[1]), unmatched)
    row = host(block.rows()).astype(np.int64)
    column = host(block.at_hand().indices).astype(np.int64)
    places = row * block.n_rows + column
    mirrors = column * block.n_rows + row
    scales = scale[row] * scale[column]
    return differences(places, values, mirrors, values, scales, aside[column])


def differences(
    places: np.ndarray,
    stored: np.ndarray,
    mirrors: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    aside: np.ndarray,
) -> Asymmetry:
    """How entries differ from what is stored at their mirror images. Local.

    Parameters
    ----------
    places, stored : int64 array [m], float array [m]
        Where something is stored, no place twice, and what.
    mirrors, values, scales, aside : arrays [k]
        Of each entry: the place of its mirror image, its value, s_i s_j, whether it is set aside.
    """
    values = values.astype(np.float64, copy=False)
    partner = np.zeros(len(values))
    if len(places) and len(mirrors):
        order = np.argsort(places, kind="stable")
        at = np.searchsorted(places, mirrors, sorter=order)
        at = order[np.minimum(at, len(places) - 1)]
        partner = np.where(places[at] == mirrors, stored[at], 0.0)
    beside = np.maximum(np.abs(values) + np.abs(partner), scales)
    share = np.divide(np.abs(values - partner), beside, out=np.zeros(len(values)), where=beside > 0)
    unmatched = int(np.count_nonzero((values != 0) & (partner == 0)))
    return Asymmetry(float(share.max(initial=0)), float(share[~aside].max(initial=0)), unmatched)


def _call(
    function: str, block: CsrPattern, values: np.ndarray, *arguments: np.ndarray | int | None
) -> int | None:
    """Call a loop of `census.c`: integers go before the block's arrays."""
    numbers = [a for a in arguments if isinstance(a, int)]
    arrays = [a for a in arguments if not isinstance(a, int)]
    parts = (*block.host_arrays(), values, *arrays)
    pointers = (None if a is None else a.ctypes.data for a in parts)
    like = torch.from_numpy(values)
    return native.call(function, like, block.n_rows, *numbers, *pointers)


def host(tensor: torch.Tensor) -> np.ndarray:
    """Its numbers where the processor sees them, a view where they are there. Local."""
    return tensor.detach().cpu().contiguous().numpy()


def connected(block: CsrPattern, values: np.ndarray | Packed) -> np.ndarray:
    """The least row of each row's connected part, by the nonzeros of a square block. Local.

    int64 [n].
    """
    if isinstance(values, Packed):
        block, values = block.at_hand(), values.csr()[2]
    if native.LIBRARY is not None:
        label = np.empty(block.n_rows, dtype=np.int64)
        _call("connected", block, values, label)
        return label
    kept = np.flatnonzero(values)
    return joined(block.n_rows, host(block.rows())[kept], host(block.at_hand().indices)[kept])


def joined(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least node of each node's connected part: int64 [n]. Local.

    Parameters
    ----------
    first, second : integer arrays [m]
        The ends of each edge.
    """
    label = np.arange(n)
    while True:
        ends = label[first], label[second]
        least = np.minimum(*ends)
        if np.array_equal(*ends):
            return label
        # The least of a part is hung under the least that it touches, then everybody below it.
        for end in ends:
            np.minimum.at(label, end, least)
        while not np.array_equal(label, label[label]):
            label = label[label]
