"""What the compiled steps of Krylov methods take, as `burst.h` lays it out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.matrix import Matrix


class Calls(ctypes.Structure):
    """`hpc_sla_mpi`: MPI's functions and handles; of one rank alone, that there are none."""

    _fields_ = [
        ("ranks", ctypes.c_int64),
        ("handle_size", ctypes.c_int64),
        ("start_all", ctypes.c_void_p),
        ("wait_all", ctypes.c_void_p),
        ("wait", ctypes.c_void_p),
        ("all_reduce", ctypes.c_void_p),
        ("start_all_reduce", ctypes.c_void_p),
        ("comm", ctypes.c_ssize_t),
        ("type", ctypes.c_ssize_t),
        ("sum", ctypes.c_ssize_t),
        ("request", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
        ("doubles", ctypes.c_ssize_t),
        ("max", ctypes.c_ssize_t),
    ]

    kept: Any = None
    """What the pointers point to."""

    raise_error: Callable[[int], None]
    """Raises what MPI's error code stands for."""


ALONE = Calls(1)
"""Those of one rank."""


@dataclass(frozen=True)
class Requests:
    """The persistent requests of a channel (per rank).

    Attributes
    ----------
    count : int
    handles, statuses : ctypes.Array
        Room for MPI's own, by their bytes.
    owners : ctypes.Array
        The addresses of the handles that hold, those within mpi4py's objects.
    kept : object
        These objects.
    """

    count: int = 0
    handles: Any = None
    statuses: Any = None
    owners: Any = None
    kept: Any = None


class Distributed(ctypes.Structure):
    """`hpc_sla_distributed`: a matrix on several ranks, and what it keeps alive.

    Parameters
    ----------
    calls : Calls
    owned : Matrix or None
        None where rows are only sent.
    halo : Matrix or None
        None without entries.
    boundary : int32 tensor [halo.rows] or None
        The owned rows that the halo's are.
    send_index : int32 tensor [n_send] or None
    send, received : torch.Tensor [n_send], [n_halo]
        The buffers of `requests`.
    requests : Requests
    channel : object
        Whose they are: it frees them once nobody has it any more.
    entries : Matrix or None
        The owned block to be read row by row, for `kernels.accuracy.examine`.
    longest : int
        Entries of its longest row, where its form needs room for one; else 0.
    """

    _fields_ = [
        ("mpi", ctypes.c_void_p),
        ("owned", ctypes.c_void_p),
        ("halo", ctypes.c_void_p),
        ("boundary", ctypes.c_void_p),
        ("send_index", ctypes.c_void_p),
        ("n_send", ctypes.c_int64),
        ("send", ctypes.c_void_p),
        ("received", ctypes.c_void_p),
        ("n_requests", ctypes.c_int64),
        ("requests", ctypes.c_void_p),
        ("statuses", ctypes.c_void_p),
        ("owners", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
        ("longest", ctypes.c_int64),
    ]

    def __init__(
        self,
        calls: Calls,
        owned: Matrix | None,
        halo: Matrix | None,
        boundary: torch.Tensor | None,
        send_index: torch.Tensor | None,
        send: torch.Tensor,
        received: torch.Tensor,
        requests: Requests,
        channel: object = None,
        entries: Matrix | None = None,
        longest: int = 0,
    ) -> None:
        super().__init__(
            ctypes.addressof(calls),
            None if owned is None else owned.address,
            None if halo is None else halo.address,
            None if boundary is None else boundary.data_ptr(),
            None if send_index is None else send_index.data_ptr(),
            0 if send_index is None else send_index.numel(),
            send.data_ptr(),
            received.data_ptr(),
            requests.count,
            ctypes.cast(requests.handles, ctypes.c_void_p),
            ctypes.cast(requests.statuses, ctypes.c_void_p),
            ctypes.cast(requests.owners, ctypes.c_void_p),
            None if entries is None else entries.address,
            longest,
        )
        self.calls = calls
        self.kept = owned, halo, boundary, send_index, send, received, requests, channel, entries


@dataclass(frozen=True)
class CompiledApply:
    """`int64_t function(data, r, out)`: `out = M^-1 r`, and 0, or MPI's error. **Collective.**

    Attributes
    ----------
    function, data : int
        Addresses.
    turns : context manager
        Within which it is to be called.
    kept : object
        What the addresses belong to.
    """

    function: int
    data: int
    turns: AbstractContextManager[Any]
    kept: Any


class Burst(ctypes.Structure):
    """`hpc_sla_burst`: what a method's steps work on, when they stop, and what they found."""

    _fields_ = [
        ("matrix", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("vectors", ctypes.c_void_p * 16),
        ("scalars", ctypes.c_double * 12),
        ("numbers", ctypes.c_int64 * 4),
        ("most", ctypes.c_int64),
        ("through", ctypes.c_int64),
        ("seconds", ctypes.c_double),
        ("target", ctypes.c_double),
        ("ceiling", ctypes.c_double),
        ("best", ctypes.c_double),
        ("since_best", ctypes.c_int64),
        ("patience", ctypes.c_int64),
        ("done", ctypes.c_int64),
        ("norms", ctypes.c_void_p),
        ("row", ctypes.c_double * 4),
        ("apply", ctypes.c_void_p),
        ("applied", ctypes.c_void_p),
        ("fresh", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class StepKernel:
    """The steps of a method in C.

    Attributes
    ----------
    function : str
        `hpc_sla_burst_FUNCTION_DTYPE` of the compiled library.
    of : callable
        The method's `step` that they do the same as.
    vectors : tuple of str
        The method's attributes (or theirs) that it works in, as its C file lists them.
    width : int
        How many scalars a step records.
    swaps : tuple of (str, str)
        Attributes that change places with each step.
    numbers : tuple of str
        Attributes that are integers, or flags, of which a step may change some.
    preconditioned : bool
        Whether it can apply a preconditioner that is not pointwise.
    starts : bool
        Whether it does `start`, too.
    lasting : bool
        Whether what the method's `allocate` makes serves any right-hand side of the same length,
        and whatever values A and the preconditioner have then.
    """

    function: str
    of: Callable[[Any], None]
    vectors: tuple[str, ...]
    width: int
    swaps: tuple[tuple[str, str], ...] = ()
    numbers: tuple[str, ...] = ()
    preconditioned: bool = False
    starts: bool = False
    lasting: bool = False

    def entry(self, like: torch.Tensor) -> Callable[[int], int]:
        """The function for vectors like this one: takes the address of a `Burst`."""
        name = f"hpc_sla_burst_{self.function}_{native.DTYPES[like.dtype]}"
        found: Callable[[int], int] = getattr(native.LIBRARY, name)
        return found
