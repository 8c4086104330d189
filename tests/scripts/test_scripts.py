"""The shell scripts parse, answer wrong usage, and keep their hands off what is not theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    [
        *ROOT.glob("scripts/*.sh"),
        *ROOT.glob("jobs/*.sbatch"),
        *ROOT.glob("jobs/*.sh"),
        ROOT / ".ci" / "run",
    ],
    key=str,
)


def bash(*command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT):
    return subprocess.run(
        ["bash", *map(str, command)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses(script):
    done = bash("-n", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_passes_shellcheck(script):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, "--external-sources", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.suffix == ".sh"], ids=lambda p: p.name)
def test_is_executable(script):
    assert script.name in ("common.sh", "environment.sh") or os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("arguments", "env", "complaint"),
    [
        (["--no-such-option"], {}, "--test"),
        (["--extras", "nonsense"], {}, "no extra called 'nonsense'"),
        ([], {"HPC_SLA_MPI": "other"}, "HPC_SLA_MPI is 'other'"),
        ([], {"HPC_SLA_PYTHON": "/no/such/python"}, "/no/such/python"),
    ],
)
def test_setup_explains_wrong_usage(arguments, env, complaint, tmp_path):
    env = {"HPC_SLA_VENV": str(tmp_path / "environment"), **env}
    done = bash("scripts/setup.sh", *arguments, env=env)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert not (tmp_path / "environment").exists()


def test_setup_wants_mpicc_for_the_site_mpi(tmp_path):
    """Without an mpicc in PATH it says so instead of building something else."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "sha256sum", "cut"):
        (tools / name).symlink_to(shutil.which(name))
    env = {
        "PATH": str(tools),
        "HPC_SLA_MPI": "system",
        "HPC_SLA_VENV": str(tmp_path / "environment"),
    }
    done = bash("scripts/setup.sh", env=env)
    assert done.returncode == 1
    assert "no mpicc in PATH" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["start", "a", "b"]])
def test_slurm_local_explains_wrong_usage(arguments):
    done = bash("scripts/slurm_local.sh", *arguments)
    assert done.returncode == 2
    assert "slurm_local.sh start" in done.stderr


def test_slurm_local_leaves_folders_it_did_not_make(tmp_path):
    (tmp_path / "precious").write_text("data")
    done = bash("scripts/slurm_local.sh", "stop", tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "precious").read_text() == "data"


def test_the_job_script_names_the_missing_environment(tmp_path):
    env = {"HPC_SLA_VENV": str(tmp_path / "none"), "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = bash("jobs/solve.sbatch", env=env)
    assert done.returncode == 2
    assert "scripts/setup.sh" in done.stderr


def test_rank_output_keeps_the_other_ranks_apart(tmp_path):
    script = ROOT / "scripts" / "rank_output.sh"
    say = [script, tmp_path, "sh", "-c", "echo this is {rank}; exit {rank}"]
    first = bash(*say, env={"PMI_RANK": "0"})
    assert (first.returncode, first.stdout) == (0, "this is 0\n")
    other = bash(*say, env={"PMI_RANK": "3"})
    assert (other.returncode, other.stdout) == (3, "")
    assert (tmp_path / "rank-3.log").read_text() == "this is 3\n"
    assert (tmp_path / "rank-3.status").read_text() == "3\n"


LAUNCHER = """#!/usr/bin/env bash
# Ends with the code that a signal is to have, or with another at once.
printf '%s\n' "$*" >> launched
trap 'sleep 0.3; exit $CODE' USR1 TERM
touch started
[[ -n $TOLD ]] || exit 9
for _ in {1..6000}; do sleep 0.05; done
"""


# In place of an environment, one that takes as long as the signal.
ACTIVATE = """
touch "$SLURM_SUBMIT_DIR/started"
while [[ $told != "$TOLD" ]]; do sleep 0.02; done
"""


@pytest.mark.parametrize(
    ("when", "told", "ends", "restarts", "queued", "code"),
    [
        ("running", "USR1", 75, 0, True, 75),
        ("running", "USR1", 75, 1, False, 75),
        ("running", "USR1", 137, 0, True, 75),  # one rank left alone, and srun killed the others
        ("running", "USR1", 138, 0, True, 75),  # Python had not yet begun to listen
        ("running", "USR1", 3, 0, False, 3),
        ("running", "TERM", 75, 0, False, 75),
        ("running", "", 0, 0, False, 9),
        ("before", "USR1", 0, 0, True, 75),
        ("before", "TERM", 0, 0, False, 75),
    ],
)
def test_the_requeueing_job_passes_signals_on_and_queues_up(
    tmp_path, when, told, ends, restarts, queued, code
):
    for name, text in {
        "launcher": LAUNCHER,
        "scontrol": '#!/bin/sh\necho "$@" > queued\n',
        "env/bin/activate": ACTIVATE if when == "before" else "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HPC_SLA_VENV": str(tmp_path / "env"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_NTASKS": "2",
        "SLURM_RESTART_COUNT": str(restarts),
        "MOST_TURNS": "2",
        "LAUNCH": "launcher",
        "TOLD": told,
        "CODE": str(ends),
    }
    job = subprocess.Popen(
        ["bash", str(ROOT / "jobs/solve-requeue.sbatch"), "my.h5", "--rtol", "1e-9"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 300
    while not (tmp_path / "started").exists() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if told:
        job.send_signal(getattr(signal, f"SIG{told}"))
    _, err = job.communicate(timeout=300)
    assert job.returncode == code, err
    assert (tmp_path / "launched").exists() == (when == "running")
    assert when == "before" or (tmp_path / "launched").read_text() == (
        "-n 2 python -m hpc_sla solve my.h5 -o hpc_sla-77.result.h5 "
        "--checkpoint hpc_sla-77.ckpt.h5 --checkpoint-every 10min --resume --rtol 1e-9\n"
    )
    assert (tmp_path / "queued").exists() == queued
    if queued:
        assert (tmp_path / "queued").read_text() == "requeue 77\n"
