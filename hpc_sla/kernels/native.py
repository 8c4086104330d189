"""The compiled loops of this folder's C files, where installation could compile them."""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch

DTYPES = {torch.float64: "float64", torch.float32: "float32"}
_NUMBERS = {torch.float64: ctypes.c_double, torch.float32: ctypes.c_float}

_FUNCTIONS: dict[str, tuple[int, int, Any]] = {
    "csr_matmul": (2, 9, None),
    "product": (1, 7, None),
    "pack": (4, 11, ctypes.c_int64),
    "pack_codes": (4, 4, ctypes.c_int64),
    "pack_same": (0, 2, ctypes.c_int64),
    "matrix_rows": (2, 6, ctypes.c_int64),
    "beside": (1, 4, None),
    "largest": (1, 4, None),
    "row_largest": (1, 5, None),
    "diagonal": (1, 4, None),
    "csr_sample": (2, 5, None),
    "affine": (1, 6, None),
    "relax": (1, 10, None),
    "absolute": (2, 4, ctypes.c_int64),
    "judge": (3, 5, None),
    "guard": (3, 6, None),
    "examine": (2, 6, ctypes.c_int64),
    "cycle": (0, 3, ctypes.c_int64),
    "dense": (3, 3, None),
    "residual": (2, 5, None),
    "dot": (2, 3, None),
    "direction": (2, 6, None),
    "burst_cg": (0, 1, ctypes.c_int64),
    "burst_bicgstab": (0, 1, ctypes.c_int64),
    "burst_gmres": (0, 1, ctypes.c_int64),
    "burst_minres": (0, 1, ctypes.c_int64),
    "burst_pipelined_cg": (0, 1, ctypes.c_int64),
    "basis_dots": (5, 3, None),
    "basis_update": (3, 3, None),
    "basis_sweep": (4, 5, None),
    "census": (1, 10, None),
    "tally": (2, 8, None),
    "mirror": (2, 7, ctypes.c_int64),
    "mirror_kinds": (1, 4, ctypes.c_int64),
    "mirror_slices": (1, 5, ctypes.c_int64),
    "connected": (2, 4, None),
    "hessenberg_complete": (3, 4, None),
    "hessenberg_solve": (3, 5, ctypes.c_int64),
    "hessenberg_step": (3, 8, None),
    "bicgstab_half": (2, 5, None),
    "bicgstab_full": (2, 9, None),
    "bicgstab_turn": (2, 6, None),
    "pipelined_sums": (2, 6, None),
    "pipelined_step": (2, 14, None),
    "minres_lanczos": (2, 9, None),
    "minres_direction": (2, 12, None),
    "lanczos_start": (3, 5, None),
    "aggregate": (2, 6, ctypes.c_int64),
    "condense": (5, 10, ctypes.c_int64),
    "moments": (5, 9, None),
    "prolongator_float64": (6, 17, ctypes.c_int64),
    "prolongator_float32": (6, 17, ctypes.c_int64),
    "triple_float64": (10, 22, ctypes.c_int64),
    "triple_float32": (10, 22, ctypes.c_int64),
    "restrict": (1, 3, None),
    "prolong": (1, 3, None),
    "ilu0": (2, 7, ctypes.c_int64),
    "ic0": (2, 7, ctypes.c_int64),
    "ldu_solve": (2, 9, None),
}
"""How many integers each takes, then how many pointers; and what it returns."""
_OF_PATTERNS: dict[str, tuple[int, int, Any]] = {
    "pack_short": (1, 7, None),
    "pack_nodes": (2, 4, ctypes.c_int64),
    "slice_rows": (1, 4, ctypes.c_int64),
    "slice_columns": (1, 9, None),
    "slice_entries": (3, 5, ctypes.c_int64),
    "minimum_degree": (3, 4, ctypes.c_int64),
    "column_counts": (1, 7, None),
    "hold_back": (1, 7, ctypes.c_int64),
    "regroup_gains": (2, 9, ctypes.c_int64),
    "regroup_afterthoughts": (1, 9, None),
    "use_threads": (0, 5, None),
}
"""The same of those that know of no values, and so are there once."""


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
            if _declare(library):
                return library
    return None


def _declare(library: ctypes.CDLL) -> bool:
    """Tell ctypes the signatures. False where one is missing: built from older sources."""
    named = {
        f"{function}_{name}": what
        for name in DTYPES.values()
        for function, what in _FUNCTIONS.items()
    }
    for function, (numbers, pointers, result) in (named | _OF_PATTERNS).items():
        entry = getattr(library, f"hpc_sla_{function}", None)
        if entry is None:
            return False
        entry.argtypes = [ctypes.c_int64] * numbers + [ctypes.c_void_p] * pointers
        entry.restype = result
    return True


LIBRARY = _load()


def openmp() -> list[ctypes.c_void_p] | None:
    """The functions of torch's OpenMP that threads.c takes; None where it has none.

    Two OpenMP libraries in a process have a crew each, and each waits in a loop for work on cores
    that the other would need: so it is torch's own, which every OpenMP of gcc, LLVM and Intel lets
    be called by the same names.
    """
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if _OPENMP.search(line)}
    except OSError:  # not Linux
        return None
    # A process may have loaded others: torch's lies in its folder, or else is the only one.
    own = [path for path in paths if "/torch/lib/" in path] or list(paths)
    if len(own) != 1:
        return None
    try:
        library = ctypes.CDLL(own[0])
        return [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in _OPENMP_CALLS]
    except (OSError, AttributeError):
        return None


def _use_threads() -> bool:
    """Give the compiled loops the threads of torch. False where it has none of OpenMP's."""
    calls = None if LIBRARY is None else openmp()
    if LIBRARY is None or calls is None:
        return False
    LIBRARY.hpc_sla_use_threads(*calls)
    return True


_OPENMP = re.compile(r"/lib(gomp|omp|iomp5)[^/]*\.so")
_OPENMP_CALLS = (
    "GOMP_parallel",
    "omp_get_thread_num",
    "omp_get_num_threads",
    "omp_get_max_threads",
    "omp_in_parallel",
)
THREADED = _use_threads()
"""Whether the compiled loops run on as many threads as torch does."""


def can_take(like: torch.Tensor) -> bool:
    """Whether the compiled loops can work on a vector like this one: `[n]` or `[n, k]`, k > 0."""
    return (
        LIBRARY is not None
        and (like.dim() == 1 or 0 not in like.shape[1:])  # they take it for a column at least
        and type(like) in (torch.Tensor, torch.nn.Parameter)  # and no fake one, which has no data
        and like.is_cpu
        and like.dtype in DTYPES
    )


def serves(like: torch.Tensor) -> bool:
    """Whether the compiled loops are the best there is for a vector like this one.

    They run on `torch.get_num_threads()` threads where that is worth it. Where they have only one
    and torch more, its own operations are the faster ones (but for what is sequential by nature:
    ask `can_take`).
    """
    return can_take(like) and (THREADED or torch.get_num_threads() == 1)


def call(function: str, like: torch.Tensor, rows: int, *arguments: Any) -> int | None:
    """Call a loop for `rows` rows of vectors like `like` (`[n]` or `[n, k]`).

    `arguments` are the function's other integers, then its tensors (None for a null pointer), all
    of them contiguous.
    """
    assert LIBRARY is not None
    columns = 1 if like.dim() == 1 else like.shape[1]
    plain = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    result: int | None = entry_for(function, like.dtype)(rows, columns, *plain)
    return result


def call_on(function: str, like: torch.Tensor, address: int, *arguments: Any) -> None:
    """Call a loop over the rank-local matrix at `address` (`Matrix.address`), in any form.

    `arguments` are what follows it: tensors (contiguous), addresses, None for a null pointer.
    """
    assert LIBRARY is not None
    columns = 1 if like.dim() == 1 else like.shape[1]
    entry_for(function, like.dtype)(
        columns,
        address,
        *(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments),
    )


@cache
def entry_for(function: str, dtype: torch.dtype) -> Any:
    """A function of the library, for vectors of that dtype."""
    return getattr(LIBRARY, f"hpc_sla_{function}_{DTYPES[dtype]}")


def call_of_pattern(function: str, *arguments: int | np.ndarray) -> int | None:
    """Call a loop over indices: its integers, then its arrays, contiguous."""
    assert LIBRARY is not None
    result: int | None = getattr(LIBRARY, f"hpc_sla_{function}")(
        *(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments)
    )
    return result


def numbers(like: torch.Tensor, *scalars: float) -> Any:
    """An array of numbers, of the vectors' dtype, as one argument of `call`."""
    return (_NUMBERS[like.dtype] * len(scalars))(*scalars)


def coefficients(like: torch.Tensor, *scalars: float | torch.Tensor) -> list[Any]:
    """Numbers, of the vectors' dtype, as arguments of `call`."""
    number = _NUMBERS[like.dtype]
    return [s if isinstance(s, torch.Tensor) else ctypes.byref(number(s)) for s in scalars]
