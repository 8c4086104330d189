"""The cycle on several threads: to the bit that of one, and really by the compiled loops' crews."""

from __future__ import annotations

import ctypes

import pytest
import torch

from hpc_sla import problems
from hpc_sla.kernels import native
from hpc_sla.precond.amg import amg
from tests.collective import everywhere
from tests.precond.amg.systems import multigrid

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not native.THREADED, reason="the compiled loops have one thread"),
]

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@pytest.fixture
def crews():
    """How many parts each crew had; all of them are done by this thread."""
    calls, parts = native.openmp(), []

    @_RUN
    def run(work, data, count, _flags):
        parts.append(count)
        _WORK(work)(data)

    native.LIBRARY.hpc_sla_use_threads(ctypes.cast(run, ctypes.c_void_p), *calls[1:])
    yield parts
    native.LIBRARY.hpc_sla_use_threads(*calls)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


SPECS = ["poisson2d:n=300", "poisson3d:n=36", "unstructured3d:n=26", "elasticity3d:n=16"]


@pytest.mark.parametrize(("spec", "cycle"), [(SPECS[0], "W"), *((spec, "V") for spec in SPECS[1:])])
def test_threads_give_the_bits_of_one(world, spec, cycle, monkeypatch):
    torch.set_num_threads(1)
    A = problems.distribute(problems.make(spec), world)
    M = multigrid(cycle=cycle, dtype="float32", coarse_size=200).on(A)
    for trailing in ((), (3,)):
        r = torch.rand(A.layout.n_owned, *trailing, dtype=torch.float64)
        one = M.apply(r, torch.empty_like(r)).clone()
        for count in (2, 3):
            torch.set_num_threads(count)
            same = torch.equal(M.apply(r, torch.empty_like(r)), one)
            assert everywhere(world, same)
            with monkeypatch.context() as patch:
                patch.setattr(amg, "can_compile", lambda *_: False)
                same = torch.equal(M.apply(r, torch.empty_like(r)), one)
            assert everywhere(world, same)
        torch.set_num_threads(1)


@pytest.mark.parametrize("spec", SPECS)
def test_every_pass_of_the_finest_level_is_shared(world, spec, crews):
    A = problems.distribute(problems.make(spec), world)
    M = multigrid(dtype="float32", coarse_size=200).on(A)
    r = torch.rand(A.layout.n_owned, 4, dtype=torch.float64)
    torch.set_num_threads(1)
    one = M.apply(r, torch.empty_like(r)).clone()
    assert everywhere(world, crews == [])
    torch.set_num_threads(2)
    same = torch.equal(M.apply(r, torch.empty_like(r)), one)
    # Into the cycle's numbers with the first step; the second; residual; to the next level and
    # back; two steps; out again.
    shared = set(crews) == {2} and len(crews) >= 8
    assert everywhere(world, same and (shared or len(r) < 10000))
