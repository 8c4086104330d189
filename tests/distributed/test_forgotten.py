"""Parameters that should have been replicated and were not are named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.utils.checkpoint

import hpc_sla as hs
import hpc_sla.distributed.forgotten
from hpc_sla.errors import PartialGradientWarning
from tests.collective import distribute, everywhere, spread
from tests.distributed.test_replicated import MATRIX, POINTS, SYMMETRIC, _network

pytestmark = pytest.mark.mpi


def _told(function) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in caught if issubclass(w.category, PartialGradientWarning)]


def _by_solve(A, theta):
    return hs.solve(A, theta * A.values.new_ones(A.layout.n_owned), method="gmres")[0]


def _by_values(A, theta):
    b = A.values.new_ones(A.layout.n_owned)
    return hs.solve(A.with_values(A.values * theta), b, method="gmres")[0]


def _by_product(A, theta):
    return A @ (theta * spread(A.layout, POINTS))


def _by_halo(A, theta):
    return A.with_halo(theta * spread(A.layout, POINTS))[: A.layout.n_owned]


def _by_nothing(A, theta):
    return theta * spread(A.layout, POINTS)


def _by_nonlinear(A, theta):
    u0 = A.values.new_zeros(A.layout.n_owned)
    return hs.nonlinear_solve(
        lambda u, t: A @ u - t * (1 + 0.1 * u.sin()), u0, theta, layout=A.layout
    )[0]


def _by_nonlinear_inside(A, theta):
    """Replicated within the residual, if it is not outside."""
    u0 = A.values.new_zeros(A.layout.n_owned)
    return hs.nonlinear_solve(
        lambda u, t: A @ u - A.world.replicate(t) * (1 + 0.1 * u.sin()),
        u0,
        theta,
        layout=A.layout,
    )[0]


class _Shifted:
    def __init__(self, A, theta, replicate):
        self.layout, self.dtype = A.layout, A.dtype
        self._A, self._theta, self._replicate = A, theta, replicate

    def matvec(self, x):
        return (
            self._A @ x
            + (self._A.world.replicate if self._replicate else lambda t: t)(self._theta) * x
        )

    def rmatvec(self, x):
        return self._A.T @ x + self._theta * x

    def parameters(self):
        return [self._theta]


def _by_operator(A, theta):
    b = spread(A.layout, POINTS)
    return hs.solve(_Shifted(A, theta, False), b, method="gmres", precond="none")[0]


def _by_operator_inside(A, theta):
    b = spread(A.layout, POINTS)
    return hs.solve(_Shifted(A, theta, True), b, method="gmres", precond="none")[0]


def _by_checkpoint(A, theta):
    """Replicated within, and run again in backward."""

    def inside(t):
        return _by_solve(A, A.world.replicate(t))

    return torch.utils.checkpoint.checkpoint(inside, theta, use_reentrant=True)


USES = [_by_solve, _by_values, _by_product, _by_halo, _by_nothing, _by_nonlinear, _by_operator]
INSIDE = [_by_nonlinear_inside, _by_operator_inside, _by_checkpoint]


def _theta(world):
    return torch.tensor(1.5, dtype=torch.float64, device=world.device, requires_grad=True)


@pytest.mark.parametrize("use", USES)
def test_a_forgotten_scalar_is_named_once(world, use):
    A = distribute(MATRIX, world, "contiguous")
    theta = _theta(world)

    def step():
        A.layout.norm(use(A, theta)).backward()

    told = _told(step)
    expected = int(world.size > 1 and world.device.type == "cpu")
    assert everywhere(world, len(told) == expected)
    if told:
        assert "a tensor (shape [], float64, the same values on each rank)" in told[0]
        assert "world.replicate" in told[0]
    assert everywhere(world, not _told(step))


@pytest.mark.parametrize("use", USES + INSIDE)
def test_a_replicated_scalar_is_not(world, use):
    A = distribute(MATRIX, world, "contiguous")
    theta = _theta(world)
    given = theta if use in INSIDE else world.replicate(theta)
    told = _told(lambda: (A.layout.norm(use(A, given)) + theta**2).backward())
    assert everywhere(world, not told)


def test_without_a_backward_pass_nothing_is_said(world):
    A = distribute(MATRIX, world, "contiguous")
    assert everywhere(world, not _told(lambda: A.layout.norm(_by_solve(A, _theta(world)))))


@pytest.mark.parametrize("seed", ["same", "different"])
def test_forgotten_layers_are_named(world, seed):
    A = distribute(MATRIX, world, "contiguous")
    net = _network(world.rank if seed == "different" else 0).to(world.device)
    x = spread(A.layout, POINTS)
    told = _told(lambda: A.layout.norm(net(x[:, None])[:, 0]).backward())
    if world.size > 1:
        assert everywhere(world, len(told) == 1)
        assert all(name in told[0] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        values = "the same values on" if seed == "same" else "different on"
        assert everywhere(world, told[0].count(values) == 4)
    else:
        assert not told


def test_a_forgotten_parameter_of_eigenvalues(world):
    A = distribute(SYMMETRIC, world, "contiguous")
    theta = _theta(world)
    told = _told(lambda: hs.eigsh(A.with_values(A.values * theta), k=2)[0].sum().backward())
    assert everywhere(world, len(told) == (world.size > 1))


@pytest.mark.parametrize("partition", ["contiguous", "all on the last"])
def test_what_a_rank_owns_is_left_alone(world, partition):
    """Entries, right-hand sides and coefficients of each rank's own, alike by chance."""
    A = distribute(SYMMETRIC, world, partition)

    def steps():
        own = {"dtype": torch.float64, "device": world.device}
        values = A.values.clone().requires_grad_()
        b = torch.linspace(1, 2, A.layout.n_owned, **own).requires_grad_()
        cells = torch.ones(7, **own, requires_grad=True)
        x, _ = hs.solve(A.with_values(values), b * cells.sum())
        (A.layout.dot(x, x) + hs.eigsh(A.with_values(values), k=1)[0].sum()).backward()
        torch.manual_seed(0)
        entries = torch.ones(A.nnz_owned, **own)
        entries[::2] = 2
        entries.requires_grad_()
        A.layout.norm(A.with_values(entries).diagonal()).backward()
        x = torch.linspace(1, 2, A.layout.n_owned, **own).requires_grad_()
        world.all_sum((A @ x).sum() + A.halo(x).sum()).backward()
        for numbers in (20, 100):
            many = torch.rand(numbers, **own).requires_grad_()
            world.all_sum(many.square().sum()).backward()
        mine = torch.full((), 1.0 + world.rank, **own).requires_grad_()
        world.all_sum(mine.square()).backward()
        # Of one rank alone.
        alone = torch.ones((), **own, requires_grad=world.rank == 0)
        total = world.all_sum(alone * 2)
        if world.rank == 0:
            total.backward()

    assert everywhere(world, not _told(steps))


def test_a_warning_made_an_error_is_one_on_every_rank(world):
    A = distribute(MATRIX, world, "contiguous")
    forgotten, other = _theta(world), _theta(world)
    with torch.no_grad():
        other += 0.0 if world.rank else 1.0
    for given in (forgotten, world.replicate(other)):
        loss = A.layout.norm(_by_solve(A, given))
        with warnings.catch_warnings():
            warnings.simplefilter("error", PartialGradientWarning)
            try:
                loss.backward()
                raised = False
            except PartialGradientWarning:
                raised = True
        expected = world.size > 1 and world.device.type == "cpu"
        assert everywhere(world, raised == expected)


def test_modules_are_searched_for_seldom(world, monkeypatch):
    """Parameters that are new in every step cost no search each time."""
    searches = []
    monkeypatch.setattr(
        hpc_sla.distributed.forgotten,
        "_owners",
        lambda leaves: [searches.append(len(leaves)), {}][1],
    )
    for _ in range(150):
        large = torch.nn.Parameter(torch.full((70,), 1.0 + world.rank, device=world.device))
        world.all_sum((large * 2).sum())
    assert everywhere(world, len(searches) <= 100)


def test_triplets_are_owned(world):
    rows = np.arange(4) + 4 * world.rank
    values = torch.linspace(1, 2, 8, dtype=torch.float64, device=world.device).requires_grad_()
    A = hs.DSparseMatrix.from_coo(
        np.repeat(rows, 2), np.stack([rows, rows[::-1]], 1).reshape(-1), values,
        (4 * world.size, 4 * world.size), world,
    )  # fmt: skip
    x = torch.ones(4, dtype=torch.float64, device=world.device)
    assert everywhere(world, not _told(lambda: A.layout.norm(A @ x).backward()))


def test_values_that_differ_are_seen_by_replicate(world):
    A = distribute(MATRIX, world, "contiguous")
    theta = torch.tensor(1.0 + world.rank, dtype=torch.float64, device=world.device)
    theta.requires_grad_()
    told = _told(lambda: A.layout.norm(_by_product(A, world.replicate(theta))).backward())
    expected = int(world.size > 1 and world.device.type == "cpu")
    assert everywhere(world, len(told) == expected)
    if told:
        assert "differs between ranks" in told[0]


def test_sums_may_still_be_changed_in_place(world):
    x = torch.ones(2, dtype=torch.float64, device=world.device) * world.rank
    x.requires_grad_()
    total = world.all_sum(x * 1)
    total += 1
    total.sum().backward()
    assert everywhere(world, torch.equal(x.grad, torch.ones_like(x)))
