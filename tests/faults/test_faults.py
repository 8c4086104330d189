"""Ranks that die, raise, stall, or compute NaN; discs that are full or closed."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from hpc_sla.checkpoint.file import CheckpointFile
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.errors import InputError
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import CG, run_cases
from tests.faults.kill import Faults
from tests.launch import launch_python

WRONG = str(Path(__file__).with_name("wrong.py"))
SOLVE = ["solve", "matrix.h5", *CG, "--rtol", "1e-10"]
EVERY = ["--checkpoint-every", "5iterations"]


@pytest.fixture
def folder(tmp_path):
    source = load_source("poisson2d:n=100", ["manufactured"])
    write_partitioned(source, tmp_path / "matrix.h5", 2, "rcb")
    return tmp_path


def _iteration(path: Path) -> int:
    with CheckpointFile(path) as file:
        file.arrays()
        return int(file.facts["iteration"])


def _nothing_partial(folder: Path) -> None:
    assert not (folder / "run.h5").exists()
    if (folder / "run.ckpt.h5").exists():
        assert _iteration(folder / "run.ckpt.h5") > 0


def test_killed_ranks(tmp_path):
    """`python -m tests.faults.kill` runs more of them, on 4 ranks."""
    tally = Faults(tmp_path, ranks=2).run(3, seed=7, stages=("iterate", "checkpoint", "write"))
    print(tally)
    assert sum(tally.killed.values()) == 3 and not tally.problems, tally.problems


@pytest.mark.parametrize("stage", ["checkpoint"])
def test_a_rank_that_raises(folder, stage):
    arguments = [*SOLVE, "-o", "run.h5", "--checkpoint", "run.ckpt.h5", *EVERY]
    done = launch_python(3, WRONG, "raise", stage, "1", *arguments, cwd=folder)
    assert done.returncode != 0
    assert "rank 1" in done.stderr and "RuntimeError: only on this rank" in done.stderr
    assert done.stderr.count("Traceback") == 1
    _nothing_partial(folder)


@pytest.mark.parametrize(("how", "stage"), [("sleep", "iterate"), ("stop", "setup")])
def test_a_rank_that_stalls(folder, how, stage):
    """A stopped one has no stack to show; the others' say what they wait for."""
    arguments = [*SOLVE, "-o", "run.h5", "--checkpoint", "run.ckpt.h5", *EVERY]
    begun = time.monotonic()
    done = launch_python(3, WRONG, how, stage, "1", *arguments, "--stall-timeout", "5", cwd=folder)
    print(f"{time.monotonic() - begun:.1f} s")
    assert done.returncode == 70, done.stderr
    for rank in (0, 2):
        assert f"rank {rank} has made no progress for" in done.stderr, done.stderr
    assert ("go_wrong_here" in done.stderr) == (how == "sleep"), done.stderr
    assert "MainThread" in done.stderr or "most recent call first" in done.stderr
    _nothing_partial(folder)


def test_nan_in_the_middle(folder):
    """It is told, and the checkpoint of an iteration before that stays, and serves."""
    arguments = [*SOLVE, "--checkpoint", "run.ckpt.h5", *EVERY, "--json"]
    done = launch_python(2, WRONG, "nan", "15", "1", *arguments, "-o", "run.h5", cwd=folder)
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "not_finite" and told["iterations"] == 16, told
    assert _iteration(folder / "run.ckpt.h5") == 10
    assert "checkpoint of iteration 15 failed; that of iteration 10 stays" in done.stderr
    cases = {
        "resumed": [*arguments, "-o", "run.h5", "--resume"],
        "whole": [*SOLVE, "-o", "whole.h5"],
    }
    found = run_cases(2, cases, folder)
    assert found["resumed"].codes == found["whole"].codes == [0, 0], found
    x, expected = (read_result(folder / name).x for name in ("run.h5", "whole.h5"))
    np.testing.assert_array_equal(x, expected)


@pytest.fixture
def discs(folder):
    """Two file systems: one with room for one checkpoint and not for two, one read-only."""
    mounted = []
    try:
        for name, option in (("small", "size=400k"), ("closed", "ro")):
            (folder / name).mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder / name)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                pytest.skip("mounting is not permitted here")
            mounted.append(folder / name)
        yield folder
    finally:
        for path in mounted:
            subprocess.run(["umount", str(path)], check=True)


def test_full_and_closed_discs(discs):
    run = [*SOLVE, "-o", "run.h5"]
    cases = {
        "checkpoint, full": [*run, "--checkpoint", "small/run.ckpt.h5", *EVERY],
        "whole": [*SOLVE, "-o", "whole.h5"],
        "result, full": [*SOLVE, "-o", "small/more/run.h5"],
        "checkpoint, closed": [*run, "--checkpoint", "closed/run.ckpt.h5"],
        "result, closed": [*SOLVE, "-o", "closed/run.h5"],
    }
    # What fills the disc to the last byte but a few, from then on: a result that was there.
    (discs / "small" / "more").mkdir()
    before = b"the result before" * 6000
    (discs / "small" / "more" / "run.h5").write_bytes(before)
    told = run_cases(2, cases, discs)

    first = told["checkpoint, full"]
    assert first.codes == [0, 0], first
    assert "checkpoint of iteration 10 failed; that of iteration 5 stays" in first.stderr
    assert "no space left on device" in first.stderr and first.stderr.count("failed") == 1
    assert _iteration(discs / "small" / "run.ckpt.h5") == 5
    whole = read_result(discs / "whole.h5").x
    np.testing.assert_array_equal(read_result(discs / "run.h5").x, whole)

    for name, problem in {
        "result, full": "small/more/run.h5: cannot be written: no space left on device",
        "checkpoint, closed": "read-only file system",
        "result, closed": "read-only file system",
    }.items():
        outcome = told[name]
        assert outcome.codes == [2, 2] and problem in outcome.stderr, (name, outcome)
        assert "Traceback" not in outcome.stderr and outcome.others == ""
    assert (discs / "small" / "more" / "run.h5").read_bytes() == before
    assert not list(discs.rglob(".*.part"))


def test_a_stall_timeout_that_is_none(folder):
    from hpc_sla.cli.stall import Watchdog

    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="--stall-timeout"):
            Watchdog(seconds)
    with Watchdog(None), Watchdog(30):
        pass
