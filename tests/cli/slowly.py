"""The command line with time to interrupt it: ``python slowly.py STAGE COMMAND ...``.

Each rank writes its process number to ``pid.RANK``. STAGE says what takes long: ``iterate`` (each
iteration, 30 ms), ``read`` (reading the matrix) or ``write`` (the second checkpoint, between its
last byte and its name); where that begins, the file ``there.RANK`` appears.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mpi4py import MPI

import hpc_sla.checkpoint.checkpoint
from hpc_sla.cli import main
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.problems.system import NamedSystem
from hpc_sla.storage.atomic import PendingFile

RANK = MPI.COMM_WORLD.rank


def wait_here(seconds: float = 600) -> None:
    Path(f"there.{RANK}").touch()
    time.sleep(seconds)


def slow_down(stage: str) -> None:
    checkpoint = hpc_sla.checkpoint.checkpoint.Checkpoint
    if stage == "iterate":
        ask = checkpoint.ask

        def slowly(*args, **kwargs):
            wait_here(0.03)
            return ask(*args, **kwargs)

        checkpoint.ask = slowly
    elif stage == "read":
        matrix = NamedSystem.matrix

        def late(self, world, dtype=None):
            if RANK == 0:
                wait_here()
            return matrix(self, world, dtype)

        NamedSystem.matrix = late  # type: ignore[method-assign]
    elif stage == "write":
        commit = PendingFile.commit

        def commit_late(self):
            if self.path.name.endswith(".ckpt.h5") and self.path.exists():
                wait_here()
            commit(self)

        PendingFile.commit = commit_late


if __name__ == "__main__":
    Path(f"pid.{RANK}").write_text(str(os.getpid()))
    slow_down(sys.argv[1])
    CompiledSteps.seconds = 0.0  # what is asked after each iteration is asked after each burst
    sys.exit(main(sys.argv[2:]))
