"""The World of one command, or its ranks: brought up at its start, closed at its end."""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpc_sla.cli.asked import GuardOptions, RunOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.record import running
from hpc_sla.cli.stall import Watchdog
from hpc_sla.distributed.launcher import refuse_lone_ranks, sleep_where_crowded
from hpc_sla.errors import AccuracyWarning, HpcSlaError
from hpc_sla.kernels.loading import few_looks_at_files
from hpc_sla.observe import log

if TYPE_CHECKING:
    from hpc_sla.distributed.world import World
    from hpc_sla.messages.peers import Peers


_FORWARDING_SECONDS = 0.2
"""What is in the launcher's pipes when the job is aborted is lost."""


@contextmanager
def guarded_world(asked: GuardOptions) -> Iterator[tuple[World, Guard]]:
    """Bring up the World as `open_world` does, under a `Guard` and a `Watchdog`. **Collective.**"""
    with (
        Guard(
            asked.checkpoint,
            asked.checkpoint_every,
            asked.resume,
            asked.checkpoint_local,
            asked.checkpoint_copy_every,
        ) as guard,
        Watchdog(asked.stall_timeout),
        open_world(asked) as world,
    ):
        yield world, guard


@contextmanager
def open_peers() -> Iterator[Peers]:
    """All ranks of the launch, for work on plain arrays: without torch. **Collective.**

    An exception of one rank that is no answer to the user ends the job, as it does with a World.
    """
    sleep_where_crowded()
    from mpi4py import MPI

    from hpc_sla.messages.peers import Peers  # loads NumPy, which --help does without

    comm = MPI.COMM_WORLD
    try:
        with Peers(comm) as peers:
            with peers.agree():
                refuse_lone_ranks(comm.size, MPI.get_vendor()[0])
            yield peers
    except HpcSlaError:
        raise
    except BaseException:
        print(f"uncaught on MPI rank {comm.rank}:", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        if comm.size > 1:
            time.sleep(_FORWARDING_SECONDS)
            comm.Abort(1)
        raise


@contextmanager
def _told_once(rank: int) -> Iterator[None]:
    """What ranks are warned of together is said by rank 0, in a line that names no line of ours."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def told(message: Any, category: type[Warning], *where: Any, **named: Any) -> None:
            if not issubclass(category, AccuracyWarning):
                show(message, category, *where, **named)
                return
            log.emit("warning", logging.WARNING, message=str(message), kind=category.__name__)
            if rank == 0:
                print(f"hpc_sla: warning: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = told
        yield


@contextmanager
def open_world(asked: RunOptions) -> Iterator[World]:
    """Bring up the World. **Collective.** Closed at the end of the block.

    After an exception it is left as it is: the other ranks may be anywhere, so nothing
    collective may follow.
    """
    # torch and MPI come first here: what is refused before needs neither. Importing torch makes
    # objects by the million and no garbage: looking for some takes a tenth of the time.
    gc.disable()
    try:
        with few_looks_at_files():
            import h5py  # noqa: F401  # its questions are among them: see there

            from hpc_sla.distributed.world import World  # loads torch: see `hpc_sla.cli`
    finally:
        gc.freeze()
        gc.enable()

    with World(device=asked.device, transport=asked.transport) as world, _told_once(world.rank):
        record = running()
        if record is not None:
            record.world_is_up(world)
        yield world
        if record is not None:
            record.world_ends(world)
