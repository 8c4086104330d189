"""The compiled loops of native.c, where installation could compile them."""

from __future__ import annotations

import ctypes
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

DTYPES = {torch.float64: "float64", torch.float32: "float32"}

_FUNCTIONS = {
    "csr_matmul": (2, 8),
    "residual": (2, 5),
    "direction": (2, 6),
    "basis_dots": (5, 2),
    "basis_update": (3, 5),
}
"""How many integers and how many pointers each takes: all integers come first."""


def _load() -> ctypes.CDLL | None:
    """The compiled kernels, or None where installation found no compiler."""
    if os.environ.get("HPC_SLA_NATIVE") == "0":
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another machine
                continue
            for name in DTYPES.values():
                for function, (numbers, pointers) in _FUNCTIONS.items():
                    entry = getattr(library, f"hpc_sla_{function}_{name}")
                    entry.argtypes = [ctypes.c_int64] * numbers + [ctypes.c_void_p] * pointers
                    entry.restype = None
            return library
    return None


LIBRARY = _load()


def serves(like: torch.Tensor) -> bool:
    """Whether the compiled loops serve a vector like this one: `[n]` or `[n, k]`.

    They run on one thread, as a rank of an MPI program mostly does; with more, torch's own
    operations are the faster ones.
    """
    return (
        LIBRARY is not None
        and type(like) in (torch.Tensor, torch.nn.Parameter)  # and no fake one, which has no data
        and like.device.type == "cpu"
        and like.dtype in DTYPES
        and torch.get_num_threads() == 1
    )


def call(function: str, like: torch.Tensor, rows: int, *arguments: Any) -> None:
    """Call a loop for `rows` rows of vectors like `like` (`[n]` or `[n, k]`).

    `arguments` are the function's other integers, then its tensors (None for a null pointer), all
    of them contiguous.
    """
    assert LIBRARY is not None
    columns = 1 if like.dim() == 1 else like.shape[1]
    getattr(LIBRARY, f"hpc_sla_{function}_{DTYPES[like.dtype]}")(
        rows, columns, *(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)
    )
