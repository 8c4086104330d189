"""The SHA-256 of a matrix file's content, independent of chunking, byte order and HDF5 version.

It is fed, for each dataset in the order of `names`, with one line of ASCII,
``/data float64 1216`` (name, dtype, shape joined by ``x``, newline), then the values, row-major
and little-endian. The first line of all is ``hpc_sla.sparse.matrix <n_rows> <n_cols>``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

_BLOCK = 1 << 18
Slab = Callable[[int, int], np.ndarray]


def content_digest(
    n_rows: int,
    n_cols: int,
    datasets: Iterable[tuple[str, tuple[int, ...], np.dtype[Any], Slab]],
) -> str:
    """Digest of ``(name, shape, dtype, slab(start, stop))`` datasets, read in blocks.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    state = hashlib.sha256(f"hpc_sla.matrix {n_rows} {n_cols}\n".encode())
    for name, shape, dtype, slab in sorted(datasets, key=lambda entry: entry[0]):
        native = dtype.newbyteorder("=")
        state.update(f"/{name} {native} {'x'.join(map(str, shape))}\n".encode())
        for start in range(0, shape[0], _BLOCK):
            block = slab(start, min(start + _BLOCK, shape[0]))
            little = np.ascontiguousarray(block, dtype=native.newbyteorder("<"))
            state.update(little.view(np.uint8).data)
    return state.hexdigest()
