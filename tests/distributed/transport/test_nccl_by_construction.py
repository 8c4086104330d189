"""What the nccl transport asks of torch.distributed, which has no nccl here."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI

from hpc_sla.distributed.transport import torch_distributed as module
from hpc_sla.distributed.transport.torch_distributed import TorchDistributedTransport


class Comm:
    """Two ranks, one of which is looked at."""

    rank, size = 0, 2

    def allgather(self, value):
        return [value, value if not isinstance(value, tuple) else (value[0], 1)]

    def Allreduce(self, mine, numbers, op=MPI.SUM):
        if op == MPI.SUM:
            numbers *= self.size

    def Split_type(self, kind):
        return type("Node", (), {"size": 2, "Free": lambda self: None})()


class Group:
    def __init__(self, bound=None):
        self.bound_device_id = bound


@pytest.fixture
def asked(monkeypatch):
    """What was asked of it: calls by name, with their options."""
    found, up = [], []

    def init(backend, **options):
        found.append(("init", backend, options.get("device_id")))
        up.append(Group(options.get("device_id")))

    def new_group(ranks, **options):
        found.append(("new_group", options["backend"], up[0].bound_device_id))
        return Group()

    monkeypatch.setattr(dist, "is_initialized", lambda: bool(up))
    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(
        dist, "all_reduce", lambda tensor, group: found.append(("all_reduce", group))
    )
    monkeypatch.setattr(module, "make_store", lambda *of: (None, "a store"))
    monkeypatch.setattr(module, "_group_of_all", lambda: up[0])
    monkeypatch.setattr(module, "_made", None)
    monkeypatch.setattr(module, "_lives", lambda comm, group: True)  # torch knows none of these
    monkeypatch.setattr(module.atexit, "register", lambda function: None)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 21, 5))
    monkeypatch.setattr(torch, "zeros", lambda n, device: str(device))
    found.append(up)
    return found


FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


def test_the_first_group_is_bound_to_its_device(asked):
    groups = {}
    made = TorchDistributedTransport(Comm(), FIRST, "nccl", groups)
    (up, *calls) = asked
    assert calls == [("init", "nccl", FIRST), ("all_reduce", up[0])]
    assert made.capturable and made._messages is made._group is up[0]


def test_later_ones_do_not_split_it_and_send_by_it(asked):
    TorchDistributedTransport(Comm(), FIRST, "nccl", {})
    up = asked[0]
    del asked[1:]
    fewer = TorchDistributedTransport(Comm(), FIRST, "nccl", {})
    # Made while the first is bound to nothing; and nothing of it is reduced yet.
    assert asked[1:] == [("new_group", "nccl", None)]
    assert up[0].bound_device_id == FIRST
    assert fewer._messages is up[0] and fewer._group is not up[0]


def test_another_device_has_a_group_of_its_own(asked):
    groups = {}
    one = TorchDistributedTransport(Comm(), FIRST, "nccl", groups)
    two = TorchDistributedTransport(Comm(), SECOND, "nccl", groups)
    again = TorchDistributedTransport(Comm(), FIRST, "nccl", groups)
    assert two._group is not one._group and again._group is one._group
    assert two._messages is two._group
    assert ("all_reduce", two._group) in asked


class Mixed(Comm):
    """Whose other rank is on the second device, wherever this one is."""

    def allgather(self, value):
        return [value, str(SECOND)] if isinstance(value, str) else super().allgather(value)


def test_another_device_of_another_rank_is_another_group(asked):
    """This one, which is where it was, must make it with the others."""
    groups = {}
    one = TorchDistributedTransport(Comm(), FIRST, "nccl", groups)
    two = TorchDistributedTransport(Mixed(), FIRST, "nccl", groups)
    assert two._group is not one._group and len(groups) == 2
    for comm, group in ((Comm(), one), (Mixed(), two)):
        assert TorchDistributedTransport(comm, FIRST, "nccl", groups)._group is group._group


def test_messages_go_by_the_group_of_all_only_where_all_would(asked):
    TorchDistributedTransport(Comm(), FIRST, "nccl", {})
    other = Comm()
    other.allgather = lambda value: (
        [value, False] if value is True else Comm.allgather(other, value)
    )
    fewer = TorchDistributedTransport(other, FIRST, "nccl", {})
    assert fewer._messages is fewer._group is not asked[0][0]
    assert asked[-1] == ("all_reduce", fewer._group)


@pytest.mark.parametrize(
    ("version", "capturable"), [((2, 9, 5), False), ((2, 9, 6), True), ((2, 27, 3), True)]
)
def test_only_a_recent_nccl_is_captured(version, capturable, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: version)
    assert TorchDistributedTransport(Comm(), FIRST, "nccl", {}).capturable == capturable


def test_gloo_is_not_captured(asked):
    made = TorchDistributedTransport(Comm(), torch.device("cpu"), "gloo", {})
    assert not made.capturable and asked[1] == ("init", "gloo", None)
