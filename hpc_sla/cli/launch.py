"""What the launcher (mpiexec, srun) says about this process, before MPI is brought up.

Option parsing happens on every rank and needs no MPI. All that must be known by then is which
process speaks for the rest, so that one message is printed and not one per rank.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from hpc_sla.cli import exits
from hpc_sla.errors import HpcSlaError, InputError

P = ParamSpec("P")

# (rank, number of ranks) as named by MPICH and its kin, Open MPI, MVAPICH2, and Slurm's steps.
# SLURM_NTASKS is left out on purpose: it is also set in a batch script, which runs once.
_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Launch:
    """One process of a launch: its rank, and the number of ranks started with it."""

    rank: int
    size: int

    @property
    def is_root(self) -> bool:
        return self.rank == 0


def launch() -> Launch:
    """Read the launcher's environment; a plain ``python -m hpc_sla`` is rank 0 of 1."""
    for rank, size in _VARIABLES:
        if rank in os.environ and size in os.environ:
            try:
                return Launch(int(os.environ[rank]), int(os.environ[size]))
            except ValueError:
                continue
    return Launch(0, 1)


def fail_together(message: str, code: int, launched: Launch) -> int:
    """Print `message` once, on rank 0, and leave no rank behind. **Collective.**

    Some launchers kill every rank as soon as one has ended with an error, so nobody leaves before
    rank 0 has printed. A rank that finds itself alone here (its error was not shared with the
    others, which then wait for it somewhere else) aborts the job after a while: no hang.

    Parameters
    ----------
    message : str
        The same on every rank.
    code : int
        The exit code.
    launched : Launch

    Returns
    -------
    int
        `code`.
    """
    if launched.is_root:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
    if launched.size == 1:
        return code
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # no MPI library behind mpi4py
        return code
    if MPI.Is_finalized():
        return code
    request = MPI.COMM_WORLD.Ibarrier()
    end = time.monotonic() + _PATIENCE_SECONDS
    while not request.Test():
        if time.monotonic() > end:
            if not launched.is_root:
                print(f"rank {launched.rank}: {message}", file=sys.stderr, flush=True)
            MPI.COMM_WORLD.Abort(code)
        time.sleep(0.001)
    return code


def told(error: HpcSlaError) -> tuple[str, int]:
    """The one message for an error that a user can mend, and its exit code."""
    if isinstance(error, InputError):
        return f"hpc_sla: error: {error}", exits.USAGE
    return f"hpc_sla: failed: {error}", exits.FAILED


def serial(function: Callable[P, int]) -> Callable[P, int]:
    """Make a command that needs no MPI safe under a launcher: rank 0 does it all.

    The other ranks end at once, so rank 0 must not wait for them when it fails.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> int:
        if not launch().is_root:
            return exits.OK
        try:
            return function(*args, **kwargs)
        except HpcSlaError as error:
            message, code = told(error)
            sys.stdout.flush()
            print(message, file=sys.stderr, flush=True)
            return code

    return wrapper
