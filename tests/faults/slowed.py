"""The command line with a pause inside each stage, so that a kill can land anywhere in it.

``python -m tests.faults.slowed COMMAND ...``. Each rank writes its process number to
``pid.RANK``, and on entering a stage (read, setup, iterate, checkpoint, write) for the first time
the file ``STAGE.RANK``. Pauses are short, many, and at the places where what has been done so far
is visible outside: between slabs, between the last byte and the final name, between collectives.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hpc_sla.checkpoint.checkpoint
import hpc_sla.cli.run.result
import hpc_sla.linear.driver
import hpc_sla.precond
import hpc_sla.problems.system
from hpc_sla.cli import main
from hpc_sla.distributed.launcher import launch
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.storage import atomic, hdf5_write, parallel_output

RANK = launch().rank
PAUSE = 0.03
PER_ITERATION = 0.002
_entered: set[str] = set()


def enter(stage: str) -> None:
    if stage not in _entered:
        _entered.add(stage)
        Path(f"{stage}.{RANK}").touch()


def around(owner: Any, name: str, stage: str = "", pause: float = PAUSE) -> None:
    """Pause before and after a function, which begins a stage if one is named."""
    function: Callable[..., Any] = getattr(owner, name)

    def slowly(*args: Any, **kwargs: Any) -> Any:
        if stage:
            enter(stage)
        time.sleep(pause)
        try:
            return function(*args, **kwargs)
        finally:
            time.sleep(pause)

    setattr(owner, name, slowly)


def slow_down() -> None:
    around(hpc_sla.problems.system.NamedSystem, "matrix", "read")
    around(hpc_sla.precond, "make_preconditioner", "setup")
    around(hpc_sla.linear.driver.KrylovLoop, "run", "iterate", 0.0)
    around(hpc_sla.checkpoint.checkpoint.Checkpoint, "ask", pause=PER_ITERATION / 2)
    CompiledSteps.seconds = 0.0  # each iteration is followed by a question
    around(hpc_sla.checkpoint.checkpoint, "write_state", "checkpoint", 0.0)
    around(hpc_sla.cli.run.result, "write_result", "write", 0.0)
    around(hdf5_write.Output, "write")
    around(parallel_output.ParallelOutput, "write")
    around(parallel_output.ParallelOutput, "finish")
    around(hdf5_write.Output, "close")
    around(atomic, "_fsync")


if __name__ == "__main__":
    Path(f"pid.{RANK}").write_text(str(os.getpid()))
    slow_down()
    sys.exit(main(sys.argv[1:]))
