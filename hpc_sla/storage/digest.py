"""The SHA-256 of a matrix file's content, independent of chunking, byte order and HDF5 version.

It is fed with lines of ASCII. The first is ``hpc_sla.matrix 2 <n_rows> <n_cols>``; then, for each
dataset in the order of their names, comes one like ``/data float64 1216`` (name, dtype, shape
joined by ``x``), and a line for each block of its rows: the SHA-256, in hexadecimal, of the block's
values, row-major and little-endian. Blocks are those of `block_rows`, so that ranks can each take
some, and whoever has all of them makes the digest.

Files of before say no version of their digest; theirs is of the values themselves, without blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hpc_sla.storage.block_sums import block_rows

VERSION = 2
"""What files that are written now say of their digest, in the attribute of `VERSION_NAME`."""
VERSION_NAME = "content_digest_version"

_BLOCK = 1 << 18
Slab = Callable[[int, int], np.ndarray]
Stored = tuple[str, tuple[int, ...], np.dtype[Any]]
"""Name, shape and dtype of a dataset."""


def content_digest(
    n_rows: int,
    n_cols: int,
    datasets: Iterable[tuple[str, tuple[int, ...], np.dtype[Any], Slab]],
    version: int = VERSION,
) -> str:
    """Digest of ``(name, shape, dtype, slab(start, stop))`` datasets, read in blocks.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    if version < VERSION:
        return _of_values(n_rows, n_cols, datasets)
    blocks = []
    for name, shape, dtype, slab in datasets:
        rows = block_rows(shape, dtype) if shape[0] else 1
        sums = [
            block_digest([slab(start, min(start + rows, shape[0]))], dtype)
            for start in range(0, shape[0], rows)
        ]
        blocks.append(((name, shape, dtype), sums))
    return digest_of_blocks(n_rows, n_cols, blocks)


def digest_of_blocks(
    n_rows: int, n_cols: int, datasets: Iterable[tuple[Stored, Sequence[bytes]]]
) -> str:
    """That of datasets by the digests of their blocks, in order."""
    state = hashlib.sha256(f"hpc_sla.matrix {VERSION} {n_rows} {n_cols}\n".encode())
    for (name, shape, dtype), blocks in sorted(datasets, key=lambda entry: entry[0][0]):
        state.update(_line(name, shape, dtype))
        for block in blocks:
            state.update(f"{block.hex()}\n".encode())
    return state.hexdigest()


def block_digest(parts: Iterable[np.ndarray], dtype: np.dtype[Any]) -> bytes:
    """That of a block, of runs of its rows one after another."""
    state = hashlib.sha256()
    for part in parts:
        little = np.ascontiguousarray(part, dtype=dtype.newbyteorder("<"))
        state.update(little.reshape(-1).view(np.uint8).data)
    return state.digest()


def _of_values(
    n_rows: int,
    n_cols: int,
    datasets: Iterable[tuple[str, tuple[int, ...], np.dtype[Any], Slab]],
) -> str:
    state = hashlib.sha256(f"hpc_sla.matrix {n_rows} {n_cols}\n".encode())
    for name, shape, dtype, slab in sorted(datasets, key=lambda entry: entry[0]):
        state.update(_line(name, shape, dtype))
        for start in range(0, shape[0], _BLOCK):
            block = slab(start, min(start + _BLOCK, shape[0]))
            little = np.ascontiguousarray(block, dtype=dtype.newbyteorder("<"))
            state.update(little.view(np.uint8).data)
    return state.hexdigest()


def _line(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    return f"/{name} {dtype.newbyteorder('=')} {'x'.join(map(str, shape))}\n".encode()
