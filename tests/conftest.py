"""Fixtures shared by all tests. Tests marked `mpi` run on every rank of an mpiexec."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# `cuda` runs the collective tests on this machine's GPU.
DEVICE = os.environ.get("HPC_SLA_TEST_DEVICE", "cpu")


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


@pytest.fixture(params=["mpi", "torch.distributed"])
def any_world(request, world):
    """Each transport in turn."""
    return world if request.param == "mpi" else request.getfixturevalue("torch_world")
