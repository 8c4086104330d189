"""Bursts as graphs, where a graph is emulated on the CPU: what was captured is done when replayed.

As on a GPU, what a step does while it is captured leaves no trace, and a replay works on the very
tensors that were there then.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hpc_sla as hs
from hpc_sla.kernels import fused, native
from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import TensorScalars
from hpc_sla.sparse.operators import as_operator
from tests.checkpoints import poisson
from tests.methods import ENTRIES

METHODS = [name for name, method in ENTRIES.items() if method.capturable]
EVERY = 6


STREAM = ["the default"]
"""The current one."""


class Graph(TorchDispatchMode):
    """Operations, with the tensors that they were given and that they gave."""

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        for tensor in tree_leaves((arguments, named)):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        found = function(*arguments, **named)
        self.calls.append((function, arguments, named, found))
        return found

    def undo(self):
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self):
        for function, arguments, named, before in self.calls:
            found = function(*arguments, **named)
            pairs = zip(tree_leaves(before), tree_leaves(found), strict=True)
            for kept, new in pairs:
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class capture:
    """What `torch.cuda.graph` is."""

    fails = False

    def __init__(self, graph):
        self.graph = graph

    def __enter__(self):
        self.graph.__enter__()

    def __exit__(self, *error):
        self.graph.__exit__(*error)
        self.graph.undo()
        if self.fails:  # torch leaves its stream the current one then
            STREAM[0] = "the capture's"
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", None)  # compiled loops are no operations of torch's
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: STREAM[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: STREAM.__setitem__(0, stream))
    monkeypatch.setattr(capture, "fails", False)


def run(method: str, precond: str, captured: bool, lengths: list[int], on_device: bool = False):
    """X, and all that was recorded; with steps as on a GPU, by their oracle."""
    A = hs.DSparseMatrix.from_scipy(poisson(7), hs.World.serial("cpu"))
    b = torch.linspace(0, 1, A.layout.n_owned, dtype=torch.float64)
    scalars = TensorScalars(A.world, b)
    scalars.check_every = EVERY
    scalars._history = b.new_empty((EVERY, 4))
    M = {"jacobi": hs.Jacobi().on(A), "none": hs.Identity()}[precond]
    x, r = torch.zeros_like(b), b.clone()
    state = ENTRIES[method].on(System(as_operator(A), M, b, x, r, [1e-9], scalars))
    state.on_device = on_device
    state.start(torch.tensor(True))
    told = [scalars.read()]
    bursts = Bursts(state, scalars, captured)
    for length in lengths:
        bursts.run(length)
        told.append(scalars.read())
    state.finish()
    return state.x, told, bursts


# Whole bursts; others between them, as where iterations are limited; and beyond convergence.
LENGTHS = [[EVERY] * 5, [EVERY, EVERY, 2, EVERY, 4, EVERY], [EVERY] * 12]


@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
@pytest.mark.parametrize("precond", ["jacobi", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_captured_and_eager_are_the_same(method, precond, lengths, emulated):
    (x, told, bursts), (y, other, _) = (run(method, precond, c, lengths) for c in (True, False))
    assert bursts._graph is not None and bursts._graph.calls
    assert torch.equal(x, y) and str(told) == str(other)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_captured_is_launched_one_by_one(method, emulated, monkeypatch):
    monkeypatch.setattr(capture, "fails", True)
    with pytest.warns(RuntimeWarning, match="could not be captured") as warned:
        x, told, bursts = run(method, "jacobi", True, LENGTHS[0])
    assert len(warned) == 1 and bursts._graph is None and STREAM == ["the default"]
    y, other, _ = run(method, "jacobi", False, LENGTHS[0])
    assert torch.equal(x, y) and str(told) == str(other)


@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
@pytest.mark.parametrize("precond", ["jacobi", "none"])
def test_steps_of_cg_whose_scalars_stay_on_the_device(precond, lengths, emulated, monkeypatch):
    monkeypatch.setattr(fused, "device_step", fused.device_step_reference)
    x, told, _ = run("cg", precond, False, lengths)
    for captured in (False, True):
        y, other, bursts = run("cg", precond, captured, lengths, on_device=True)
        assert (bursts._graph is not None) == captured
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
        for one, two in zip(told, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-25)
