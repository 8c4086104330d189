"""The cycle in one compiled call: to the bit what Python's steps give, on any mixture of ranks."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.errors import HpcSlaError
from hpc_sla.kernels import native
from hpc_sla.kernels.packed import Packed
from hpc_sla.precond.amg import amg, products
from hpc_sla.precond.amg.products import LevelOperator
from tests.collective import distribute_once, everywhere
from tests.precond.amg.systems import PARTITIONS, SPD, convection, multigrid, poisson

pytestmark = pytest.mark.mpi

MATRICES = SPD | {"unsymmetric": lambda: convection(11), "deep": lambda: poisson(24)}
OPTIONS = {
    "V": {},
    "W": {"cycle": "W"},
    "degree 1": {"degree": 1},
    "degree 3": {"degree": 3},
    "jacobi": {"smoother": "jacobi"},
    "l1_jacobi": {"smoother": "l1_jacobi", "cycle": "W"},
    "two levels": {"max_levels": 2},
    "W on a last level of one step": {
        "max_levels": 2,
        "degree": 1,
        "cycle": "W",
        "coarse_size": 20,
    },
    "one level": {"max_levels": 1, "degree": 1},
}


@pytest.fixture(autouse=True)
def _one_thread():
    if native.LIBRARY is None:
        pytest.skip("the kernels were not compiled (no C compiler at installation)")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _applied(M, r, how, monkeypatch, compiled=True):
    with monkeypatch.context() as patch:
        if not compiled:
            patch.setattr(amg, "can_compile", lambda *_: False)
        return getattr(M, how)(r, torch.full_like(r, float("nan"))).clone()


def _same(a, b):
    """To the bit, signs of zeros included."""
    return np.array_equal(a.numpy().view(np.uint8), b.numpy().view(np.uint8))


def _check(world, A, M, monkeypatch, how="apply", columns=((), (1,), (3,), (19,))):
    rng = np.random.default_rng(world.rank)
    for dtype in (torch.float64, torch.float32):
        for trailing in columns:
            r = torch.from_numpy(rng.standard_normal((A.layout.n_owned, *trailing))).to(dtype)
            served = M._whole(how != "apply", r, r) is not None
            kept = r.clone()
            ours = [_applied(M, r, how, monkeypatch) for _ in range(2)]
            theirs = _applied(M, r, how, monkeypatch, compiled=False)
            # One rank in Python, the others compiled.
            mixed = _applied(M, r, how, monkeypatch, compiled=world.rank != world.size - 1)
            same = all(_same(each, theirs) for each in (*ours, mixed)) and _same(r, kept)
            assert everywhere(world, same)
            assert served or dtype != A.dtype


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_the_cycle_to_the_bit(world, options, name, dtype, monkeypatch):
    A = distribute_once(MATRICES[name](), world)
    M = multigrid(dtype=dtype, rows_per_rank=60, **OPTIONS[options]).on(A)
    _check(world, A, M, monkeypatch)


@pytest.mark.parametrize("partition", PARTITIONS[1:])
@pytest.mark.parametrize("name", MATRICES)
def test_it_is_on_any_partition(world, name, partition, monkeypatch):
    A = distribute_once(MATRICES[name](), world, partition)
    _check(world, A, multigrid(dtype="float32", rows_per_rank=60).on(A), monkeypatch)


@pytest.mark.parametrize("spec", ["elasticity3d:n=4", "jumps2d:n=20", "unstructured3d:n=6"])
def test_it_is_with_a_near_nullspace_and_units(world, spec, monkeypatch):
    A = problems.distribute(problems.make(spec), world)
    for scaled in (False, True):
        if scaled:  # unknowns in units of their own
            units = torch.tensor([1.0, 1e3, 1e-2], dtype=A.dtype)
            rows, columns = A.pattern.local_rows(), A.pattern.stored_columns()
            factors = units[(rows + A.layout.start) % 3] * units[columns % 3]
            A = A.with_values(A.values * factors)
        M = multigrid(dtype="float32", rows_per_rank=40).on(A)
        assert (M._rows is not None) == (scaled and "elasticity" in spec)
        for how in ("apply", "apply_transpose"):
            _check(world, A, M, monkeypatch, how, ((), (5,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", ["poisson2d:n=100", "elasticity3d:n=14"])
def test_it_is_where_rows_repeat(world, spec, dtype, monkeypatch):
    """Levels whose values are held once for all rows that are alike."""
    A = problems.distribute(problems.make(spec), world)
    M = multigrid(dtype=str(dtype).removeprefix("torch."), rows_per_rank=60).on(A)
    packed = [isinstance(level.operator._owned, Packed) for level in M._hierarchy.levels]
    assert any(world.comm.allgather(packed[0]))
    for how in ("apply", "apply_transpose"):
        _check(world, A, M, monkeypatch, how, ((), (5,)))
    # Beside the same with every value held: two levels, as ties of aggregation go by rounding.
    M = multigrid(**{**M.options, "max_levels": 2}).on(A)
    r = torch.ones(A.layout.n_owned, 2, dtype=A.dtype)
    ours = _applied(M, r, "apply", monkeypatch)
    monkeypatch.setattr(products, "_FEWEST_ROWS", 1 << 40)
    theirs = _applied(multigrid(**M.options).on(A), r, "apply", monkeypatch)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    scale = world.max(float(theirs.abs().max()) if len(theirs) else 0.0)
    near = torch.allclose(ours, theirs, rtol=0, atol=tolerance * scale)
    assert everywhere(world, near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_operator_whose_rows_repeat_is_the_matrix(world, dtype):
    A = problems.distribute(problems.make("poisson2d:n=100"), world)
    values = A.values.to(dtype)
    ours = LevelOperator(A.pattern, values)
    assert any(world.comm.allgather(ours._values is None))
    assert everywhere(world, torch.equal(ours.values, values))
    for trailing in ((), (3,)):
        x = torch.rand(A.layout.n_owned, *trailing, dtype=dtype)
        out, expected = torch.empty_like(x), torch.empty_like(x)
        dot, sums = torch.empty(trailing, dtype=dtype), torch.empty(trailing, dtype=dtype)
        ours.matmul(x, out, dot)
        A.pattern.matmul(values, x, expected, sums)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=10 * tolerance)
        torch.testing.assert_close(dot, sums, rtol=100 * tolerance, atol=0)
        ours.T.matmul(x, out)
        A.pattern.rmatmul(values, x, expected)
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=10 * tolerance)


def test_a_first_use_may_differ_between_ranks(world, monkeypatch):
    """Buffers of exchanges are made in one order, whoever makes them."""
    A = distribute_once(poisson(24), world)
    r = torch.ones(A.layout.n_owned, 2, dtype=torch.float64)
    for cycle in ("V", "W"):
        M = multigrid(cycle=cycle, rows_per_rank=60).on(A)
        first = _applied(M, r, "apply", monkeypatch, compiled=world.rank % 2 == 0)
        later = [_applied(M, r, "apply", monkeypatch, compiled=c) for c in (True, False)]
        assert everywhere(world, all(_same(first, each) for each in later))


def test_other_compiled_loops_can_call_it(world, monkeypatch):
    A = distribute_once(SPD["lone rows"](), world)
    M = multigrid(dtype="float32").on(A)
    r = torch.rand(A.layout.n_owned, dtype=torch.float64)
    found, out = M.compiled(r), torch.empty_like(r)
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3)(found.function)
    code = function(found.data, r.data_ptr(), out.data_ptr())
    theirs = _applied(M, r, "apply", monkeypatch, compiled=False)
    assert everywhere(world, code == 0 and _same(out, theirs))


def test_an_update_is_noticed(world, monkeypatch):
    A = distribute_once(poisson(15), world)
    M = multigrid().on(A)
    r = torch.ones(A.layout.n_owned, dtype=torch.float64)
    before = _applied(M, r, "apply", monkeypatch)
    M.update(A.with_values(2 * A.values))
    after = _applied(M, r, "apply", monkeypatch)
    torch.testing.assert_close(2 * after, before, rtol=1e-12, atol=0)
    assert everywhere(world, _same(after, _applied(M, r, "apply", monkeypatch, compiled=False)))


def test_threads_and_other_strides_go_the_other_way(world):
    A = distribute_once(poisson(15), world)
    M = multigrid().on(A)
    r = torch.ones(2, A.layout.n_owned, dtype=torch.float64).T
    M.apply(r, torch.empty_like(r.contiguous()))
    M.apply(r.contiguous(), torch.empty_like(r))
    assert not M._compiled
    torch.set_num_threads(2)
    M.apply(r.contiguous(), torch.empty_like(r.contiguous()))
    assert bool(M._compiled) == native.serves(r.contiguous())


def test_a_closed_world_is_an_error(world):
    own = hs.World(comm=world.comm, device="cpu", transport="mpi")
    A = distribute_once(poisson(15), own)
    M = multigrid().on(A)
    r = torch.ones(A.layout.n_owned, dtype=torch.float64)
    M.apply(r, torch.empty_like(r))
    own.close()
    with pytest.raises(HpcSlaError, match="closed"):
        M.apply(r, torch.empty_like(r))


@pytest.mark.several
def test_a_leader_without_rows_goes_on(world):
    """A group of ranks may own nothing at all: its leader takes part in the dense solve."""
    owners = np.arange(900) * max(world.size // 2, 1) // 900
    A = hs.DSparseMatrix.from_scipy(poisson(30) if world.rank == 0 else None, world, owners)
    rows = hs.AMG(coarse_size=20).on(A).levels[1].rows // 2
    M = hs.AMG(coarse_size=rows, rows_per_rank=rows).on(A)
    _x, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=torch.float64), "cg", M)
    assert info.converged


def test_a_system_without_rows(world):
    A = distribute_once(sp.csr_matrix((0, 0)), world)
    M = hs.AMG().on(A)
    r = torch.empty(0, dtype=A.dtype, device=A.device)
    assert M.apply(r, torch.empty_like(r)).shape == (0,)
