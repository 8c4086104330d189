"""No preconditioner in torch waits for the device or mixes devices when it is applied.

On fake CUDA tensors, as in tests/sparse/test_cuda_by_construction.py.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hpc_sla.direct.triangular import TriangularLU
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.incomplete import TriangularFactor
from hpc_sla.kernels.levels import LevelSchedule, RowLevel
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.precond import AdditiveSchwarz, BlockJacobi, Chebyshev, Jacobi, Polynomial, Schur
from hpc_sla.precond.complement import Deflated, LeastSquaresCommutator
from hpc_sla.precond.local_solve import DirectFactor
from hpc_sla.precond.saddle import SaddlePoint
from hpc_sla.precond.workspace import Workspace
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.submatrix import Part
from hpc_sla.sparse.values import Values
from tests.methods import ENTRIES
from tests.sparse.test_cuda_by_construction import (
    N_HALO,
    N_OWNED,
    ON_DEVICE,
    _int,
    _Operator,
    _pattern,
    _vector,
)


@pytest.fixture(autouse=True)
def _fake():
    with FakeTensorMode():
        yield


def _bare(kind, **attributes):
    """One without its set-up, which is not what is tested and needs data."""
    made = kind.__new__(kind)
    vars(made).update(attributes)
    return made


def _values(n):
    return torch.ones(n, dtype=torch.float64, device="cuda")


def _schedule(n):
    levels = [
        RowLevel(10 * i, 10, CsrPattern(_int(11), _int(15), n), _values(15)) for i in range(1, 4)
    ]
    return _bare(LevelSchedule, order=_int(n), position=_int(n), levels=levels, _buffers={})


def _factor(n, symmetric=False):
    schedules = {transpose: (_schedule(n), _schedule(n)) for transpose in (False, True)}
    return _bare(TriangularFactor, symmetric=symmetric, inverse=_values(n), _schedules=schedules)


def _polynomial(kind, **more):
    return _bare(
        kind,
        _pattern=_pattern(),
        _values=_values(289),
        _work=Workspace(3 if kind is Chebyshev else 1, N_OWNED),
        **more,
    )


def _schwarz(restrict):
    extended = N_OWNED + N_HALO
    return _bare(
        AdditiveSchwarz,
        _plan=_pattern().plan,
        _n=N_OWNED,
        _extra=N_HALO,
        _below=3,
        _overlaps=True,
        _restrict=restrict,
        _factor=_factor(extended),
        _work=Workspace(2, extended),
    )


def _schur(form):
    """Blocks that have the shape of the whole, which nothing of it minds."""
    block = _bare(DSparseMatrix, pattern=_pattern(), held=Values(_values(289)))
    part = _bare(Part, index=_int(N_OWNED), layout=_pattern().layout)
    saddle = _bare(
        SaddlePoint, first=part, second=part, A=block, B=block, C=block, corner=block, sign=-1.0
    )
    jacobi = Jacobi.of(_vector())
    commutator = LeastSquaresCommutator(saddle, _vector(), jacobi)
    return _bare(
        Schur,
        form=form,
        _saddle=saddle,
        _inner=jacobi,
        _second=Deflated(commutator, part.layout, 2.0),
        _factor=0.5,
        _long=Workspace(2, N_OWNED),
        _short=Workspace(2, N_OWNED),
    )


def _lu():
    long = torch.zeros(N_OWNED, dtype=torch.int64, device="cuda")
    made = _bare(
        TriangularLU,
        n=N_OWNED,
        dtype=torch.float64,
        device=long.device,
        _factor=_factor(N_OWNED),
        _rows=long,
        _columns=long,
        _scales=(_vector(1), None),
    )
    return DirectFactor(made)


MAKE = {
    "jacobi": lambda: Jacobi.of(_vector()),
    "chebyshev": lambda: _polynomial(
        Chebyshev, _inverse=_vector(), largest=2.0, smallest=0.1, degree=4
    ),
    "polynomial": lambda: _polynomial(Polynomial, _weighted=_vector(), degree=3),
    "block_jacobi ilu0": lambda: _bare(BlockJacobi, _factor=_factor(N_OWNED)),
    "block_jacobi ic0": lambda: _bare(BlockJacobi, _factor=_factor(N_OWNED, True)),
    "block_jacobi lu": lambda: _bare(BlockJacobi, _factor=_lu()),
    "additive_schwarz restrict": lambda: _schwarz(True),
    "additive_schwarz basic": lambda: _schwarz(False),
    "schur lower": lambda: _schur("lower"),
    "schur diagonal": lambda: _schur("diagonal"),
}


@pytest.mark.parametrize("columns", [(), (4,)])
@pytest.mark.parametrize("name", MAKE)
def test_applying_stays_on_the_device(name, columns):
    M, r, out = MAKE[name](), _vector(*columns), _vector(*columns)
    for apply in (M.apply, M.apply_transpose):
        z = apply(r, out)
        assert z.device.type == "cuda" and z.shape == r.shape and z.dtype == r.dtype


@pytest.mark.parametrize("name", ["chebyshev", "block_jacobi lu", "additive_schwarz basic"])
@pytest.mark.parametrize("method", ON_DEVICE)
def test_steps_that_stay_on_the_device_take_any(method, name):
    pytest.importorskip("triton")
    r, operator = _vector(), _Operator(_pattern(), _values(289))
    scalars = scalars_for(operator.world, r)
    b, x = _vector(), _vector()
    state = ENTRIES[method].on(System(operator, MAKE[name](), b, x, r, [1e-8], scalars))
    assert state.on_device
    state.start(torch.ones((), dtype=torch.bool, device="cuda"))
    for _ in range(3):
        state.step()
    assert state.live.device.type == "cuda" and not any(v.dim() for v in state.resting())


def test_one_that_looks_at_a_number_would_be_caught():
    M = MAKE["chebyshev"]()
    M.largest = _values(1).sum()
    with pytest.raises(DataDependentOutputException):
        M.apply(_vector(), _vector())
