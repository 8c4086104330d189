"""MPI's functions by pointer, for compiled loops that communicate.

They are found in the library that mpi4py has loaded, and called with the handles that its objects
hold: nothing of MPI's is needed when this package is installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from mpi4py import MPI

from hpc_sla.kernels.burst import ALONE, Calls, Requests

_FUNCTIONS = {
    "start_all": "MPI_Startall",
    "wait_all": "MPI_Waitall",
    "wait": "MPI_Wait",
    "all_reduce": "MPI_Allreduce",
    "start_all_reduce": "MPI_Iallreduce",
}
_TYPES = {torch.float64: MPI.DOUBLE, torch.float32: MPI.FLOAT}


def calls_of(comm: MPI.Comm, dtype: torch.dtype) -> Calls | None:
    """What compiled loops need to sum numbers of a dtype over ranks; None where it is not there.

    Local.
    """
    if comm.size == 1:
        return ALONE
    try:
        library = ctypes.CDLL(MPI.__file__)
        functions = {
            field: ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            for field, name in _FUNCTIONS.items()
        }
    except (OSError, AttributeError):  # linked into mpi4py where nobody can see it
        return None
    size = MPI._sizeof(MPI.Comm)
    if size not in (ctypes.sizeof(ctypes.c_int), ctypes.sizeof(ctypes.c_void_p)):
        return None
    handles = (comm, _TYPES[dtype], MPI.SUM)
    request = (ctypes.c_char * MPI._sizeof(MPI.Request))()
    status = (ctypes.c_char * MPI._sizeof(MPI.Status))()
    calls = Calls(comm.size, size, **functions)
    calls.comm, calls.type, calls.sum = (MPI._handleof(handle) for handle in handles)
    calls.doubles, calls.max = MPI._handleof(MPI.DOUBLE), MPI._handleof(MPI.MAX)
    calls.request, calls.status = ctypes.addressof(request), ctypes.addressof(status)
    calls.kept = library, *handles, request, status
    calls.raise_error = _raise
    return calls


def _raise(code: int) -> None:
    raise MPI.Exception(code)


def requests_of(requests: Sequence[MPI.Prequest]) -> Requests:
    """Where their handles are, and room for them and their statuses side by side. Local."""
    count = len(requests)
    handles = (ctypes.c_char * (count * MPI._sizeof(MPI.Request)))()
    statuses = (ctypes.c_char * (count * MPI._sizeof(MPI.Status)))()
    owners = (ctypes.c_void_p * count)(*(MPI._addressof(request) for request in requests))
    return Requests(count, handles, statuses, owners, tuple(requests))
