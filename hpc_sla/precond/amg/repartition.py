"""A level moved to fewer ranks, or to where its entries are even."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.precond.amg.agglomeration import members
from hpc_sla.sparse.matrix import DSparseMatrix


class Repartition:
    """Other owners of a level's rows, whose order stays. **Collective.**

    Vectors need not be moved: prolongation and restriction meet the new owners (`over` of the
    prolongators), in the messages that they need anyway.

    Parameters
    ----------
    layout : RowLayout
        Before.
    offsets : int64 array [ranks + 1]
        Replicated: of the rows of each rank that goes on. Where these are fewer than before they
        are every few-th, as of `World.thinned`.

    Attributes
    ----------
    world : World or None
        Of those that go on; None on the others.
    layout : RowLayout or None
        There.
    among_all : RowLayout
        On the ranks of before, of which those that do not go on own nothing.
    """

    def __init__(self, layout: RowLayout, offsets: np.ndarray) -> None:
        outer, ranks = layout.world, len(offsets) - 1
        self._before = layout
        before = np.searchsorted(members(outer.size, ranks), np.arange(outer.size + 1))
        self.among_all = RowLayout(outer, offsets[before])
        self.world: World | None = outer if ranks == outer.size else outer.thinned(ranks)
        self.layout: RowLayout | None = None
        if ranks == outer.size:
            self.layout = self.among_all
        elif self.world is not None:
            self.layout = RowLayout(self.world, offsets)

    def moved(
        self, A: DSparseMatrix, B: np.ndarray | None = None
    ) -> tuple[DSparseMatrix | None, np.ndarray | None]:
        """A, and a near-nullspace if there is one, where they go on. **Collective.**

        Parameters
        ----------
        A : DSparseMatrix
            Of the layout before.
        B : float64 array [n_owned, m], optional
            On every rank or on none.

        Returns
        -------
        DSparseMatrix, float64 array [n_owned, m]
            None on ranks that are left out; and of none.
        """
        m = 0 if B is None else B.shape[1]
        rows = A.local_csr()
        messages = {}
        for rank, mine in self._parts(self.among_all):
            part = rows[mine]
            pieces = [np.diff(part.indptr).astype(np.int64), part.indices.astype(np.int64)]
            pieces.append(part.data.astype(np.float64).view(np.int64))
            if B is not None:
                pieces.append(np.ascontiguousarray(B[mine]).ravel().view(np.int64))
            messages[rank] = np.concatenate(pieces)
        world = self._before.world
        own = messages.pop(world.rank, None)
        arrived = world.sparse_exchange(messages)
        if self.layout is None:
            return None, None
        if own is not None:
            arrived[world.rank] = own
        counts, columns, values, vectors = [], [], [], []
        for rank in sorted(arrived):
            message, n = arrived[rank], self._overlap(rank)
            counts.append(message[:n])
            entries = (len(message) - n * (1 + m)) // 2
            ends = n, n + entries, n + 2 * entries
            columns.append(message[ends[0] : ends[1]])
            values.append(message[ends[1] : ends[2]].view(np.float64))
            vectors.append(message[ends[2] :].view(np.float64))
        indptr = np.concatenate([[0], np.cumsum(_joined(counts, np.int64))])
        kind = A.values.detach().cpu().numpy().dtype
        data = _joined(values, np.float64).astype(kind)
        matrix = DSparseMatrix._from_rows(
            self.layout, self.layout, indptr, _joined(columns, np.int64), data
        )
        if B is None:
            return matrix, None
        return matrix, _joined(vectors, np.float64).reshape(self.layout.n_owned, m)

    def _parts(self, owners: RowLayout) -> Iterator[tuple[int, slice]]:
        """Who is to have which of this rank's rows, and some of them. Local."""
        start, end = self._before.start, self._before.start + self._before.n_owned
        offsets = owners.offsets
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, end, side="left"))
        for rank in range(max(first, 0), last):
            low, high = max(start, offsets[rank]), min(end, offsets[rank + 1])
            if low < high:
                yield rank, slice(int(low - start), int(high - start))

    def _overlap(self, rank: int) -> int:
        """How many of that rank's rows come here. Local."""
        low, high = self._before.offsets[rank : rank + 2]
        start = self.among_all.start
        return int(min(high, start + self.among_all.n_owned) - max(low, start))


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([*parts, np.empty(0, dtype=dtype)])
