"""The jobs that take turns, and those of several jobs, on a real two-node Slurm on this machine."""

from __future__ import annotations

import csv
import importlib.util
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from tests.launch import listening
from tests.scripts.test_slurm import ROOT, attribute, run
from tests.scripts.test_slurm import slurm as slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SLOWLY = ROOT / "tests" / "cli" / "slowly.py"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE")
# Slurm 22.05's PMI2 now and then garbles a rank's start on a loaded machine: see test_slurm.submit.
GARBLED = ("mpi/pmi2: invalid client request", "Fatal error in internal_Init")


@pytest.fixture
def folder(tmp_path):
    """To submit from, as from the repository's root."""
    for name in ("jobs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def state_of(env, number) -> dict[str, str]:
    shown = run("scontrol", "--oneliner", "show", "job", number, env=env)
    assert shown.returncode == 0, shown.stderr
    # Of an array this is its last job, a line each.
    return dict(word.partition("=")[::2] for word in shown.stdout.splitlines()[0].split())


def wait(env, number, seconds: float = 300, meanwhile=lambda state: None) -> dict[str, str]:
    """Until the job has ended for good: its state. `meanwhile` is called with the one it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = state_of(env, number)
        if state["JobState"] in ENDED:
            return state
        meanwhile(state)
        time.sleep(0.2)
    run("scancel", number, env=env)
    pytest.fail(f"the job did not end in time: {state}")


def printed_in(folder: Path) -> str:
    return "".join(f"{p.name}:\n{p.read_text()}" for p in sorted(folder.glob("**/*.out")))


def test_scaling_ends_in_a_table_and_a_plot(slurm, folder):
    env = {**slurm, "REPEATS": "1", "LAUNCH": ""}
    for _ in range(3):
        sent = run(
            *("sbatch", "--parsable", "--array=1,2%1", "--ntasks-per-node=1"),
            *("jobs/scaling.sbatch", "poisson2d:n=16", "--rtol", "1e-6"),
            env=env,
            cwd=folder,
        )
        assert sent.returncode == 0, sent.stderr
        number = sent.stdout.strip()
        study = folder / f"scaling-{number}"
        last: list[str] = []

        def look_for_the_last(state, first=number, last=last):
            out = folder / f"hpc_sla-scaling-{first}_1.out"
            if out.exists() and not last:
                last += re.findall(r"Submitted batch job (\d+)", out.read_text())

        wait(env, f"{number}_1", meanwhile=look_for_the_last)
        look_for_the_last(None)
        assert last, printed_in(folder)
        state = wait(env, last[0])
        printed = printed_in(folder)
        runs = list(study.glob("*.result.h5"))
        if len(runs) == 2 or not any(text in printed for text in GARBLED):
            break
    assert state["ExitCode"] == "0:0", printed
    assert "srun --mpi=pmi2 -n 2 --nodes=2 " in printed
    with open(study / "results.csv", newline="") as file:
        assert {row["ranks"] for row in csv.DictReader(file)} == {"1", "2"}
    with open(study / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["ranks"], row["runs"]) for row in rows] == [("1", "1"), ("2", "1")]
    one, two = (float(row["solve_s"]) for row in rows)
    assert one > 0
    assert float(rows[1]["speedup"]) == pytest.approx(one / two)
    assert float(rows[1]["efficiency"]) == pytest.approx(one / two / 2)
    plotted = importlib.util.find_spec("matplotlib") is not None
    assert (study / "scaling.png").exists() == plotted
    assert plotted or "no plot: matplotlib is not installed" in printed
    assert not list(study.glob("p*.part")), "unfinished"


def test_pipeline_runs_its_steps_one_after_the_other(slurm, folder):
    env = {**slurm, "RANKS_PER_NODE": "1", "LAUNCH": "mpiexec", "FOLDER": "out"}
    done = run(
        *("bash", "jobs/pipeline.sh", "poisson2d:n=12", "--rtol", "1e-10"), env=env, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    steps = dict(line.split() for line in done.stdout.splitlines())
    assert list(steps) == ["partition", "solve", "verify", "export", "collect"]
    wait(env, steps["collect"])
    states = [state_of(env, number) for number in steps.values()]
    printed = printed_in(folder)
    assert [state["ExitCode"] for state in states] == ["0:0"] * 5, printed
    for before, after in zip(states, states[1:], strict=False):
        assert after["StartTime"] >= before["EndTime"]
    assert "exec mpiexec -n 2 python -m hpc_sla verify" in printed
    n = 12
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    A = sp.kronsum(line, line)
    x = np.load(folder / "out" / "x.npy")
    with h5py.File(folder / "out" / "result.h5") as file:
        assert attribute(file, "ranks") == 2
        assert np.array_equal(file["x"][:], x)
    with h5py.File(folder / "out" / "matrix.h5") as file:
        assert file.attrs["n_rows"] == n * n
    assert np.linalg.norm(A @ x - np.ones(n * n)) <= 1e-9 * n
    assert (folder / "out" / "results.csv").read_text().count("converged") == 1


def test_pipeline_stops_at_the_step_that_fails(slurm, folder):
    env = {**slurm, "FOLDER": "out"}
    done = run("bash", "jobs/pipeline.sh", "no-such-file.mtx", env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    steps = dict(line.split() for line in done.stdout.splitlines())
    wait(env, steps["collect"])
    states = [state_of(env, number) for number in steps.values()]
    assert states[0]["ExitCode"] == "2:0", printed_in(folder)
    assert {state["JobState"] for state in states[1:]} == {"CANCELLED"}
    assert len(list((folder / "out").iterdir())) == 1, "what the first printed"


@pytest.mark.parametrize("stage", ["read", ""])
def test_told_before_the_iterations_all_ranks_leave_with_one_code(slurm, folder, stage):
    """Reading, while the other rank waits in MPI; and with modules still to be loaded."""
    python = (sys.executable, *(("-m", "hpc_sla") if not stage else (SLOWLY, stage)))
    env = {**slurm, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    made = run(
        *python[:1],
        "-m",
        "hpc_sla",
        "partition",
        "poisson2d:n=8",
        "--parts",
        "2",
        "-o",
        "m.h5",
        cwd=folder,
        env=env,
    )
    assert made.returncode == 0, made.stderr
    command = ("srun", "--mpi=pmi2", "--nodes=2", "-n", "2", "--wait=60", "--label", *python)
    for _ in range(3):
        step = subprocess.Popen(
            [*map(str, command), "solve", "m.h5", "--checkpoint", "c.h5", "-o", "x.h5"],
            cwd=folder, env=env, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + 100
            ready = (folder / "there.0").exists if stage else lambda: len(listening(folder)) == 2
            while not ready() and step.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            step.send_signal(signal.SIGUSR1)
            said = step.communicate(timeout=100)[1]
        finally:
            step.kill()
        if not any(text in said for text in GARBLED):
            break
    assert step.returncode == 75, said
    assert "told to end by SIGUSR1" in said or "SIGUSR1 before the iterations" in said
    assert not (folder / "x.h5").exists()


STUBBORN = ("--method", "cg", "--precond", "none", "--rtol", "1e-10", "--max-iterations", "1000000")
# A checkpoint at each iteration makes two turns too short for the whole, wherever it runs. A start
# that Slurm garbled is made again; what the job's script is told goes on to srun.
LAUNCHER = f"""#!/bin/bash
((${{SLURM_RESTART_COUNT:-0}} < 2)) && set -- "$@" --checkpoint-every 1iterations
trap 'told=1; kill -s USR1 "$srun"' USR1
for attempt in 1 2 3; do
    said=srun-${{SLURM_RESTART_COUNT:-0}}-$attempt.err
    srun --mpi=pmi2 --wait=30 "$@" 2>"$said" &
    srun=$!
    while :; do
        told= code=0
        wait "$srun" || code=$?
        ((code > 128)) && [[ -n $told ]] || break
    done
    cat "$said" >&2
    grep -qE '{"|".join(GARBLED)}' "$said" || break
done
exit "$code"
"""


def test_time_limit_bites_twice_and_the_job_goes_on(slurm, folder):
    """The iterates are those of an uninterrupted solve. Takes a minute and a half: Slurm looks at
    time limits twice a minute, and none is below a minute.
    """
    sp.save_npz(folder / "source.npz", sp.diags_array(np.logspace(0, 6.5, 3000)).tocsr())
    python = (sys.executable, "-m", "hpc_sla")
    done = run(*python, "partition", "source.npz", "-o", "m.h5", "--parts", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    launcher = folder / "launcher"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    sent = run(
        *("sbatch", "--parsable", "--ntasks-per-node=1", "--time=1", "--signal=B:USR1@15"),
        *("jobs/solve-requeue.sbatch", "m.h5", *STUBBORN),
        env={**slurm, "LAUNCH": str(launcher)},
        cwd=folder,
    )
    assert sent.returncode == 0, sent.stderr
    number = sent.stdout.strip()

    held: dict[str, float] = {}

    def hurry(state):
        # Slurm holds a job back for two minutes that was queued up again. Some seconds it takes: a
        # turn that starts while the last one is being cleared away fails at once.
        if state["JobState"] == "PENDING" and state["Reason"] == "BeginTime":
            since = held.setdefault(state["Restarts"], time.monotonic())
            nodes = run("sinfo", "--noheader", "--format=%T", env=slurm).stdout.split()
            if time.monotonic() - since > 8 and nodes == ["idle"]:
                run("scontrol", "update", f"JobId={number}", "StartTime=now", env=slurm)

    state = wait(slurm, number, 900, hurry)
    printed = f"{state}\n{printed_in(folder)}"
    assert state["ExitCode"] == "0:0", printed
    assert int(state["Restarts"]) >= 2, printed
    assert printed.count("queueing up for the next") == int(state["Restarts"])
    assert printed.count("resuming from ") >= 1
    assert not (folder / f"hpc_sla-{number}.ckpt.h5").exists()
    whole = run(
        *("srun", "--mpi=pmi2", "--nodes=2", "--ntasks-per-node=1", "-n", "2", *python),
        *("solve", "m.h5", *STUBBORN, "-o", "whole.h5"),
        env={**slurm, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        limit=400,
    )
    assert whole.returncode == 0, whole.stderr
    with (
        h5py.File(folder / f"hpc_sla-{number}.result.h5") as turns,
        h5py.File(folder / "whole.h5") as file,
    ):
        assert turns.attrs["iterations"] == file.attrs["iterations"]
        assert np.array_equal(turns["x"][:], file["x"][:])
