"""Checkpoints and preemption through the command line, as Slurm and mpiexec do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_sla.storage.result_file import read_result
from tests.cli.cases import run_cases
from tests.launch import environment, launch, listening, mpiexec

SLOWLY = Path(__file__).with_name("slowly.py")
CHECKPOINT = ["--checkpoint", "run.ckpt.h5", "--checkpoint-every", "5iterations"]

COMMANDS = {
    "solve": ["solve", "matrix.h5", "--method", "cg", "--precond", "none", "--rtol", "1e-11"],
    "eigsh": ["eigsh", "matrix.h5", "-k", "3", "--tol", "1e-8"],
    "newton": ["newton", "bratu2d:n=24,lambda=6", "--linear-method", "gmres", "--precond", "none"],
}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    made = launch(0, "partition", "poisson2d:n=24", "-o", "matrix.h5", "--parts", "3", cwd=folder)
    assert made.returncode == 0, made.stderr
    return (folder / "matrix.h5").read_bytes()


@pytest.fixture
def folder(tmp_path, matrix):
    (tmp_path / "matrix.h5").write_bytes(matrix)
    return tmp_path


class Running:
    """A launch in progress, ended with the block whatever happens."""

    def __init__(self, ranks: int, stage: str, arguments: list[str], folder: Path) -> None:
        self.folder, self.ranks = folder, ranks
        for old in [*folder.glob("pid.*"), *folder.glob("there.*")]:
            old.unlink()
        prefix = [mpiexec(), "-n", str(ranks)] if ranks else []
        program = [str(SLOWLY), stage] if stage else ["-m", "hpc_sla"]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *program, *arguments],
            cwd=folder,
            env=environment(ranks),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

    def wait_for(self, condition, seconds=300.0):
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def pid(self, rank: int) -> int:
        path = self.folder / f"pid.{rank}"
        self.wait_for(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def end(self, seconds=300.0):
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


def _iteration(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return json.loads(file.attrs["facts"])["iteration"]


def _changed(path: Path):
    """Whether there is another file at `path` than now."""
    before = path.stat().st_ino if path.exists() else None
    return lambda: path.exists() and path.stat().st_ino != before


def _answer(path: Path):
    result = read_result(path)
    return result.x, result.residual_history, result.attributes


@pytest.mark.parametrize(
    ("name", "ranks", "how"),
    [
        ("solve", 2, signal.SIGUSR1),
        ("solve", 3, signal.SIGTERM),
        ("solve", 0, signal.SIGTERM),
        ("eigsh", 2, signal.SIGTERM),
        ("newton", 2, signal.SIGUSR1),
    ],
)
def test_told_to_end_twice_and_resumed(folder, name, ranks, how):
    """SIGUSR1 to one rank alone, SIGTERM to the launcher; then the uninterrupted answer."""
    command = [*COMMANDS[name], "-o", "run.h5"]
    whole = launch(ranks, *command[:-1], "whole.h5", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    checkpoint, at = folder / "run.ckpt.h5", []
    every = ["--checkpoint", "run.ckpt.h5", "--checkpoint-every"]
    every.append("1iterations" if name == "newton" else "5iterations")
    for turn in range(2):
        arguments = [*command, *every, "--resume", *(["--json"] if turn else [])]
        saved = _changed(checkpoint)
        with Running(ranks, "iterate", arguments, folder) as running:
            running.wait_for(saved)
            pid = running.pid(ranks - 1) if how == signal.SIGUSR1 else running.process.pid
            os.kill(pid, how)
            code, out, err = running.end()
        assert code == 75, err
        assert f"by {how.name}" in err or how == signal.SIGUSR1
        assert err.count("--resume goes on") == 1 and "Traceback" not in err
        assert err.count("starting afresh") == (turn == 0)
        assert not (folder / "run.h5").exists()
        at.append(_iteration(checkpoint))
        if turn:
            told = json.loads(out)
            assert told["status"] == "preempted" and told["result"] is None
            assert told["iterations"] == at[-1] and told["checkpoint"] == "run.ckpt.h5"
            assert f"iteration {at[0]}" in err
    assert at[1] > at[0] > 0
    done = launch(ranks, *command, *every, "--resume", cwd=folder)
    assert done.returncode == 0 and f"iteration {at[1]}" in done.stderr, done.stderr
    x, history, attributes = _answer(folder / "run.h5")
    y, expected, others = _answer(folder / "whole.h5")
    assert np.array_equal(x, y) and np.array_equal(history, expected)
    assert attributes["iterations"] == others["iterations"]
    assert not list(folder.glob(".*.part"))


def test_resumed_on_other_ranks(folder):
    for ranks in (2, 3, 1):
        done = launch(
            ranks, *COMMANDS["solve"], "-o", "run.h5", *CHECKPOINT, "--resume", cwd=folder
        )
        assert done.returncode == 0, done.stderr
        assert ("resuming" in done.stderr) == (ranks != 2)
        _, _, attributes = _answer(folder / "run.h5")
        assert attributes["relative_residual"] <= 1e-11 and attributes["ranks"] == ranks


def test_told_without_a_checkpoint(folder):
    with Running(2, "iterate", [*COMMANDS["solve"], "-o", "run.h5"], folder) as running:
        running.wait_for((folder / "there.1").exists)
        os.kill(running.pid(1), signal.SIGUSR1)
        code, _, err = running.end()
    assert code == 75 and "nothing was saved" in err and "--checkpoint" in err, err
    assert not (folder / "run.h5").exists()


@pytest.mark.parametrize("how", [signal.SIGUSR1, signal.SIGTERM])
def test_told_before_the_iterations(folder, how):
    """All ranks are gone at once, though rank 0 is reading and rank 1 waits for it."""
    command = [*COMMANDS["solve"], *CHECKPOINT]
    with Running(2, "read", command, folder) as running:
        running.wait_for((folder / "there.0").exists)
        os.kill(running.pid(0) if how == signal.SIGUSR1 else running.process.pid, how)
        code, _, err = running.end()
    assert code == 75 and "nothing to save" in err and "Traceback" not in err, err
    assert not list(folder.glob("*ckpt*")) and not list(folder.glob("*.result.h5"))


@pytest.mark.parametrize(("ranks", "who"), [(2, "launcher"), (2, "one rank"), (0, "launcher")])
def test_told_while_modules_are_loaded(folder, ranks, who):
    """As soon as the processes listen, which they do before they import anything."""
    command = [*COMMANDS["solve"], *CHECKPOINT, "-o", "run.h5"]
    with Running(ranks, "", command, folder) as running:
        running.wait_for(lambda: len(listening(folder)) == max(ranks, 1))
        os.kill(listening(folder)[-1] if who == "one rank" else running.process.pid, signal.SIGUSR1)
        code, _, err = running.end()
    assert code == 75 and "SIGUSR1" in err and "Traceback" not in err, err
    assert not (folder / "run.h5").exists()


def test_killed_while_writing_leaves_the_one_before(folder):
    checkpoint = folder / "run.ckpt.h5"
    command = [*COMMANDS["solve"], "-o", "run.h5", *CHECKPOINT, "--resume"]
    with Running(2, "write", command, folder) as running:
        running.wait_for((folder / "there.0").exists)
        os.kill(running.pid(0), signal.SIGKILL)
        code, _, _ = running.end()
    assert code != 0 and not (folder / "run.h5").exists()
    assert _iteration(checkpoint) == 5 and len(list(folder.glob(".*.part"))) == 1
    done = launch(2, *command, cwd=folder)
    assert done.returncode == 0 and "iteration 5" in done.stderr, done.stderr
    assert not list(folder.glob(".*.part"))
    whole = launch(2, *COMMANDS["solve"], "-o", "whole.h5", cwd=folder)
    assert whole.returncode == 0
    assert np.array_equal(_answer(folder / "run.h5")[0], _answer(folder / "whole.h5")[0])


def test_refusals(folder):
    """Exit code 2, one message, nothing written."""
    run = [*COMMANDS["solve"], "-o", "run.h5"]
    assert launch(2, *run, *CHECKPOINT, cwd=folder).returncode == 0
    (folder / "run.h5").unlink()
    whole = (folder / "run.ckpt.h5").read_bytes()
    (folder / "damaged.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "text.h5").write_text("hello")
    (folder / "other.h5").write_bytes((folder / "matrix.h5").read_bytes())
    resume = ["--checkpoint", "run.ckpt.h5", "--resume"]
    cases = {
        "--resume: needs a file": [*run, "--resume"],
        "--checkpoint-every: 'often' is not": [*run, *resume, "--checkpoint-every", "often"],
        "--checkpoint-local: needs a shared file": [*run, "--checkpoint-local", "parts"],
        "not a checkpoint that can be read": [*run, "--checkpoint", "other.h5"],
        "same file as matrix.h5 of FILE.h5": [*run, "--checkpoint", "matrix.h5"],
        "same file as run.h5 of --output": [*run, "--checkpoint", "run.h5"],
        "does not exist": [*run, "--checkpoint", "nowhere/run.ckpt.h5"],
        "truncated": [*run, "--checkpoint", "damaged.h5", "--resume"],
        "text.h5: exists already": [*run, "--checkpoint", "text.h5"],
        "another method": [*run, "--method", "minres", *resume],
        "another precond": [*run[:-2], "--precond", "jacobi", "-o", "run.h5", *resume],
        "another kind of solver": [*COMMANDS["eigsh"], "-o", "run.h5", *resume],
        "anderson cannot save": [*COMMANDS["newton"], "--method", "anderson", *resume[:2]],
    }
    before = sorted(path.name for path in folder.iterdir())
    for problem, outcome in run_cases(2, cases, folder).items():
        assert outcome.codes == [2, 2], (problem, outcome)
        assert problem in outcome.stderr and "Traceback" not in outcome.stderr, outcome.stderr
    left = {path.name for path in folder.iterdir()} - set(before)
    assert {name for name in left if not name.startswith("cases")} == set()
    assert (folder / "run.ckpt.h5").read_bytes() == whole
