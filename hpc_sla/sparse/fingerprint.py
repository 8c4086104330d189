"""Digests of distributed data that no partition, and no number of ranks, changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.hashing import GOLDEN, mix
from hpc_sla.kernels.packing import Csr
from hpc_sla.sparse.matrix import DSparseMatrix

_SEEDS = (GOLDEN, np.uint64(0xD1B54A32D192ED03))
_BLOCK = 1 << 15
"""Entries at a time."""

Words = tuple[np.ndarray, ...]
"""What places some entries, and last their values."""


def matrix_fingerprint(A: DSparseMatrix) -> str:
    """Digest of a matrix's shape, dtype and entries in the user's numbering. **Collective.**"""
    head = f"{A.shape[0]}x{A.shape[1]}:{str(A.dtype).removeprefix('torch.')}"
    return f"{head}:{_sum(A.world, _entries(A))}"


def _entries(A: DSparseMatrix) -> Iterator[Words]:
    """Row, column and value of all entries, some rows at a time. **Collective** at first.

    Nothing of the length of all of them is made of a matrix in fewer bytes.
    """
    owned, rows = A.pattern.owned, np.ascontiguousarray(A.layout.rows)
    mine = torch.from_numpy(np.ascontiguousarray(A.columns.rows))
    away = A.pattern.plan.exchange(mine.to(A.device)).cpu().numpy()
    read, beyond = _reader(A)
    columns = mine.numpy()
    step = max(1, _BLOCK * owned.n_rows // max(owned.nnz, 1))
    for first in range(0, owned.n_rows, step):
        last = min(first + step, owned.n_rows)
        indptr, indices, values = read(first, last)
        yield np.repeat(rows[first:last], np.diff(indptr)), columns[indices], values
    halo = A.pattern.halo
    where = A.pattern.boundary.long().index_select(0, halo.rows().long())
    yield rows[where.cpu().numpy()], away[halo.indices.cpu().numpy()], beyond


def _reader(A: DSparseMatrix) -> tuple[Callable[[int, int], Csr], np.ndarray]:
    """What reads rows of the owned block, and the values in halo columns. Local."""
    owned, held = A.pattern.owned, A.held
    if held.packed is not None:
        return held.packed.csr, held.halo.numpy()
    whole = owned.at_hand()
    ends, indices, values = (
        part.cpu().numpy() for part in (whole.indptr, whole.indices, held.plain)
    )

    def read(first: int, last: int) -> Csr:
        indptr = ends[first : last + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        return indptr, indices[entries], values[entries]

    return read, values[owned.nnz :]


def vector_fingerprint(layout: RowLayout, x: torch.Tensor) -> str:
    """Digest of a vector's shape, dtype and entries in the user's order. **Collective.**"""
    trailing = tuple(x.shape[1:])
    columns = int(np.prod(trailing, dtype=int))
    array = x.detach().cpu().contiguous().numpy().reshape(layout.n_owned, columns)
    rows, step = layout.rows, max(1, _BLOCK // max(columns, 1))
    parts = (
        (np.repeat(rows[i : i + step], columns), np.tile(np.arange(columns), len(part)), part)
        for i in range(0, layout.n_owned, step)
        for part in [array[i : i + step]]
    )
    head = "x".join(map(str, (layout.n_global, *trailing)))
    kind = str(x.dtype).removeprefix("torch.")
    return f"{head}:{kind}:{_sum(layout.world, parts)}"


def layout_fingerprint(layout: RowLayout) -> str:
    """Digest of who owns which rows, in which order. **Collective.**"""
    start, world = layout.start, layout.world
    parts = (
        (np.arange(start + i, start + i + len(rows)), np.full(len(rows), world.rank), rows)
        for i in range(0, layout.n_owned, _BLOCK)
        for rows in [np.ascontiguousarray(layout.rows[i : i + _BLOCK])]
    )
    return f"{world.size}:{_sum(world, parts)}"


def _sum(world: World, parts: Iterable[Words]) -> str:
    """The sum of the entries' hashes: 128 bits, the same in any order. **Collective.**"""
    total = np.zeros(len(_SEEDS), dtype=np.uint64)
    for part in parts:
        values = part[-1].reshape(-1)
        bits = values.view(f"u{values.itemsize}")
        words = [np.asarray(word).astype(np.uint64) for word in (*part[:-1], bits)]
        for i, seed in enumerate(_SEEDS):
            state = np.full(len(bits), seed, dtype=np.uint64)
            for word in words:
                state ^= word
                state += GOLDEN
                mix(state)
            total[i : i + 1] += state.sum(dtype=np.uint64, keepdims=True)
    return "".join(f"{int(word):016x}" for word in world.sums(total))  # these wrap, as they should
