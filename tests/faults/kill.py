"""Kill a random rank at a random moment, many times, and see what is left.

``python -m tests.faults.kill --cases 100 --seed 1`` prints the tally. A case is a ``solve`` with
checkpoints under mpiexec, fresh or going on from a checkpoint; SIGKILL for one rank in a stage
drawn from `STAGES`; a look at what stands under the final names; and the same command again, with
``--resume``, whose answer must be that of the uninterrupted run, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpc_sla.checkpoint.file import CheckpointFile
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.errors import InputError
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import CG, run_cases
from tests.launch import environment, mpiexec

RANKS = 4
STAGES = ("read", "setup", "iterate", "checkpoint", "write")
SECONDS_TO_END = 100.0
SECONDS_TO_RUN = 200.0
_LONGEST = {"read": 0.15, "setup": 0.1, "iterate": 0.6, "checkpoint": 0.4, "write": 0.4}
_N = 60
SOLVE = ("solve", "matrix.h5", *CG, "--rtol", "1e-12", "-o", "run.h5")
CHECKPOINT = ("--checkpoint", "run.ckpt.h5", "--checkpoint-every", "40iterations", "--resume")


@dataclass
class Tally:
    """What became of the cases."""

    killed: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    """Runs that were over before the kill: not counted among the cases."""
    slowest: float = 0.0
    """Seconds from the kill until no process was left."""
    resumed: int = 0
    """Reruns that went on from a checkpoint; the others had none and started afresh."""
    leftovers: int = 0
    """Cases that left a hidden temporary file, which the rerun removed."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.killed.values())
        return (
            f"{total} killed {dict(sorted(self.killed.items()))}, {self.missed} drawn again; "
            f"slowest to end {self.slowest:.2f} s; {self.resumed} resumed from a checkpoint, "
            f"{total - self.resumed} from the start; {self.leftovers} left a temporary file; "
            f"{len(self.problems)} problems"
        )


class Faults:
    """A folder with a matrix, the uninterrupted answer, and a checkpoint to begin with."""

    def __init__(self, folder: Path, ranks: int = RANKS, verbose: bool = False) -> None:
        self.folder, self.ranks, self._verbose = folder, ranks, verbose
        self.tally = Tally()
        self._begun = folder / "begun.ckpt.h5"
        if not self._begun.exists():
            self._set_up()
        self.expected = read_result(folder / "run.h5")

    def _set_up(self) -> None:
        source = load_source(f"poisson2d:n={_N}", ["manufactured"])
        write_partitioned(source, self.folder / "matrix.h5", self.ranks, "rcb")
        begin = [self._begun.name if name == "run.ckpt.h5" else name for name in CHECKPOINT]
        whole = {
            "begun": [*SOLVE, *begin, "--max-iterations", "90"],
            "whole": [*SOLVE, *CHECKPOINT],
        }
        told = run_cases(self.ranks, whole, self.folder)
        assert [one.codes[0] for one in told.values()] == [3, 0], told

    def run(self, cases: int, seed: int, stages: tuple[str, ...] = STAGES) -> Tally:
        """Kill `cases` runs, then run them all again."""
        places = []
        number = 0
        while len(places) < cases:
            rng = np.random.default_rng((seed, number))
            number += 1
            begun = time.monotonic()
            stage = stages[(3 * seed + len(places)) % len(stages)]
            place = self.folder / f"case{seed}.{number}"
            if self._kill(place, stage, rng):
                self.tally.killed[stage] += 1
                places.append(place)
            else:
                self.tally.missed += 1
                assert self.tally.missed <= 2 * cases + 5, "nearly every kill came too late"
                shutil.rmtree(place)
            if self._verbose:
                told = f"{place.name} {stage} {time.monotonic() - begun:.1f} s"
                print(told, file=sys.stderr, flush=True)
        self._rerun(places)
        return self.tally

    def _kill(self, place: Path, stage: str, rng: np.random.Generator) -> bool:
        """One run, killed; whether it was before its end."""
        place.mkdir()
        os.link(self.folder / "matrix.h5", place / "matrix.h5")
        if rng.integers(2):
            shutil.copy(self._begun, place / "run.ckpt.h5")
        victim = int(rng.integers(self.ranks))
        delay = rng.uniform(0, _LONGEST[stage])
        process = subprocess.Popen(
            [mpiexec(), "-n", str(self.ranks), sys.executable, "-m", "tests.faults.slowed"]
            + [*SOLVE, *CHECKPOINT],
            cwd=place,
            env=environment(self.ranks),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(place / "stderr", "w"),  # noqa: SIM115
            start_new_session=True,
        )
        try:
            entered = place / f"{stage}.{victim}"
            end = time.monotonic() + SECONDS_TO_RUN
            while not entered.exists() and process.poll() is None:
                assert time.monotonic() < end, f"{place}: never came to {stage}"
                time.sleep(0.005)
            time.sleep(delay)
            pids = [int((place / f"pid.{rank}").read_text()) for rank in range(self.ranks)]
            if process.poll() is not None or not _runs(pids[victim]):
                process.wait(SECONDS_TO_END)
                return False
            os.kill(pids[victim], signal.SIGKILL)
            self._watch_end(process, pids, f"{place.name}: {stage}, rank {victim}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._look(place, f"{place.name}: {stage}, rank {victim}")
        return True

    def _watch_end(self, process: subprocess.Popen[bytes], pids: list[int], case: str) -> None:
        begun = time.monotonic()
        while process.poll() is None or any(map(_runs, pids)):
            if time.monotonic() - begun > SECONDS_TO_END:
                self.tally.problems.append(f"{case}: hung")
                for pid in filter(_runs, pids):
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.01)
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - begun)
        if process.returncode == 0:
            self.tally.problems.append(f"{case}: exit code 0")

    def _look(self, place: Path, case: str) -> None:
        """Under a final name: nothing, or what is whole."""
        if (place / "run.h5").exists() and not self._right(place):
            self.tally.problems.append(f"{case}: a partial or wrong result")
        if (place / "run.ckpt.h5").exists():
            try:
                read_checkpoint(place / "run.ckpt.h5")
            except InputError as error:
                self.tally.problems.append(f"{case}: {error}")
        self.tally.leftovers += bool(list(place.glob(".*.part")))

    def _right(self, place: Path) -> bool:
        try:
            found = read_result(place / "run.h5")
        except InputError:
            return False
        return np.array_equal(found.x, self.expected.x) and np.array_equal(
            found.residual_history, self.expected.residual_history
        )

    def _rerun(self, places: list[Path]) -> None:
        cases = {}
        for place in places:
            (place / "run.h5").unlink(missing_ok=True)
            arguments = [*SOLVE, *CHECKPOINT]
            for name in ("matrix.h5", "run.h5", "run.ckpt.h5"):
                arguments[arguments.index(name)] = f"{place.name}/{name}"
            cases[place.name] = arguments
        for name, told in run_cases(self.ranks, cases, self.folder).items():
            place = self.folder / name
            if told.codes != [0] * self.ranks or not self._right(place):
                self.tally.problems.append(f"{name}: rerun: {told.codes} {told.stderr}")
            self.tally.resumed += "resuming from" in told.stderr
            if left := list(place.glob(".*.part")):
                self.tally.problems.append(f"{name}: {left} is still there after the rerun")


def read_checkpoint(path: Path) -> int:
    """Read and verify all of it; the iteration.

    Raises
    ------
    InputError
    """
    with CheckpointFile(path) as file:
        file.arrays()
        for name in ("x", "r", "p"):
            file.read(name, _N * _N, "float64")(0, _N * _N)
        return int(file.facts["iteration"])


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="Keep everything there, and set up once.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        faults = Faults(options.folder or Path(temporary), verbose=True)
        tally = faults.run(options.cases, options.seed)
    print(tally)
    for problem in tally.problems:
        print(problem)
    return bool(tally.problems)


if __name__ == "__main__":
    sys.exit(main())
