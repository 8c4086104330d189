"""--checkpoint, --checkpoint-every, --resume, and what SIGTERM and SIGUSR1 do to a command."""

from __future__ import annotations

import json
import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

from hpc_sla.cli import exits
from hpc_sla.cli.files import Written
from hpc_sla.cli.options import Function
from hpc_sla.cli.record import MEANINGS
from hpc_sla.distributed import preemption
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError
from hpc_sla.observe import log

if TYPE_CHECKING:
    from typing_extensions import Self

    from hpc_sla.checkpoint.checkpoint import Checkpoint
    from hpc_sla.distributed.world import World


def checkpoint_options(function: Function) -> Function:
    """--checkpoint --checkpoint-every --resume."""
    for decorate in (
        click.option(
            "--resume",
            is_flag=True,
            help="Go on from --checkpoint; start afresh, with a notice, where there is none.",
        ),
        click.option(
            "--checkpoint-every",
            metavar="60s|100iterations",
            default="60s",
            show_default=True,
            help="How often: also 5min, 1h; a number is of seconds.",
        ),
        click.option(
            "--checkpoint",
            type=Written(),
            metavar="FILE",
            help="Save the solver's state there from time to time, and on SIGTERM or SIGUSR1 "
            f"before ending with exit code {exits.PREEMPTED}.",
        ),
    ):
        function = decorate(function)
    return function


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
    """

    def __init__(self, path: str | None, every: str, resume: bool) -> None:
        self._path, self._every, self._resume = path, every, resume
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
        from hpc_sla.checkpoint.checkpoint import Checkpoint, parse_every

        try:
            parse_every(self._every)
        except InputError as error:
            raise InputError(
                error.problem, field="--checkpoint-every", remedy=error.remedy
            ) from error
        if self._resume and self._path is None:
            raise InputError(
                "needs a file to resume from", field="--resume", remedy="Add --checkpoint FILE."
            )
        world.on_root(self._check)
        self._checkpoint = Checkpoint(self._path, self._every, self._resume, tag)
        return self._checkpoint

    def _check(self) -> None:
        from hpc_sla.checkpoint.file import check_replaceable

        if self._path is not None:
            check_replaceable(self._path)

    def finishing(self) -> None:
        """The answer is there: from now on signals are not heard. Local."""
        self._finishing = True

    def preempted(self, world: World, iterations: int, residual: float, as_json: bool) -> int:
        """Say what was saved, on rank 0; the exit code. Local."""
        from hpc_sla.report.run import finite

        checkpoint = self._checkpoint
        assert checkpoint is not None
        told = f"preempted at iteration {iterations}"
        if checkpoint.asked:
            told += f" by {checkpoint.asked}"
        if checkpoint.path is None:
            told += "; nothing was saved: there was no --checkpoint"
        elif checkpoint.iteration is None:
            told += f"; nothing could be saved in {checkpoint.path}"
        else:
            told += (
                f"; iteration {checkpoint.iteration} is in {checkpoint.path}: the same command "
                "with --resume goes on from there"
            )
        log.emit(
            "preempted",
            logging.WARNING,
            message=told,
            iterations=iterations,
            relative_residual=finite(residual),
            checkpoint=checkpoint.path,
            checkpoint_iteration=checkpoint.iteration,
        )
        if world.rank == 0:
            print(f"hpc_sla: {told}", file=sys.stderr, flush=True)
            if as_json:
                summary = {
                    "status": "preempted",
                    "iterations": iterations,
                    "relative_residual": finite(residual),
                    "checkpoint": None if checkpoint.iteration is None else checkpoint.path,
                    "result": None,
                }
                print(json.dumps(summary))
        return exits.PREEMPTED

    # Signals

    def __enter__(self) -> Self:
        self._installed = preemption.install()
        preemption.listen(self._told)
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

    def _told(self, name: str) -> str | None:
        """What to say and leave with; None to go on."""
        log.emit("signal", logging.WARNING, name=name, heard=not self._finishing)
        if self._finishing:
            return None
        if self._checkpoint is not None and self._checkpoint.begun:
            self._checkpoint.request_stop(name)
            return None
        told = f"{name} before the iterations began: there is nothing to save"
        if self._path is not None and os.path.exists(self._path):
            told += f"; {self._path} is as it was"
        log.emit("preempted", logging.WARNING, message=told)
        if launch().size > 1:
            log.emit("end", exit_code=exits.PREEMPTED, meaning=MEANINGS[exits.PREEMPTED])
        return f"hpc_sla: {told}"
