"""Triangular solves on any device, by level scheduling.

A row of a triangular system can be solved once those it refers to have been. Rows that wait for
nobody are level 0, those that wait for level 0 only are level 1, and so on: the rows of one level
are one sparse product, so a solve is as many products as there are levels (Anderson and Saad,
"Solving sparse triangular linear systems on parallel computers", 1989; Saad, Iterative Methods
for Sparse Linear Systems, 2nd ed., section 11.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.modes import lasting


@dataclass(frozen=True, eq=False)
class RowLevel:
    """Rows of one level, as they stand in the order of levels."""

    start: int
    count: int
    pattern: CsrPattern
    values: torch.Tensor


class LevelSchedule:
    """The solve `(I + N) x = scale b`, where some permutation of N is strictly triangular.

    Parameters
    ----------
    indptr, indices : int32 arrays [n + 1], [nnz]
        N by rows. Lower or upper triangular alike: who waits for whom is read off the entries.
    values : array [nnz]
    device : torch.device
    """

    def __init__(
        self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, device: torch.device
    ) -> None:
        groups = dependency_levels(indptr, indices)
        order = np.concatenate([*groups, np.empty(0, dtype=np.int64)])
        position = np.empty_like(order)
        position[order] = np.arange(len(order))

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.order = tensor(order.astype(np.int32))
        self.position = tensor(position.astype(np.int32))
        self.levels: list[RowLevel] = []
        start = len(groups[0]) if groups else 0  # level 0 has no entries
        for rows in groups[1:]:
            counts = np.diff(indptr)[rows]
            entries = _ranges(indptr[rows], counts)
            pattern = CsrPattern(
                tensor(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)),
                tensor(position[indices[entries]].astype(np.int32)),
                len(order),
            )
            self.levels.append(RowLevel(start, len(rows), pattern, tensor(values[entries])))
            start += len(rows)
        self._buffers: dict[tuple[torch.dtype, tuple[int, ...]], tuple[torch.Tensor, ...]] = {}

    def solve(self, b: torch.Tensor, scale: torch.Tensor | None, out: torch.Tensor) -> None:
        """`out = (I + N)^-1 (scale b)`. Local; no host sync. `out` may be b.

        Parameters
        ----------
        b, out : torch.Tensor [n] or [n, k], contiguous
        scale : torch.Tensor [n], optional
        """
        x, parts = self._buffer(b)
        if scale is not None:
            b = torch.mul(b, scale if b.dim() == 1 else scale.unsqueeze(1), out=out)
        torch.index_select(b, 0, self.order, out=x)
        for level in self.levels:
            part = parts.narrow(0, 0, level.count)
            level.pattern.matmul(level.values, x, part)
            x.narrow(0, level.start, level.count).sub_(part)
        torch.index_select(x, 0, self.position, out=out)

    def _buffer(self, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        key = (like.dtype, tuple(like.shape[1:]))
        if key not in self._buffers:
            widest = max((level.count for level in self.levels), default=0)
            with lasting():
                self._buffers[key] = (
                    torch.empty_like(like),
                    like.new_empty((widest, *like.shape[1:])),
                )
        return self._buffers[key]


def dependency_levels(indptr: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    """The rows of each level, ascending within a level: int64 arrays. Local.

    Raises
    ------
    ValueError
        Rows wait for one another in a circle: the matrix is not triangular in any order.
    """
    n = len(indptr) - 1
    waiting = np.diff(indptr).astype(np.int64)
    # Who waits for each row: the pattern's transpose.
    dependents = np.repeat(np.arange(n), waiting)[np.argsort(indices, kind="stable")]
    edges = np.concatenate([[0], np.cumsum(np.bincount(indices, minlength=n))]).astype(np.int64)
    levels = []
    ready = np.flatnonzero(waiting == 0)
    while len(ready):
        levels.append(ready)
        freed, times = np.unique(
            dependents[_ranges(edges[ready], np.diff(edges)[ready])], return_counts=True
        )
        waiting[freed] -= times
        ready = freed[waiting[freed] == 0]
    if sum(map(len, levels)) != n:
        raise ValueError("the matrix is not triangular")
    return levels


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`start, start + 1, ..., start + count - 1` of each, one after the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)
