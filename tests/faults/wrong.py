"""The command line on which one rank goes wrong: ``wrong.py HOW WHEN RANK COMMAND ...``.

HOW: ``sleep``, ``stop`` (SIGSTOP to itself) or ``raise``, in WHEN, a stage of `PLACES`; or
``nan``, in the residual after cg's iteration number WHEN.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import hpc_sla.checkpoint.checkpoint
import hpc_sla.checkpoint.state
import hpc_sla.cli.run.result
import hpc_sla.precond
import hpc_sla.problems.system
from hpc_sla.cli import main
from hpc_sla.distributed.launcher import launch
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.cg import CG
from hpc_sla.observe.heartbeat import beat

PLACES = {
    "read": (hpc_sla.problems.system, "read_rhs", 1),
    "setup": (hpc_sla.precond, "make_preconditioner", 1),
    "iterate": (hpc_sla.checkpoint.checkpoint.Checkpoint, "ask", 10),
    "checkpoint": (hpc_sla.checkpoint.state, "_write_vector", 5),
    "write": (hpc_sla.cli.run.result, "write_result", 1),
}


WRONG = Path("wrong")


def go_wrong_here(how: str) -> None:
    WRONG.touch()
    if how == "sleep":
        time.sleep(600)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise RuntimeError("only on this rank")


def arrange(how: str, when: str) -> None:
    owner, name, call = PLACES[when]
    function = getattr(owner, name)
    calls = 0

    def wrong(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            go_wrong_here(how)
        return function(*args, **kwargs)

    setattr(owner, name, wrong)


def spoil(iteration: int) -> None:
    step = CG.step
    steps = 0

    def wrong(self: CG) -> None:
        nonlocal steps
        step(self)
        steps += 1
        if steps == iteration:
            self.r[0] = torch.nan

    CG.step = wrong  # type: ignore[method-assign]


def keep_alive() -> None:
    """However slow the machine is, nothing has stalled before something goes wrong."""
    while not WRONG.exists():
        beat()
        time.sleep(0.05)


if __name__ == "__main__":
    CompiledSteps.seconds = 0.0  # on every rank: there are as many questions as iterations
    how, when, rank = sys.argv[1:4]
    threading.Thread(target=keep_alive, daemon=True).start()
    if launch().rank == int(rank):
        spoil(int(when)) if how == "nan" else arrange(how, when)
    sys.exit(main(sys.argv[4:]))
