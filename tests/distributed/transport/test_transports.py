"""The transports on their own: sums, repeated exchanges, messages nobody expects."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_sla.distributed.transport import Neighbours, rendezvous
from tests.collective import everywhere

pytestmark = pytest.mark.mpi


def _ring(world):
    """Everyone sends `rank + 1` rows to the next rank, if there is another."""
    size, rank = world.size, world.rank
    if size == 1:
        return Neighbours((), ()), Neighbours((), ())
    return Neighbours(((rank + 1) % size,), (rank + 1,)), Neighbours(
        ((rank - 1) % size,), ((rank - 1) % size + 1,)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
@pytest.mark.parametrize("trailing", [(), (3,)])
def test_a_channel_can_be_used_again_and_again(any_world, dtype, trailing):
    send, recv = _ring(any_world)
    channel = any_world.transport.channel(send, recv, trailing, dtype)
    for turn in range(5):
        channel.send_buffer.fill_(10 * any_world.rank + turn)
        channel.start()
        channel.finish()
        expected = 10 * ((any_world.rank - 1) % any_world.size) + turn
        assert everywhere(any_world, bool((channel.recv_buffer == expected).all()))
    channel.close()


def test_two_channels_in_flight_do_not_mix(any_world):
    send, recv = _ring(any_world)
    channels = [any_world.transport.channel(send, recv, (), torch.float64) for _ in range(2)]
    for i, channel in enumerate(channels):
        channel.send_buffer.fill_(i)
    # Started in a different order on odd ranks (mpi tells messages apart; nccl and gloo, where
    # every rank must call in one order, are started in one).
    mixed = any_world.transport.name == "mpi" and any_world.rank % 2
    for channel in reversed(channels) if mixed else channels:
        channel.start()
    for channel in channels:
        channel.finish()
    ok = all(bool((channel.recv_buffer == i).all()) for i, channel in enumerate(channels))
    assert everywhere(any_world, ok)


def test_all_reduce_sums_in_place(any_world):
    tensor = torch.arange(3, dtype=torch.float64, device=any_world.device) + any_world.rank
    any_world.transport.all_reduce_sum(tensor)
    size = any_world.size
    expected = np.arange(3) * size + size * (size - 1) / 2
    np.testing.assert_array_equal(tensor.cpu().numpy(), expected)


def test_unexpected_messages_arrive(world):
    """Random sparse communication graphs, many rounds in a row, beside an all-to-all."""
    rng = np.random.default_rng(world.rank)
    for turn in range(20):
        to = [r for r in range(world.size) if rng.random() < 0.4]
        messages = {r: np.arange(rng.integers(1, 5)) + 100 * world.rank + turn for r in to}
        received = world.sparse_exchange(messages)
        expected = world.comm.alltoall([messages.get(r) for r in range(world.size)])
        ok = sorted(received) == list(received) and set(received) == {
            r for r, m in enumerate(expected) if m is not None
        }
        ok = ok and all(np.array_equal(received[r], expected[r]) for r in received)
        assert everywhere(world, ok)


def test_nobody_sends_anything(world):
    assert everywhere(world, world.sparse_exchange({}) == {})


def test_neighbours_slices_cover_the_buffer():
    neighbours = Neighbours((2, 5), (3, 4))
    assert neighbours.total == 7
    assert list(neighbours.slices()) == [(2, slice(0, 3)), (5, slice(3, 7))]


def test_a_reduction_travels_while_a_halo_does(any_world):
    send, recv = _ring(any_world)
    channel = any_world.transport.channel(send, recv, (), torch.float64)
    for turn in range(3):
        tensor = torch.full((4,), float(any_world.rank + turn), dtype=torch.float64)
        tensor = tensor.to(any_world.device)
        pending = any_world.transport.start_all_reduce_sum(tensor)
        channel.send_buffer.fill_(any_world.rank)
        channel.start()
        channel.finish()
        pending.wait()
        size = any_world.size
        assert everywhere(any_world, bool((tensor == size * (size - 1) / 2 + size * turn).all()))
        came = bool((channel.recv_buffer == (any_world.rank - 1) % size).all())
        assert everywhere(any_world, came)
    channel.close()


def sockets(process):
    """Inodes of a process's sockets."""
    found = set()
    for fd in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            name = os.readlink(fd)
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found


def listening():
    """Addresses, in hexadecimal, that this process listens on, and did not inherit."""
    mine = sockets("self") - sockets(os.getppid())
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            here, state, inode = words[1], words[3], words[9]
            if state == "0A" and inode in mine:
                found.append(here.partition(":")[0])
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="Linux tells of its sockets")
def test_nothing_listens_to_the_whole_network(torch_world):
    everywhere_at_once = {"0" * 8, "0" * 32}
    assert everywhere(torch_world, not everywhere_at_once & set(listening()))


def test_between_nodes_the_store_listens_on_one_address_and_behind_a_secret(world, monkeypatch):
    """Played on one node, by way of the loopback address."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(rendezvous.socket, "gethostname", lambda: f"node{world.rank}")
    if world.size == 1:
        pytest.skip("one rank is on one node")
    store, name = rendezvous.make_store(world.comm, False, timedelta(seconds=300))
    if world.rank == 0:
        store.set("key", "value")
    world.barrier()
    port = int(name.rpartition(":")[2])
    there = [line.split()[1:4:2] for line in Path("/proc/self/net/tcp").read_text().splitlines()]
    ours = [here for here, state in there if state == "0A" and here.endswith(f":{port:04X}")]
    plain = torch.distributed.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=300))
    ok = store.get("key") == b"value" and not plain.check(["key"])
    assert everywhere(world, ok and ours == [f"0100007F:{port:04X}"])
    world.barrier()


def test_the_address_between_nodes():
    assert rendezvous.address_towards("localhost") == ""
    assert rendezvous.address_towards("no.such.host.invalid") == ""
    with rendezvous.listen("127.0.0.1") as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
    with rendezvous.listen("192.0.2.77") as bound:  # of nobody
        assert bound.getsockname()[0] in ("::", "0.0.0.0")


def test_the_folder_where_ranks_meet_is_closed_to_others(world):
    store, folder = rendezvous.make_store(world.comm, True, timedelta(seconds=300))
    ok = os.stat(folder).st_mode & 0o777 == 0o700 and os.stat(folder).st_uid == os.getuid()
    if world.rank == 0:
        store.set("key", "value")
    world.barrier()
    assert everywhere(world, ok and store.get("key") == b"value")


@pytest.mark.several
def test_fewer_ranks_send_beside_all(any_world):
    """Halos of two Worlds in flight at once, one within the other, and sums of each."""
    outer = any_world
    inner = outer.thinned(max(1, outer.size - 1))
    transports = [w.transport for w in (outer, inner) if w is not None]
    channels = [
        t.channel(*_ring(w), (), torch.float64)
        for t, w in zip(transports, (outer, inner), strict=False)
    ]
    for turn in range(3):
        for channel, w in zip(channels, (outer, inner), strict=False):
            channel.send_buffer.fill_(10 * w.rank + turn)
            channel.start()
        for channel, w in zip(channels, (outer, inner), strict=False):
            channel.finish()
            assert bool((channel.recv_buffer == 10 * ((w.rank - 1) % w.size) + turn).all())
        for t, w in zip(transports, (outer, inner), strict=False):
            tensor = torch.full((2,), float(w.rank), dtype=torch.float64, device=w.device)
            t.all_reduce_sum(tensor)
            assert bool((tensor == w.size * (w.size - 1) / 2).all())
    if outer.transport.name == "gloo" and inner is not None and inner.size > 1:
        assert inner.transport._messages is outer.transport._messages
    for channel in channels:
        channel.close()
    assert everywhere(outer, True)


def test_devices_that_differ_on_one_rank_only_make_another_group(world):
    """Whoever stays on its device makes it with the others. Twice, and the first once more."""
    from hpc_sla.distributed.transport.torch_distributed import TorchDistributedTransport

    groups = {}
    there = "cpu:0" if world.rank == 0 else "cpu"
    made = [
        TorchDistributedTransport(world.comm, torch.device(device), "gloo", groups)
        for device in ("cpu", there, there, "cpu")
    ]
    assert everywhere(world, len(groups) == 2)
    assert everywhere(world, made[1]._group is made[2]._group is not made[0]._group)
    assert everywhere(world, made[3]._group is made[0]._group)
    for transport in made:
        tensor = torch.ones(2)
        transport.all_reduce_sum(tensor)
        assert everywhere(world, tensor.tolist() == [world.size] * 2)
        transport.close()
