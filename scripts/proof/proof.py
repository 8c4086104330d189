"""The proof from end to end: which parts on how many ranks, for how long; one JSON; an exit code.

`scripts/gpu_proof.sh` sets the environment up and starts this; it starts the parts, each under an
mpiexec of its own, so that one that crashes or hangs costs itself only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import judge
from launch import launch
from options import parse
from provenance import git
from record import FAIL, write
from show import lines

from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import check_writable

SCHEMA = "hpc_sla.gpu_proof/1"

SHARES = {"machine": 1.0, "correctness": 4.0, "table1": 8.0, "table2": 2.0, "peers": 2.0}
"""Of the time that is left, what a launch may take beside those that are still to come."""

OVER = 1.5
"""Times its share, and `LEAST`, after which a launch is ended: the rest is to run, too."""

LEAST = 20.0
"""Seconds for a launch, below which there is no use in it."""


def main() -> int:
    asked = parse(sys.argv[1:])
    gpus = 0 if asked.small else _gpus()
    if not (asked.small or gpus):
        print("gpu_proof.sh: torch sees no GPU; --small does the same on the CPU", file=sys.stderr)
        return 2
    try:
        check_writable(asked.output)
    except InputError as error:
        print(f"gpu_proof.sh: -o: {error}", file=sys.stderr)
        return 2
    found = _run(asked, asked.ranks or _rank_counts(gpus))
    print("\n".join(lines(found)))
    print(f"All of it is in {asked.output}")
    return 1 if found["verdict"] == FAIL else 0


def _run(asked: Namespace, counts: tuple[int, ...]) -> dict[str, Any]:
    """All parts; the file is written after each."""
    start = time.monotonic()
    about = {
        "schema": SCHEMA,
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": sys.argv[1:],
        "small": asked.small,
        "minutes": asked.minutes,
        "commit": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
    todo = _launches(asked, counts)
    parts: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu_proof-") as folder:
        while todo:
            name, ranks = todo.pop(0)
            left = asked.minutes * 60 - (time.monotonic() - start)
            share = left * SHARES[name] / (SHARES[name] + sum(SHARES[one] for one, _ in todo))
            parts.append(_launch(asked, name, ranks, Path(folder), share, left))
            _say(parts[-1])
            found = {**about, "complete": not todo, "seconds": time.monotonic() - start}
            found |= _judged(parts, asked.small)
            write(Path(asked.output), found)
    return found


def _judged(parts: list[dict[str, Any]], small: bool) -> dict[str, Any]:
    """The parts, and what they come to."""
    reached = judge.goals(parts, small)
    return {
        "verdict": judge.verdict(parts, reached),
        "failures": judge.failures(parts, reached),
        "parts": parts,
        "ratios": judge.ratios(parts),
        "efficiencies": judge.efficiencies(parts),
        "goals": reached,
    }


def _launch(
    asked: Namespace, name: str, ranks: int, folder: Path, share: float, left: float
) -> dict[str, Any]:
    """Run a part, or say why not."""
    if left < LEAST:
        reason = f"no time left of {asked.minutes:g} minutes"
        unrun = {"part": name, "ranks": ranks, "status": FAIL, "reason": reason, "seconds": 0.0}
        return {**unrun, "facts": {}, "checks": [], "rows": []}
    # torch.distributed, as on GPUs
    transport = "gloo" if asked.small and name == "correctness" and ranks > 1 else "auto"
    limit = min(left, OVER * share + LEAST)
    return launch(name, ranks, folder, limit, share, small=asked.small, transport=transport)


def _launches(asked: Namespace, counts: tuple[int, ...]) -> list[tuple[str, int]]:
    """Parts and rank counts, in the order in which they run."""
    most = max(counts)
    of = {"machine": [most], "correctness": sorted({1, most}), "table2": counts}
    return [(name, ranks) for name in asked.only for ranks in of.get(name, [1])]


def _rank_counts(gpus: int) -> tuple[int, ...]:
    """Powers of two up to the GPUs, and as many as there are; two on the CPU."""
    most = gpus or 2
    return tuple(sorted({count for count in (1, 2, 4, 8) if count <= most} | {most}))


def _gpus() -> int:
    """Asked of another process, so that this one loads no CUDA."""
    program = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    return int(asked.stdout) if asked.returncode == 0 else 0


def _say(part: dict[str, Any]) -> None:
    wrong = sum(one["status"] == FAIL for one in [*part["checks"], *part["rows"]])
    said = f"{part['part']} on {part['ranks']} rank(s): {part['status']}, {part['seconds']:.0f} s"
    said += f", {wrong} of its findings FAIL" if wrong else ""
    print(f"{said} {part['reason']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
