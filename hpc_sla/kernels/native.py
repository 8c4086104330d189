"""The compiled loops of native.c, where installation could compile them."""

from __future__ import annotations

import ctypes
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

DTYPES = {torch.float64: "float64", torch.float32: "float32"}


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
            integer, number, address = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
            for name in DTYPES.values():
                residual = getattr(library, f"hpc_sla_residual_{name}")
                residual.argtypes, residual.restype = [integer, number, *[address] * 4], None
                direction = getattr(library, f"hpc_sla_direction_{name}")
                direction.argtypes = [integer, number, number, *[address] * 4]
                direction.restype = None
                product = getattr(library, f"hpc_sla_csr_matvec_{name}")
                product.argtypes, product.restype = [integer, *[address] * 5], None
            return library
    return None


LIBRARY = _load()


def serves_native(like: torch.Tensor) -> bool:
    """Whether the compiled loops serve a vector like this one.

    They run on one thread, as a rank of an MPI program mostly does; with more, torch's own
    operations are the faster ones.
    """
    return (
        LIBRARY is not None
        and like.device.type == "cpu"
        and like.dim() == 1
        and like.dtype in DTYPES
        and torch.get_num_threads() == 1
    )
