"""Fixtures shared by all tests. Tests marked `mpi` run on every rank of an mpiexec."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# `cuda` runs the collective tests on this machine's GPU.
DEVICE = os.environ.get("HPC_SLA_TEST_DEVICE", "cpu")


MANY = 12
"""Cases of one test beyond which only 2 ranks run all of them."""


def pytest_collection_modifyitems(config, items):
    """Of tests of many cases each case on 2 ranks and on one other rank count.

    What one more rank count can show of each (empty ranks, several neighbours) shows in some of a
    product of parameters as well: a quarter on 1 rank, half on 3, the other quarter on 4. Only
    where HPC_SLA_TEST_SAMPLED says that all four run, as scripts/test.sh does.
    """
    if "HPC_SLA_TEST_SAMPLED" not in os.environ or not config.getoption("--with-mpi"):
        return
    from mpi4py import MPI

    size = min(MPI.COMM_WORLD.size, 4)
    if size == 2:
        return
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item.nodeid)
    turns = {}
    for names in cases.values():
        if len(names) > MANY:
            # In an order of no pattern in the parameters, the same on every rank.
            names.sort(key=lambda name: zlib.crc32(name.encode()))
            turns.update({name: (1, 3, 4, 3)[i % 4] for i, name in enumerate(names)})
    kept, left = [], []
    for item in items:
        (kept if turns.get(item.nodeid, size) == size else left).append(item)
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
