"""--checkpoint, --checkpoint-every, --resume, and what SIGTERM and SIGUSR1 do to a command."""

from __future__ import annotations

import json
import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from hpc_sla.cli import exits
from hpc_sla.distributed import preemption
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError
from hpc_sla.observe import log
from hpc_sla.report.tables import finite

if TYPE_CHECKING:
    from typing_extensions import Self

    from hpc_sla.checkpoint.checkpoint import Checkpoint
    from hpc_sla.distributed.world import World


class Guard:
    """A command that may be told to end: on SIGTERM and SIGUSR1, on any rank.

    A context manager, around all of the command. Before the iterations begin it ends at once,
    and all ranks with it; within them the state is saved first; once they are over, the result
    is written all the same.

    Parameters
    ----------
    path : str or None
    every : str
    resume : bool
    local : str or None
    copy_every : int
        See `Checkpoint`.
    """

    def __init__(
        self,
        path: str | None,
        every: str,
        resume: bool,
        local: str | None = None,
        copy_every: int = 10,
    ) -> None:
        self._path, self._every, self._resume = path, every, resume
        self._local, self._copy_every = local, copy_every
        self._checkpoint: Checkpoint | None = None
        self._finishing = False
        self._installed = False

    def checkpoint(self, world: World, tag: str = "") -> Checkpoint:
        """What to hand to the solver. **Collective.**

        Raises
        ------
        InputError
            On every rank: options that cannot be, a file that is in the way or cannot be written.
        """
        # They load torch, as the World has by now: the guard stood before it.
        from hpc_sla.checkpoint.checkpoint import Checkpoint, parse_every
        from hpc_sla.checkpoint.file import check_replaceable
        from hpc_sla.storage.atomic import check_writable

        path = self._path
        try:
            parse_every(self._every)
        except InputError as error:
            raise InputError(
                error.problem, field="--checkpoint-every", remedy=error.remedy
            ) from error
        if self._resume and path is None:
            raise InputError(
                "needs a file to resume from", field="--resume", remedy="Add --checkpoint FILE."
            )
        if self._local is not None and path is None:
            raise InputError(
                "needs a shared file besides",
                field="--checkpoint-local",
                remedy="Add --checkpoint FILE.",
            )
        world.on_root(lambda: None if path is None else check_replaceable(path))
        made = Checkpoint(path, self._every, self._resume, tag, self._local, self._copy_every)
        if made.parts is not None:
            with world.agree():
                made.parts.make_folder()
                check_writable(made.parts.path(world, 0))
        self._checkpoint = made
        return made

    def finishing(self) -> None:
        """The answer is there: from now on signals are not heard. Local."""
        self._finishing = True

    def preempted(self, world: World, iterations: int, residual: float, as_json: bool) -> int:
        """Say what was saved, on rank 0; the exit code. Local."""
        checkpoint = self._checkpoint
        assert checkpoint is not None
        message, where = f"preempted at iteration {iterations}", checkpoint.where or checkpoint.path
        if checkpoint.asked:
            message += f" by {checkpoint.asked}"
        if checkpoint.path is None:
            message += "; nothing was saved: there was no --checkpoint"
        elif checkpoint.iteration is None:
            message += f"; nothing could be saved in {checkpoint.path}"
        else:
            message += (
                f"; iteration {checkpoint.iteration} is in {where}: the same command "
                "with --resume goes on from there"
            )
        log.emit(
            "preempted",
            logging.WARNING,
            message=message,
            iterations=iterations,
            relative_residual=finite(residual),
            checkpoint=where,
            checkpoint_iteration=checkpoint.iteration,
        )
        if world.rank == 0:
            print(f"hpc_sla: {message}", file=sys.stderr, flush=True)
            if as_json:
                summary = {
                    "status": "preempted",
                    "iterations": iterations,
                    "relative_residual": finite(residual),
                    "checkpoint": None if checkpoint.iteration is None else where,
                    "result": None,
                }
                print(json.dumps(summary))
        return exits.PREEMPTED

    # Signals

    def __enter__(self) -> Self:
        self._installed = preemption.install()
        preemption.listen(self._signalled)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._finishing:
            preemption.listen(None)
        if self._installed:
            preemption.uninstall()
            preemption.listen(None)

    def _signalled(self, name: str) -> str | None:
        """What to say and leave with; None to go on."""
        log.emit("signal", logging.WARNING, name=name, heard=not self._finishing)
        if self._finishing:
            return None
        if self._checkpoint is not None and self._checkpoint.begun:
            self._checkpoint.request_stop(name)
            return None
        message = f"{name} before the iterations began: there is nothing to save"
        if self._path is not None and os.path.exists(self._path):
            message += f"; {self._path} is as it was"
        log.emit("preempted", logging.WARNING, message=message)
        if launch().size > 1:
            log.emit("end", exit_code=exits.PREEMPTED, meaning=exits.MEANINGS[exits.PREEMPTED])
        return f"hpc_sla: {message}"
