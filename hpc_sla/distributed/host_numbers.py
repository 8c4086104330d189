"""Numbers of the host that ranks bring together: few, typed, and never pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.kernels.modes import entry
from hpc_sla.observe.heartbeat import beat

if TYPE_CHECKING:
    from mpi4py import MPI

# mpi4py is imported where there is somebody to talk to: its import starts MPI.

_HALF = 1 << 32
_WHOLE = (int, np.integer)


class HostNumbers:
    """What a `World` does with numbers that lie in no tensor.

    Each call is one message a rank and step of MPI's own trees, whatever the number of ranks;
    `offsets` and `of_each` leave numbers of each rank on every one, and `stacked` what it is given.

    Attributes
    ----------
    comm : MPI.Comm
    rank, size : int
    """

    comm: MPI.Comm
    rank: int
    size: int

    @entry
    def max(self, value: float) -> float:
        """The largest of a number over ranks, NaN where one is. **Collective.**

        A whole number up to 2^53 where all are.
        """
        if self.size == 1:
            return _kept(self, value)
        mine = np.array([value, not isinstance(value, _WHOLE)], dtype=float)
        found, broken = self.largest(mine).tolist()
        return found if broken else int(found)

    @entry
    def sum(self, value: float) -> float:
        """The sum of a number over ranks. **Collective.** Exact where all are whole numbers."""
        if self.size == 1:
            return _kept(self, value)
        whole = isinstance(value, _WHOLE)
        high, low = divmod(int(value), _HALF) if whole else (0, 0)
        parts = [0.0 if whole else value, not whole, high, low]
        total, broken, high, low = self.sums(np.array(parts, dtype=float)).tolist()
        whole_part = int(high) * _HALF + int(low)
        return total + whole_part if broken else whole_part

    @entry
    def all(self, ok: bool) -> bool:
        """Whether it holds on every rank. **Collective.**"""
        return not self.max(int(not ok))

    @entry
    def sums(self, numbers: np.ndarray) -> np.ndarray:
        """The sums over ranks of numbers. **Collective.**

        Parameters
        ----------
        numbers : float64, int64 or uint64 array
            Per rank, of the same shape and dtype on every rank.

        Returns
        -------
        array
            Replicated. Whole numbers wrap around.
        """
        return self._reduced(numbers, "SUM")

    @entry
    def largest(self, numbers: np.ndarray) -> np.ndarray:
        """The largest over ranks of each of some numbers, NaN where one is. **Collective.**

        Parameters
        ----------
        numbers : float64 or int64 array
            Per rank, of the same shape and dtype on every rank.

        Returns
        -------
        array
            Replicated.
        """
        if self.size == 1 or numbers.dtype.kind != "f":
            return self._reduced(numbers, "MAX")
        # What MPI makes of NaN is its own affair.
        nan = np.isnan(numbers)
        found = self._reduced(np.stack([np.where(nan, -np.inf, numbers), nan]), "MAX")
        return np.where(found[1] > 0, np.nan, found[0])

    @entry
    def any_bits(self, bits: int) -> int:
        """The bits, of 63, that are set on some rank. **Collective.**"""
        return int(self._reduced(np.array([bits], dtype=np.int64), "BOR")[0])

    @entry
    def offsets(self, count: int) -> np.ndarray:
        """Where each rank's begin, of things numbered rank after rank. **Collective.**

        Parameters
        ----------
        count : int
            Per rank: how many it has.

        Returns
        -------
        int64 array [size + 1]
            Replicated; the last is how many there are.
        """
        offsets = np.zeros(self.size + 1, dtype=np.int64)
        np.cumsum(self.of_each(np.array([count], dtype=np.int64)), out=offsets[1:])
        return offsets

    @entry
    def of_each(self, numbers: np.ndarray) -> np.ndarray:
        """What each rank has of some numbers. **Collective.**

        Parameters
        ----------
        numbers : float64 or int64 array [m]
            Per rank, of the same m and dtype on every rank.

        Returns
        -------
        array [size, m]
            Replicated.
        """
        beat()
        found = np.empty((self.size, len(numbers)), dtype=numbers.dtype)
        if self.size == 1:
            found[0] = _kept(self, numbers)
        else:
            self.comm.Allgather(numbers, found)
        return found

    @entry
    def stacked(self, rows: np.ndarray) -> np.ndarray:
        """Every rank's rows on every rank, one rank's after another's. **Collective.**

        Parameters
        ----------
        rows : array [n] or [n, m]
            Per rank, of the same dtype and m on every rank. So few that all ranks can hold all.

        Returns
        -------
        array [N] or [N, m]
            Replicated.
        """
        rows = np.ascontiguousarray(rows)
        if self.size == 1:
            return _kept(self, rows)
        offsets = self.offsets(len(rows))
        found = np.empty((int(offsets[-1]), *rows.shape[1:]), dtype=rows.dtype)
        if not found.nbytes:
            return found
        from mpi4py import MPI

        # Counted in rows: bytes would soon be more than 2^31.
        row = MPI.BYTE.Create_contiguous(found[0].nbytes).Commit()
        try:
            self.comm.Allgatherv([rows, len(rows), row], [found, np.diff(offsets), row])
        finally:
            row.Free()
        return found

    def _reduced(self, numbers: np.ndarray, operation: str) -> np.ndarray:
        beat()
        if self.size == 1:
            return _kept(self, numbers)
        from mpi4py import MPI

        found = np.array(numbers, order="C")
        self.comm.Allreduce(MPI.IN_PLACE, found, op=getattr(MPI, operation))
        return found


def _kept(of: HostNumbers, value: Any) -> Any:
    """What one rank gave, if it may still ask."""
    _ = of.comm.rank  # a closed World's says so
    return value
