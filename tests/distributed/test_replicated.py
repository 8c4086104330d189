"""Networks that all ranks hold."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.utils.checkpoint

import hpc_sla as hs
import hpc_sla.distributed.forgotten
from hpc_sla.errors import InputError
from tests.collective import distribute, everywhere, spread

pytestmark = pytest.mark.mpi

N = 13
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 4.0, -1.5], offsets=[-1, 0, 1], shape=(N, N)))
SYMMETRIC = sp.csr_matrix(sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(N, N)))
POINTS = np.linspace(0.1, 2.0, N)


def _network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(1, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)]
    return torch.nn.Sequential(*layers).double()


def _flat(tensors) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).cpu().numpy()


def _loss(A, net, x):
    """Of a solve with the network on the right and in the matrix, and of its slope."""
    x = x.clone().requires_grad_()
    f = net(x[:, None])[:, 0]
    (slope,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    u, _ = hs.solve(A, f, method="gmres", rtol=1e-13, adjoint_rtol=1e-13)
    return A.layout.dot(u, u) + A.layout.dot(slope, slope)


def _serial_gradient(net) -> np.ndarray:
    net = copy.deepcopy(net)
    x = torch.from_numpy(POINTS).requires_grad_()
    f = net(x[:, None])[:, 0]
    (slope,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    u = torch.linalg.solve(torch.from_numpy(MATRIX.toarray()), f)
    (u @ u + slope @ slope).backward()
    return _flat(p.grad for p in net.parameters())


@pytest.mark.parametrize("partition", ["contiguous", "cyclic", "all on the last"])
def test_the_gradient_is_whole_and_the_same_on_every_rank(any_world, partition):
    A = distribute(MATRIX, any_world, partition)
    net = _network(any_world.rank).to(any_world.device)
    replicated = any_world.replicate_module(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _loss(A, replicated, spread(A.layout, POINTS)).backward()
    found = _flat(p.grad for p in net.parameters())
    expected = _serial_gradient(_network(0))
    assert everywhere(any_world, np.abs(found - expected).max() < 1e-10 * np.abs(expected).max())
    assert len({g.tobytes() for g in any_world.comm.allgather(found)}) == 1


def test_second_derivatives(world):
    A = distribute(MATRIX, world, "contiguous")
    net, x = _network(0).to(world.device), spread(A.layout, POINTS)
    replicated = world.replicate_module(net)
    parameters = list(net.parameters())
    first = torch.autograd.grad(_loss(A, replicated, x), parameters, create_graph=True)
    square = sum(g.square().sum() for g in first)
    second = _flat(torch.autograd.grad(square, parameters))
    # A central difference of the first along itself is half the gradient of its square.
    direction, h = [g.detach().clone() for g in first], 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * h * d
        ends.append(_flat(torch.autograd.grad(_loss(A, replicated, x), parameters)))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * h * d
    difference = (ends[0] - ends[1]) / h
    assert everywhere(world, np.abs(second - difference).max() < 1e-6 * np.abs(second).max())


class _Net(torch.nn.Module):
    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.first = torch.nn.Linear(1, hidden).double()
        self.norm = torch.nn.BatchNorm1d(hidden).double()
        self.scale = torch.nn.Parameter(torch.rand((), dtype=torch.float64))
        self.frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)

    def forward(self, x):
        return self.scale * self.norm(self.first(x)).sum(dim=1) * self.frozen.sum()


def test_values_and_buffers_are_those_of_rank_0(world):
    torch.manual_seed(world.rank)
    net = _Net().to(world.device)
    net.norm.running_mean += world.rank
    replicated = world.replicate_module(net)

    def state():
        return world.comm.allgather(_flat(net.state_dict().values()).tobytes())

    assert len(set(state())) == 1
    points = torch.rand(4, 1, dtype=torch.float64, device=world.device)
    world.all_sum(replicated(points).square().sum()).backward()
    replicated(points)  # takes over what rank 0's first call made of the means
    assert net.scale.grad is not None and net.frozen.grad is None
    replicated.eval()
    assert everywhere(world, not net.training and replicated.module is net)


def test_training_keeps_all_ranks_together(world):
    A = distribute(MATRIX, world)
    x = spread(A.layout, POINTS)
    target = spread(A.layout, np.sin(POINTS))
    net = _network(world.rank).to(world.device)
    replicated = world.replicate_module(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        d = hs.solve(A, replicated(x[:, None])[:, 0], method="gmres")[0] - target
        loss = A.layout.dot(d, d)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    found = world.comm.allgather(_flat(net.parameters()).tobytes())
    assert len(set(found)) == 1


def test_in_a_functional_call(world):
    net = world.replicate_module(_network(0).to(world.device))
    weights = {name: p.detach() * 2 for name, p in net.named_parameters()}
    x = torch.ones(3, 1, dtype=torch.float64, device=world.device)
    found = torch.func.functional_call(net, weights, (x,))
    expected = torch.func.functional_call(
        net.module, {name.removeprefix("module."): w for name, w in weights.items()}, (x,)
    )
    assert everywhere(world, torch.equal(found, expected))


def test_refusals(world):
    with pytest.raises(InputError, match="not a torch"):
        world.replicate_module(torch.ones(3))
    if world.size > 1:
        with pytest.raises(InputError, match="rank 1 and rank 0"):
            world.replicate_module(_Net(3 + world.rank).to(world.device))
