"""RowLayout: inner products, and vectors in the user's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.distributed import user_order
from tests.collective import (
    MATRICES,
    PARTITIONS,
    distribute,
    distribute_once,
    everywhere,
    full,
    on,
    spread,
)

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("columns", [(), (3,)])
def test_scatter_then_gather_is_the_identity(world, name, partition, columns):
    layout = distribute(MATRICES[name](), world, partition).layout
    x = np.random.default_rng(8).standard_normal((layout.n_global, *columns))
    mine = layout.scatter(x if world.rank == 0 else None)
    assert everywhere(world, np.array_equal(mine.cpu().numpy(), x[layout.rows]))
    back = layout.gather(mine)
    assert everywhere(world, (back is None) == (world.rank > 0))
    assert everywhere(world, world.rank > 0 or np.array_equal(back.numpy(), x))
    np.testing.assert_array_equal(full(layout, mine), x)


@pytest.mark.parametrize("partition", ["metis", "cyclic", "all on the last"])
@pytest.mark.parametrize("name", ["random", "fewer rows than ranks"])
@pytest.mark.parametrize(("columns", "window"), [((), 40), ((2,), 40), ((), 1 << 20)])
def test_user_blocks_are_even_blocks_in_order(world, monkeypatch, name, partition, columns, window):
    monkeypatch.setattr("hpc_sla.distributed.user_order._WINDOW_BYTES", window)
    layout = distribute_once(MATRICES[name](), world, partition).layout
    n, size, rank = layout.n_global, world.size, world.rank
    x = np.random.default_rng(8).standard_normal((n, *columns))
    mine = x[rank * n // size : (rank + 1) * n // size]
    for _ in range(2):
        blocks = list(layout.user_blocks(spread(layout, x)))
        ends = np.cumsum([rank * n // size, *(len(block) for _, block in blocks)])
        good = [start for start, _ in blocks] == ends[:-1].tolist()
        good &= np.array_equal(np.concatenate([b for _, b in blocks]), mine)
        good &= max(block.nbytes for _, block in blocks) <= window
        assert everywhere(world, good)
    assert len(set(world.comm.allgather(len(blocks)))) == 1
    read = []
    back = layout.from_user_blocks(lambda *which: read.append(which) or x[slice(*which)])
    assert everywhere(world, np.array_equal(back.cpu().numpy(), x[layout.rows]))
    # As many, each where the one before it ends; behind a look at none.
    assert everywhere(world, read[1:] == [(s, s + len(block)) for s, block in blocks])


def test_windows_end_where_checked_blocks_of_files_do(world):
    """2^17 rows of float64: none is read twice, but where two ranks meet within it."""
    n = 1_000_000
    cuts = np.arange(world.size + 1) * n // world.size
    layout = hs.RowLayout(world, cuts)
    read = []
    layout.from_user_blocks(lambda *which: read.append(which) or np.zeros(which[1] - which[0]))
    inner = {end for which in read for end in which} - {cuts[world.rank], cuts[world.rank + 1]}
    assert everywhere(world, all(end % (1 << 17) == 0 for end in inner))


def test_what_reading_raises_in_the_midst_is_raised_everywhere(world, monkeypatch):
    monkeypatch.setattr("hpc_sla.distributed.user_order._WINDOW_BYTES", 40)
    n = 20 * world.size
    layout = hs.RowLayout(world, np.arange(world.size + 1) * 20)

    def read(start, stop):
        if start <= n - 3 < stop:
            raise hs.InputError("is torn", file="some.h5")
        return np.zeros(stop - start)

    with pytest.raises(hs.InputError, match="is torn"):
        layout.from_user_blocks(read)


def test_rows_go_to_neighbours_and_nowhere_else(world, monkeypatch):
    """In blocks of the user's order, one row off, no rank hears of more than the two beside it."""
    n = 6 * world.size
    offsets = np.clip(np.arange(world.size + 1) * 6 + 1, 0, n)
    offsets[0] = 0
    layout = hs.RowLayout(world, offsets)
    watched = _Watched(world.comm)
    monkeypatch.setattr(world, "comm", watched)
    list(layout.user_blocks(on(world, layout.rows.astype(float))))
    monkeypatch.undo()
    assert everywhere(world, watched.partners <= {world.rank - 1, world.rank + 1})
    assert world.comm.allreduce(len(watched.partners)) >= world.size - 1


class _Watched:
    """A communicator that notes with whom it talks, and knows no exchange of all with all."""

    def __init__(self, comm):
        self._comm, self.partners = comm, set()

    def __getattr__(self, name):
        if name.lower().removeprefix("i").startswith(("alltoall", "gather", "allgather")):
            raise AssertionError(name)
        found = getattr(self._comm, name)
        if name not in ("Isend", "Irecv", "Issend", "Send"):
            return found

        def noted(*args, **kw):
            self.partners.add(kw.get("dest", kw.get("source")))
            return found(*args, **kw)

        return noted


@pytest.mark.parametrize("columns", [(), (3,)])
def test_dot_and_norm_equal_numpys(any_world, columns):
    layout = distribute(MATRICES["random"](), any_world).layout
    x, y = np.random.default_rng(9).standard_normal((2, layout.n_global, *columns))
    dot = layout.dot(spread(layout, x), spread(layout, y))
    np.testing.assert_allclose(dot.cpu().numpy(), (x * y).sum(0), rtol=1e-12)
    norm = layout.norm(spread(layout, x))
    np.testing.assert_allclose(norm.cpu().numpy(), np.linalg.norm(x, axis=0), rtol=1e-12)
    assert len(set(any_world.comm.allgather(dot.cpu().numpy().tobytes()))) == 1


def test_gradients_are_counted_once_and_hold_twice(any_world):
    """d/dx of (x.y) |x| and the derivative of that along y, beside dense torch."""
    layout = hs.RowLayout.even(11, any_world)
    x_full, y_full = np.random.default_rng(10).standard_normal((2, 11))
    x = spread(layout, x_full).requires_grad_()
    y = spread(layout, y_full)
    (g,) = torch.autograd.grad(layout.dot(x, y) * layout.norm(x), x, create_graph=True)
    (h,) = torch.autograd.grad(layout.dot(g, y), x)

    X = torch.from_numpy(x_full).requires_grad_()
    Y = torch.from_numpy(y_full)
    (G,) = torch.autograd.grad((X @ Y) * X.norm(), X, create_graph=True)
    (H,) = torch.autograd.grad(G @ Y, X)
    np.testing.assert_allclose(full(layout, g), G.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(full(layout, h), H.numpy(), rtol=1e-12)


def test_norm_of_zero_has_a_zero_gradient(world):
    layout = hs.RowLayout.even(5, world)
    x = torch.zeros(layout.n_owned, dtype=torch.float64, requires_grad=True)
    norm = layout.norm(x)
    norm.backward()
    assert norm.item() == 0 and everywhere(world, not x.grad.any())


def test_a_replicated_parameter_gets_the_whole_gradient_everywhere(any_world):
    """loss = sum_i (theta x_i)^2, so d/dtheta = 2 theta x.x and d2/dtheta2 = 2 x.x."""
    layout = hs.RowLayout.even(7, any_world)
    x_full = np.random.default_rng(11).standard_normal(7)
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    loss = any_world.all_sum(((any_world.replicate(theta) * spread(layout, x_full)) ** 2).sum())
    (g,) = torch.autograd.grad(loss, theta, create_graph=True)
    (h,) = torch.autograd.grad(g, theta)
    np.testing.assert_allclose(g.item(), 3.0 * x_full @ x_full, rtol=1e-12)
    np.testing.assert_allclose(h.item(), 2.0 * x_full @ x_full, rtol=1e-12)
    assert len(set(any_world.comm.allgather(g.item()))) == 1


def test_norm_of_nan_is_nan(world):
    layout = hs.RowLayout.even(5, world)
    x = on(world, np.full(layout.n_owned, np.nan))
    assert np.isnan(layout.norm(x).item())


def test_stopping_early_in_user_blocks_leaves_nothing_behind(world):
    layout = distribute(MATRICES["random"](), world, "cyclic").layout
    for _ in layout.user_blocks(on(world, np.full(layout.n_owned, 111.0))):
        break
    again = layout.gather(on(world, np.full(layout.n_owned, 222.0)))
    assert everywhere(world, again is None or bool((again == 222).all()))


def test_scatter_of_a_wrong_length_is_an_error_everywhere(world):
    layout = hs.RowLayout.even(5, world)
    with pytest.raises(hs.InputError, match="needs 5 entries"):
        layout.scatter(np.ones(4) if world.rank == 0 else None)


@pytest.mark.parametrize("least", [0, 2**40, 2**62])
def test_rows_in_ascending_order_whatever_their_numbers(least):
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 255, 256, 1000):
        rows = least + rng.permutation(3 * count)[:count].astype(np.int64)
        found = user_order._ascending(rows)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, np.argsort(rows))


@pytest.mark.parametrize("odd", [np.zeros((0, 2)), np.zeros(0, dtype=np.float32)])
def test_ranks_that_read_rows_of_different_kinds(world, odd):
    """Before any of them is on its way: there would be other windows, and messages."""
    if world.size == 1:
        return
    layout = hs.RowLayout(world, np.arange(world.size + 1) * 20)

    def read(start, stop):
        kind = odd if world.rank == world.size - 1 else np.zeros(0)
        return np.zeros((stop - start, *kind.shape[1:]), dtype=kind.dtype)

    with pytest.raises(hs.InputError, match="different kinds"):
        layout.from_user_blocks(read)
