"""jobs/solve.sbatch on a real two-node Slurm that scripts/slurm_local.sh starts on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from tests.scripts.test_unpack import pretend

ROOT = Path(__file__).resolve().parents[2]
# Debian keeps daemons where an ordinary user's PATH does not look.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
pytestmark = pytest.mark.timeout(600)


def run(*command, limit: int = 60, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=limit,
        stdin=subprocess.DEVNULL,
        **options,
    )


def why_not() -> str | None:
    """Why Slurm cannot be started here, if it cannot."""
    programs = ("sbatch", "srun", "sinfo", "slurmctld", "slurmd", "munged")
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        return f"Slurm is not installed (missing: {', '.join(missing)})"
    if os.environ.get("SLURM_JOB_ID"):
        return "already inside a Slurm job"
    return None


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Environment variables for Slurm commands to reach a cluster started for this module."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # A munge socket's path has at most 107 characters: pytest's own folders may be deeper.
    folder = Path(f"/tmp/hpc_sla-slurm-test-{os.getpid()}")
    script = ROOT / "scripts" / "slurm_local.sh"
    # Without what the test's own mpiexec or an outer Slurm may have set.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM", "SBATCH", "PMI", "HYDRA", "MATRIX", "LAUNCH"))
    }
    env |= {"PATH": PATH, "HPC_SLA_VENV": sys.prefix}
    try:
        started = run("bash", script, "start", folder, limit=90, env=env)
        assert started.returncode == 0, started.stderr
        conf = started.stdout.strip().removeprefix("export SLURM_CONF=")
        yield {**env, "SLURM_CONF": conf}
    finally:
        stopped = run("bash", script, "stop", folder, limit=90, env=env)
        assert stopped.returncode == 0, stopped.stderr
        assert not folder.exists()


@pytest.fixture(scope="module")
def matrix_file(tmp_path_factory):
    """A random symmetric positive definite matrix, whose user order METIS permutes."""
    folder = tmp_path_factory.mktemp("matrix")
    rng = np.random.default_rng(7)
    n = 500
    upper = sp.triu(sp.random_array((n, n), density=0.01, rng=rng), k=1)
    matrix = upper + upper.T
    matrix = (matrix + sp.diags_array(np.abs(matrix).sum(axis=1) + 1.0)).tocsr()
    b = rng.standard_normal(n)
    sp.save_npz(folder / "source.npz", matrix)
    np.save(folder / "b.npy", b)
    done = run(
        *(sys.executable, "-m", "hpc_sla", "partition", "source.npz"),
        *("-o", "matrix.h5", "--parts", "4", "--rhs", "b.npy"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "matrix.h5", matrix, b


def submit(env, folder, *arguments) -> tuple[int, str]:
    """Submit the job script from `folder` and wait: the job's exit code, and what it printed.

    Slurm 22.05's PMI2 now and then tears a rank's long start-up message in two on a loaded machine
    ("invalid client request"), and the rank may abort before it runs any Python. That is not
    what is tested here: a job that failed so is submitted again, twice at most.
    """
    for _ in range(3):
        status, printed = submit_once(env, folder, *arguments)
        if status == 0 or "mpi/pmi2: invalid client request" not in printed:
            break
    return status, printed


def submit_once(env, folder, *arguments) -> tuple[int, str]:
    """One job.

    ``sbatch --wait`` would do, but looks again only after 2, 4, 8 ... seconds.
    """
    job = ROOT / "jobs" / "solve.sbatch"
    sent = run("sbatch", "--parsable", job, *arguments, env=env, cwd=folder)
    assert sent.returncode == 0, sent.stderr
    number = sent.stdout.strip()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        shown = run("scontrol", "--oneliner", "show", "job", number, env=env)
        assert shown.returncode == 0, shown.stderr
        job_state = dict(word.partition("=")[::2] for word in shown.stdout.split())
        if job_state["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            printed = (folder / f"hpc_sla-{number}.out").read_text()
            return int(job_state["ExitCode"].partition(":")[0]), printed
        time.sleep(0.2)
    run("scancel", number, env=env)
    pytest.fail(f"the job did not end in time: {shown.stdout}")


def attribute(file: h5py.File, name: str):
    """An attribute; text as str however HDF5 holds it."""
    value = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else value


def result_of(folder) -> Path:
    return max(folder.glob("hpc_sla-*.result.h5"), key=lambda path: path.stat().st_mtime)


def test_two_nodes_take_jobs(slurm):
    done = run("srun", "--nodes=2", "--ntasks-per-node=1", "printenv", "SLURMD_NODENAME", env=slurm)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["n1", "n2"]


@pytest.mark.parametrize("launcher", ["as it stands", "mpiexec"])
def test_job_solves_a_matrix_file_on_two_nodes(slurm, matrix_file, tmp_path, launcher):
    path, matrix, b = matrix_file
    env = slurm if launcher == "as it stands" else {**slurm, "LAUNCH": "mpiexec"}
    status, printed = submit(env, tmp_path, path, "--rtol", "1e-10")
    assert status == 0, printed
    wanted = "+ exec srun --mpi=pmi2 " if launcher == "as it stands" else "+ exec mpiexec "
    assert wanted in printed
    with h5py.File(result_of(tmp_path)) as file:
        x = file["x"][:]
        assert attribute(file, "format") == "hpc_sla.result"
        assert attribute(file, "status") == "converged"
        assert attribute(file, "ranks") == 4
    assert np.linalg.norm(b - matrix @ x) <= 1e-9 * np.linalg.norm(b)


def test_job_as_it_stands_solves_the_default_problem(slurm, tmp_path):
    status, printed = submit(slurm, tmp_path)
    assert status == 0, printed
    with h5py.File(result_of(tmp_path)) as file:
        assert attribute(file, "status") == "converged"
        assert attribute(file, "ranks") == 4


def test_job_ends_with_the_exit_code_of_the_solve(slurm, matrix_file, tmp_path):
    path, *_ = matrix_file
    cg = ("--method", "cg", "--precond", "jacobi")
    status, printed = submit(slurm, tmp_path, path, *cg, "--max-iterations", "2")
    assert status == 3, printed


def test_job_on_a_missing_file_fails_with_one_message(slurm, tmp_path):
    status, printed = submit(slurm, tmp_path, "no-such-file.h5")
    assert status == 2, printed
    assert printed.count("no-such-file.h5") >= 1
    assert "Traceback" not in printed
    assert not list(tmp_path.glob("*.h5"))


def test_job_runs_from_an_archive_that_is_unpacked_on_its_nodes(slurm, matrix_file, tmp_path):
    """Sent by sbcast, unpacked once (both nodes are this machine), used by all ranks, removed."""
    path, *_ = matrix_file
    marks, node = tmp_path / "marks", tmp_path / "node"
    marks.mkdir()
    node.mkdir()
    mark = f'echo "$0" >{marks}/${{SLURM_STEP_ID:-b}}.${{SLURM_PROCID:-b}}'
    archive = pretend(tmp_path, f'{mark}\nexec {sys.executable} "$@"')
    env = {**slurm, "HPC_SLA_ARCHIVE": str(archive), "HPC_SLA_NODE_DIR": str(node)}
    env |= {"PYTHONPATH": str(ROOT)}
    status, printed = submit(env, tmp_path, path)
    assert status == 0, printed
    with h5py.File(result_of(tmp_path)) as file:
        assert attribute(file, "status") == "converged" and attribute(file, "ranks") == 4
    assert printed.count("unpacked into") == 1
    assert "going on with the environment" not in printed and "sbcast: " not in printed
    last = max(int(found.name.partition(".")[0]) for found in marks.glob("[0-9]*"))
    ran = {found.name: found.read_text() for found in marks.glob(f"{last}.*")}
    assert len(ran) == 4 and len(set(ran.values())) == 1, ran
    assert next(iter(ran.values())).startswith(str(node))
    assert list(node.iterdir()) == []
