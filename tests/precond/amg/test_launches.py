"""How many kernels a GPU is asked for: counted on fake CUDA tensors, one count an operator."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_sla.distributed.transport import Neighbours
from hpc_sla.kernels import device_products
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.precond.amg.cycle import Cycle
from tests.precond.amg import test_cuda_by_construction as levels
from tests.sparse import test_cuda_by_construction as patterns
from tests.sparse.test_cuda_by_construction import N_OWNED, _int, _Launches

pytest.importorskip("triton")


class _Alone(patterns._World):
    size = 1


@pytest.fixture(params=[1, 2], ids=["one rank", "two ranks"], autouse=True)
def ranks(request, monkeypatch):
    """On one rank nothing has a halo."""
    if request.param == 1:

        class Layout(patterns._Layout):
            world = _Alone()

        made = patterns._pattern

        def pattern():
            found = made()
            found.plan.layout = found.layout = found.columns = Layout()
            found.plan.sends = found.plan.receives = Neighbours((), ())
            found.plan.n_halo, found.boundary = 0, _int(0)
            found.halo = CsrPattern(_int(1), _int(0), 0)
            found.nnz_owned = found.owned.nnz
            return found

        for module in (patterns, levels):
            monkeypatch.setattr(module, "_pattern", pattern)
        monkeypatch.setattr(patterns, "_World", _Alone)
        monkeypatch.setattr(patterns._Operator, "world", _Alone())
    with FakeTensorMode():
        yield request.param


def test_a_step_of_cg(ranks, monkeypatch):
    state, _ = patterns._at_work("cg", True, (), monkeypatch, triton=True)
    state.step()
    with _Launches() as launches:
        state.step()
    alone = ["csr_rows", "cg_residual_step", "cg_direction_step"]
    # What is sent is packed; the halo's rows are added; sums are brought together.
    more = ["index_select", "csr_rows", "csr_rows", *alone[1:2], "cg_total", alone[2]]
    assert launches.names == (alone if ranks == 1 else more)


@pytest.mark.parametrize("transpose", [False, True])
def test_a_level_of_a_v_cycle(ranks, transpose, monkeypatch):
    """From the smoother before to the one after, two steps each: the last level's work apart."""
    first, last = levels._level("V", False), levels._level("V", True)
    if ranks == 1:
        first.transfer._plain.down_halo.n_rows = 0
    cycle = Cycle([first, last], "V", transpose)
    b = torch.ones(N_OWNED, dtype=torch.float32, device="cuda")
    correction = torch.ones_like(b)
    monkeypatch.setattr(cycle, "_correction", lambda depth, vectors: correction)
    cycle.apply(b)
    with _Launches() as launches:
        cycle.apply(b)
    if transpose:
        assert launches.names.count("csr_rows") == (6 if ranks == 1 else 12)
        return
    # The first step from zero; a step, the residual, down, up, two steps.
    alone = ["mul", *["csr_rows"] * 6]
    if ranks == 1:
        assert launches.names == alone
        return
    sent = ["index_select", "csr_rows", "csr_rows"]
    down = ["csr_rows", "csr_rows", "index_add_"]
    assert launches.names == ["mul", *sent * 2, *down, *sent * 3]


def test_products_without_triton_are_the_librarys(ranks, monkeypatch):
    monkeypatch.setattr(device_products, "_load", lambda device: False)
    pattern = patterns._pattern()
    x = torch.ones(N_OWNED, dtype=torch.float64, device="cuda")
    out, dot = torch.empty_like(x), torch.empty((), dtype=torch.float64, device="cuda")
    values = torch.ones(pattern.nnz_owned, dtype=torch.float64, device="cuda")
    pattern.matmul(values, x, out, dot)
    with _Launches() as launches:
        pattern.matmul(values, x, out, dot)
    more = ["index_select", "csr_matmul_out", "csr_matmul_out", "index_add_", "dot"]
    assert launches.names == (["csr_matmul_out", "dot"] if ranks == 1 else more)
