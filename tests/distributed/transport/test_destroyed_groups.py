"""A program that destroys torch.distributed's groups itself, and goes on."""

from __future__ import annotations

import pytest

from tests.launch import launch_python

PROGRAM = """
import tempfile
import torch, torch.distributed as dist
from mpi4py import MPI
import hpc_sla as hs
from hpc_sla.distributed.transport import torch_distributed

comm = MPI.COMM_WORLD

def summed(comm=comm):
    world = hs.World(comm, device="cpu", transport="gloo")
    assert int(world.all_sum(torch.ones(1))) == comm.size
    return world

first = summed()
assert summed().transport._group is first.transport._group  # made but once
dist.destroy_process_group()
second = summed()
assert second.transport._group is not first.transport._group
half = comm.Split(comm.rank % 2)
summed(half)
dist.destroy_process_group()
store = comm.bcast(tempfile.mktemp() if comm.rank == 0 else None)
dist.init_process_group(
    "gloo", store=dist.FileStore(store, comm.size), rank=comm.rank, world_size=comm.size
)
third = summed()
# The default group is the user's own now: nothing of ours goes by it, nor ends it.
assert third.transport._messages is third.transport._group is not dist.group.WORLD
summed(half)
torch_distributed._tear_down()
assert dist.is_initialized()
if comm.rank == 0:
    print("went on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_later_world_makes_its_group_anew(tmp_path, ranks):
    done = launch_python(ranks, "-c", PROGRAM, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "went on"
