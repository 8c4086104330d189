"""Launchers that MPI does not know make no Worlds of one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpc_sla.distributed.launcher import launch, refuse_lone_ranks
from hpc_sla.errors import InputError
from tests.launch import environment

NAMES = ("PMI", "OMPI", "MV2", "SLURM", "TORCHELASTIC", "WORLD_SIZE", "RANK", "LOCAL_RANK")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture
def variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith(NAMES):
            monkeypatch.delenv(name)

    def set_all(**given):
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("launcher", "given"),
    [
        ("torchrun", TORCHRUN),
        ("torch.distributed", {"RANK": "0", "WORLD_SIZE": "4"}),
        ("srun", {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}),
        ("srun", {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}),
        ("srun", {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_ID": "3"}),
        ("mpiexec", {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}),
        ("mpiexec", {"PMI_SIZE": "3", "PMI_RANK": "2"}),
        ("torchrun", {**TORCHRUN, "WORLD_SIZE": "8", "PMI_SIZE": "1", "PMI_RANK": "0"}),
    ],
)
def test_more_processes_than_ranks_are_refused(variables, launcher, given):
    variables(**given)
    with pytest.raises(InputError, match=launcher) as caught:
        refuse_lone_ranks(1, "MPICH")
    assert "srun --mpi=pmi2" in str(caught.value) and "mpiexec -n" in str(caught.value)
    with pytest.raises(InputError, match="pmix"):
        refuse_lone_ranks(1, "Open MPI")


@pytest.mark.parametrize(
    ("size", "given"),
    [
        (1, {}),
        (1, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}),  # a batch script
        (1, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291"}),
        (1, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}),  # salloc
        (1, {"WORLD_SIZE": "1", "RANK": "0"}),
        (4, {"PMI_SIZE": "4", "PMI_RANK": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}),
        (2, {"PMI_SIZE": "2", "PMI_RANK": "0", "WORLD_SIZE": "2", "RANK": "0"}),
        (1, {"WORLD_SIZE": "many", "RANK": "0"}),
    ],
)
def test_what_agrees_with_mpi_passes(variables, size, given):
    variables(**given)
    refuse_lone_ranks(size, "MPICH")


def test_one_process_of_torchruns_speaks(variables):
    variables(**TORCHRUN)
    assert (launch().rank, launch().size) == (1, 2)


def run(program, **extra):
    return subprocess.run(
        [sys.executable, *program],
        env=environment(1, **extra),
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_worlds_that_are_meant_to_be_alone_are_made():
    program = (
        "import hpc_sla as hs; from mpi4py import MPI\n"
        "print(hs.World.serial('cpu').size, hs.World(MPI.COMM_SELF, 'cpu').size)\n"
        "try: hs.World(device='cpu')\n"
        "except hs.InputError as error: print(error.field)\n"
    )
    done = run(["-c", program], **TORCHRUN)
    assert done.stdout.split() == ["1", "1", "launcher"], done.stderr


@pytest.mark.slow
def test_the_command_line_ends_with_one_message(tmp_path):
    done = run(["-m", "hpc_sla", "solve", "-o", str(tmp_path / "x.h5")], **TORCHRUN | {"RANK": "0"})
    assert done.returncode == 2
    assert done.stderr.count("hpc_sla: error: launcher: torchrun started 2") == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
