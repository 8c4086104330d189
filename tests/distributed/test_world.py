"""World: errors agreed, subcommunicators, devices, transports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpi4py import MPI

import hpc_sla as hs
from tests.collective import MATRICES, distribute, everywhere, full

pytestmark = pytest.mark.mpi


def test_an_error_on_one_rank_is_raised_on_all(world):
    last = world.size - 1
    with pytest.raises(hs.InputError, match="bad thing") as caught, world.agree():
        if world.rank == last:
            raise hs.InputError("bad thing", field="here", remedy="Mend it")
    messages = set(world.comm.allgather(str(caught.value)))
    assert len(messages) == 1 and caught.value.field == "here"
    assert world.size == 1 or f"rank {last}" in messages.pop()


def test_agree_passes_when_nobody_fails(world):
    with world.agree():
        value = 1
    assert value == 1


def test_on_root_gives_everyone_roots_value_and_error(world):
    assert world.on_root(lambda: world.rank + 7) == 7
    with pytest.raises(hs.InputError, match="only root"):
        world.on_root(lambda: (_ for _ in ()).throw(hs.InputError("only root")))


def test_numbers_of_each_rank_are_known_on_all(world):
    for dtype in (np.int64, np.float64):
        mine = np.arange(3, dtype=dtype) + 10 * world.rank
        found, expected = world.of_each(mine), np.stack(world.comm.allgather(mine))
        assert everywhere(world, found.dtype == dtype and np.array_equal(found, expected))


def test_any_subcommunicator_works(any_world):
    """Ranks in reversed order, in two groups that work apart."""
    world = any_world
    comm = world.comm.Split(world.rank % 2, -world.rank)
    with hs.World(comm, world.device, world.transport.name) as part:
        matrix = MATRICES["random"]()
        A = distribute(matrix, part)
        x = torch.ones(A.layout.n_owned, dtype=torch.float64)
        ok = abs(full(A.layout, A @ x) - matrix.sum(axis=1).A1).max() < 1e-12
        assert everywhere(part, ok)
        total = part.all_sum(torch.tensor(1.0))
        assert int(total) == comm.size
    assert everywhere(world, True)
    comm.Free()


def test_fewer_ranks_are_made_once(any_world):
    world = hs.World(any_world.comm, any_world.device, any_world.transport.name)
    for ranks in range(1, world.size):
        inner = world.thinned(ranks)
        assert world.thinned(ranks) is inner
        members = [i * world.size // ranks for i in range(ranks)]
        assert everywhere(world, (inner is not None) == (world.rank in members))
        if inner is not None:
            assert inner.size == ranks and members[inner.rank] == world.rank
            assert inner.all_sum(torch.ones(1)).item() == ranks
    world.close()


def test_the_users_messages_do_not_meet_ours(world):
    """A receive for anything, posted by the user before our exchange, must not be served by it."""
    into = np.zeros(1)
    request = MPI.COMM_WORLD.Irecv(into, source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG)
    distribute(MATRICES["random"](), world)
    done = request.Test()
    request.Cancel()
    request.Wait()
    assert everywhere(world, not done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu9"}, "unknown device"),
        ({"device": "mps"}, "not supported"),
        ({"device": "cpu", "transport": "pigeon"}, "unknown transport"),
        ({"device": "cpu", "transport": "nccl"}, "GPU of its own"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(hs.InputError, match=message):
        hs.World(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_a_clear_error():
    with pytest.raises(hs.InputError, match="torch sees no GPU"):
        hs.World(device="cuda")


def test_auto_is_mpi_on_the_cpu():
    with hs.World(device="cpu") as world:
        assert world.transport.name == "mpi"
        assert "mpi" in repr(world)


def test_one_rank_alone_is_a_world(torch_world):
    with hs.World(MPI.COMM_SELF, torch_world.device, torch_world.transport.name) as alone:
        assert alone.size == 1 and float(alone.all_sum(torch.ones(()))) == 1


@pytest.mark.slow
def test_worlds_that_nobody_closes_do_not_use_mpi_up(world, torch_world):
    """MPICH can make about 2000 communicators."""
    if world.size > 2:
        pytest.skip("two ranks show it in less time")
    for _ in range(2200):
        last = hs.World(device="cpu", transport="mpi")
    assert last.comm == world.comm
    again = hs.World(torch_world.comm, torch_world.device, torch_world.transport.name)
    assert float(again.all_sum(torch.ones(()))) == world.size


@pytest.mark.slow
def test_communicators_come_and_go_with_the_users(world):
    """Whether a World or the communicator that it was made of goes first."""
    for i in range(1100):
        comm = world.comm.Dup()
        part = hs.World(comm, device="cpu", transport="mpi")
        inner = part.thinned(1) if i == 0 and part.size > 1 else None
        if i % 2:
            part.close()
        comm.Free()
        if inner is not None:
            assert inner.sum(1) == 1
        assert i % 2 or part.sum(1) == world.size
        part.close()
        if world.size > 2 and i == 20:
            break


def test_two_worlds_on_one_communicator_keep_their_messages_apart(world):
    parts = [hs.World(world.comm, device="cpu", transport="mpi") for _ in range(2)]
    matrix = MATRICES["dense"]()
    A, B = (distribute(matrix, part, "contiguous") for part in parts)
    x = torch.arange(1.0, A.layout.n_owned + 1, dtype=torch.float64)
    plans = [(m.pattern.plan, v) for m, v in ((A, x), (B, -x))]
    channels = [part.transport for part in parts]
    assert channels[0] is not channels[1]
    first, second = (plan.exchange(v) for plan, v in plans)
    assert everywhere(world, torch.equal(first, -second))
    parts[0].close()
    assert everywhere(world, torch.equal(B @ -x, -(B @ x)))
    parts[1].close()


def test_elsewhere_is_made_again_where_it_was_closed(world, monkeypatch):
    """cpu:0 stands for the other device: torch does not take it for cpu."""
    monkeypatch.setattr("hpc_sla.distributed.world.choose_device", lambda name, _: name)
    here = hs.World(world.comm, torch.device("cpu"))
    there = here.on(torch.device("cpu", 0))
    assert there is not here and here.on(there.device) is there
    there.close()
    again = here.on(there.device)
    assert not again.closed and again.sum(1) == world.size
    assert again.on(here.device) is here
    here.close()
    assert again.closed
