"""Fixtures shared by all tests. Tests marked `mpi` run on every rank of an mpiexec."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# `cuda` runs the collective tests on this machine's GPU.
DEVICE = os.environ.get("HPC_SLA_TEST_DEVICE", "cpu")


def pytest_collection_modifyitems(config, items):
    """Of the tests marked `sampled`, half on 1 rank and the other half on 4 and more.

    What one rank count more can show of each (empty ranks, several neighbours) shows in half of a
    product of parameters as well; 2 and 3 ranks run all of it. Only where HPC_SLA_TEST_SAMPLED says
    that they do run, as scripts/test.sh does: on one rank count alone nothing is left out.
    """
    if "HPC_SLA_TEST_SAMPLED" not in os.environ or not config.getoption("--with-mpi"):
        return
    from mpi4py import MPI

    size = MPI.COMM_WORLD.size
    if size in (2, 3):
        return
    wanted = 0 if size == 1 else 1
    kept, left = [], []
    for item in items:
        # By name: the same on every rank, and of no pattern in the parameters.
        half = zlib.crc32(item.nodeid.encode()) >> 8 & 1
        sampled = item.get_closest_marker("sampled") is not None
        (left if sampled and half != wanted else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.fixture(scope="session")
def world():
    """COMM_WORLD over MPI."""
    import hpc_sla as hs

    world = hs.World(device=DEVICE, transport="mpi")
    if DEVICE != "cpu":
        import torch

        torch.set_default_device(world.device)
    return world


@pytest.fixture(scope="session")
def torch_world(world):
    """COMM_WORLD over torch.distributed."""
    import hpc_sla as hs

    if DEVICE == "cpu":
        return hs.World(device="cpu", transport="gloo")
    if not world.own_gpus():
        pytest.skip("nccl needs a GPU for each rank")
    return hs.World(device=DEVICE, transport="nccl")


@pytest.fixture
def folder(world):
    """One folder for all ranks."""
    path = world.on_root(lambda: tempfile.mkdtemp(prefix="hpc_sla-"))
    yield Path(path)
    world.barrier()
    if world.rank == 0:
        shutil.rmtree(path)


@pytest.fixture(params=["mpi", "torch.distributed"])
def any_world(request, world):
    """Each transport in turn."""
    return world if request.param == "mpi" else request.getfixturevalue("torch_world")
