"""A rank's own block by each direct backend of the registry."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import BACKENDS
from hpc_sla.direct.scipy import SuperLU
from hpc_sla.precond import make_preconditioner
from tests.collective import distribute, everywhere, on, random_matrix, spd_matrix, spread
from tests.precond.oracles import inverse_of, stored

pytestmark = pytest.mark.mpi

HERE = [b.name for b in BACKENDS.values() if "cpu" in b.devices and b.available()]
KINDS = ("block_jacobi:", "additive_schwarz:type=basic,", "additive_schwarz:")


def _unsymmetric(n):
    matrix = random_matrix(n, 0.15, 70)
    matrix.setdiag(0)
    return sp.csr_matrix(matrix + sp.diags_array(np.asarray(abs(matrix).sum(axis=1)).ravel() + 1))


@pytest.mark.parametrize("backend", ["auto", *HERE])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("make", [lambda: _unsymmetric(25), lambda: spd_matrix(2, 71, 1.0)])
def test_each_is_its_definition(world, make, dtype, kind, backend):
    A = distribute(make().astype(dtype), world)
    M = make_preconditioner(f"{kind}factor=lu,backend={backend}", A)
    assert M.name.endswith(f"factor=lu,backend={backend}")
    exact = inverse_of(M.name, stored(A), A.layout.offsets, M)
    start = A.layout.start
    mine = slice(start, start + A.layout.n_owned)
    close = {"atol": (1e-12 if dtype == np.float64 else 1e-5) * abs(exact).max()}
    for how, oracle in ((M.apply, exact), (M.apply_transpose, exact.T)):
        r = on(world, np.eye(len(exact), dtype=dtype)[mine])
        z = how(r, torch.empty_like(r))
        assert everywhere(world, z.is_contiguous() and z.dtype == r.dtype)
        whole = np.concatenate(world.comm.allgather(z.cpu().numpy()))
        np.testing.assert_allclose(whole, oracle, **close)
        one = r[:, 1].contiguous()
        z = how(one, torch.empty_like(one))
        whole = np.concatenate(world.comm.allgather(z.cpu().numpy()))
        np.testing.assert_allclose(whole, oracle[:, 1], **close)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_on_one_rank_is_the_solvers_to_tell(world, kind, backend):
    A = distribute(spd_matrix(23, 72), world)
    b = spread(A.layout, np.ones(23))
    if world.rank == world.size - 1:
        b[:1] = torch.nan
    precond = f"{kind}factor=lu,backend={backend}"
    for matrix in (A, A.T):
        M = make_preconditioner(precond, A)
        out = torch.empty_like(b)
        z = (M.apply if matrix is A else M.apply_transpose)(b, out)
        assert world.sum(int(z.isnan().sum())) > 0
    _, info = hs.solve(A, b, method="bicgstab", precond=precond)
    assert info.status == "not_finite"


def test_a_block_that_turns_out_singular_on_one_rank_stops_all(world, monkeypatch):
    """As cuSOLVER may find, or cuDSS of the transpose."""
    A = distribute(spd_matrix(23, 73), world)
    M = make_preconditioner("block_jacobi:factor=lu,backend=scipy", A)

    def fails(factorization, b, transpose):
        raise hs.SingularMatrixError("found only now")

    if world.rank == world.size - 1:
        monkeypatch.setattr(SuperLU, "_solve", fails)
    _, info = hs.solve(A, spread(A.layout, np.ones(23)), method="bicgstab", precond=M)
    assert info.status == "not_finite"


@pytest.mark.parametrize("backend", HERE)
def test_a_singular_block_of_one_rank_is_refused_by_all(world, backend):
    matrix = sp.block_diag([spd_matrix(10, 74), np.ones((2, 2))], "csr")
    A = distribute(matrix, world, "contiguous")
    with pytest.raises(hs.InputError, match=r"cannot be factorised.*Use factor=ilu0"):
        make_preconditioner(f"block_jacobi:factor=lu,backend={backend}", A)


def test_one_that_tells_only_by_its_solution_is_found_out_at_set_up(world, monkeypatch):
    def infinite(factorization, b, transpose):
        return torch.full_like(b, torch.inf)

    A = distribute(spd_matrix(23, 75), world)
    if world.rank == world.size - 1:
        monkeypatch.setattr(SuperLU, "_solve", infinite)
    with pytest.raises(hs.InputError, match=r"cannot be factorised.*not finite"):
        make_preconditioner("block_jacobi:factor=lu,backend=scipy", A)


@pytest.mark.parametrize("backend", ["cudss", "cusolver"])
def test_one_that_cannot_be_used_here_is_refused_with_the_reason(world, backend):
    if BACKENDS[backend].available():
        pytest.skip("it can")
    A = distribute(spd_matrix(23, 76), world)
    with pytest.raises(hs.InputError, match=f"{backend} cannot be used here.*backends"):
        make_preconditioner(f"block_jacobi:factor=lu,backend={backend}", A)
