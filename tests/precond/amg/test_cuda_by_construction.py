"""A cycle on fake CUDA tensors: nothing leaves the device, nothing waits for it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_sla.kernels.csr import CsrMatrix, CsrPattern
from hpc_sla.precond.amg import AMG
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.cycle import Cycle, MultigridLevel
from hpc_sla.precond.amg.products import LevelOperator, Transfer, _Plain
from hpc_sla.precond.amg.smoother import Steps
from hpc_sla.precond.workspace import Workspace
from tests.precond.test_cuda_by_construction import _bare
from tests.sparse.test_cuda_by_construction import N_HALO, N_OWNED, _int, _pattern


@pytest.fixture(autouse=True)
def _fake():
    with FakeTensorMode():
        yield


def _values(*shape):
    return torch.ones(shape, dtype=torch.float32, device="cuda")


def _level(kind, last):
    """The same pattern stands for A and for P; a transfer to the next level, or a dense inverse."""
    pattern = _pattern()
    steps = _bare(Steps, inverse=_values(N_OWNED), coefficients=[(1.0, 0.0), (0.6, 0.3)])
    operator = LevelOperator(pattern, _values(289))
    operator._transposed = _values(289)  # made once, in what amounts to set-up
    level = MultigridLevel(pattern.layout, operator, steps)
    if last:
        n = pattern.layout.n_global
        level.direct = _bare(
            DenseSolve,
            _layout=pattern.layout,
            _world=pattern.layout.world,
            _rows=_values(N_OWNED, n),
            _columns=_values(N_OWNED, n),
            _buffers={},
        )
        return level
    plain = _bare(
        _Plain,
        down=CsrMatrix(CsrPattern(_int(N_OWNED + 1), _int(280), N_OWNED), _values(280)),
        down_halo=CsrMatrix(CsrPattern(_int(N_HALO + 1), _int(9), N_OWNED), _values(9)),
        up=CsrMatrix(pattern.owned, _values(280)),
        up_halo=CsrMatrix(pattern.halo, _values(9)),
        boundary=pattern.boundary,
    )
    transfer = _bare(Transfer, plan=pattern.plan, _plain=plain)
    level.correct_with(transfer, kind)
    return level


def _multigrid(kind):
    levels = [_level(kind, last) for last in (False, False, True)]
    hierarchy = type("Hierarchy", (), {"levels": levels, "dtype": torch.float32})()
    return _bare(
        AMG,
        _hierarchy=hierarchy,
        _cycle=Cycle(levels, kind),
        _transposed=Cycle(levels, kind, transpose=True),
        _scale=4.0,
        _work=Workspace(1, N_OWNED),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [(), (4,)])
@pytest.mark.parametrize("kind", ["V", "W", "K"])
def test_a_cycle_stays_on_the_device(kind, columns, dtype):
    M = _multigrid(kind)
    r = torch.ones(N_OWNED, *columns, dtype=dtype, device="cuda")
    for cycle in (M._cycle, M._transposed):
        z = M._apply(cycle, r, torch.empty_like(r))
        assert z.device.type == "cuda" and z.shape == r.shape and z.dtype == dtype


def test_one_that_looks_at_a_number_would_be_caught():
    M = _multigrid("V")
    level = M._hierarchy.levels[0]
    level.steps.coefficients[1] = (_values(1).sum(), 0.3)
    # A fake tensor's own refusal, or that of a torch without CUDA: by who asks for the number.
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense|support for cuda"):
        M._apply(M._cycle, _values(N_OWNED), _values(N_OWNED))
