"""Digests of distributed data that no partition, and no number of ranks, changes."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.hashing import GOLDEN, mix
from hpc_sla.sparse.matrix import DSparseMatrix

_SEEDS = (GOLDEN, np.uint64(0xD1B54A32D192ED03))
_BLOCK = 1 << 18


def matrix_fingerprint(A: DSparseMatrix) -> str:
    """Digest of a matrix's shape, dtype and entries in the user's numbering. **Collective.**"""
    rows, columns = A.entries()
    values = A.held.plain
    head = f"{A.shape[0]}x{A.shape[1]}:{_name(values)}"
    return f"{head}:{_sum(A.world, (rows, columns), values)}"


def vector_fingerprint(layout: RowLayout, x: torch.Tensor) -> str:
    """Digest of a vector's shape, dtype and entries in the user's order. **Collective.**"""
    n, trailing = layout.n_owned, tuple(x.shape[1:])
    columns = int(np.prod(trailing, dtype=int))
    keys = (np.repeat(layout.rows, columns), np.tile(np.arange(columns), n))
    head = "x".join(map(str, (layout.n_global, *trailing)))
    return f"{head}:{_name(x)}:{_sum(layout.world, keys, x.reshape(-1))}"


def layout_fingerprint(layout: RowLayout) -> str:
    """Digest of who owns which rows, in which order. **Collective.**"""
    stored = np.arange(layout.start, layout.start + layout.n_owned)
    ranks = np.full(layout.n_owned, layout.world.rank)
    rows = torch.from_numpy(np.ascontiguousarray(layout.rows))
    return f"{layout.world.size}:{_sum(layout.world, (stored, ranks), rows)}"


def _name(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _sum(world: World, keys: tuple[np.ndarray, ...], values: torch.Tensor) -> str:
    """The sum of the entries' hashes: 128 bits, the same in any order. **Collective.**"""
    array = values.detach().cpu().contiguous().numpy()
    bits = array.view(f"u{array.itemsize}")
    total = np.zeros(len(_SEEDS), dtype=np.uint64)
    for first in range(0, len(bits), _BLOCK):
        part = slice(first, first + _BLOCK)
        words = [np.asarray(word[part]).astype(np.uint64) for word in (*keys, bits)]
        for i, seed in enumerate(_SEEDS):
            state = np.full(len(words[0]), seed, dtype=np.uint64)
            for word in words:
                state ^= word
                state += GOLDEN
                mix(state)
            total[i : i + 1] += state.sum(dtype=np.uint64, keepdims=True)
    return "".join(f"{int(word):016x}" for word in world.sums(total))  # these wrap, as they should
