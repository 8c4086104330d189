"""Beside PETSc's SNES on the same grid, and SciPy's newton_krylov."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from tests.collective import full

N = 24
LAMBDA = 6.0


def _snes():
    """Bratu on all ranks by SNES newtonls with an analytic Jacobian and its forcing terms."""
    PETSc = pytest.importorskip("petsc4py.PETSc")
    a = problems.make(f"poisson2d:n={N}").matrix()
    h2 = 1.0 / (N + 1) ** 2
    J = PETSc.Mat().createAIJ([N * N, N * N], nnz=5)
    first, last = J.getOwnershipRange()
    rows = a[first:last].tocsr()
    diagonal = np.full(last - first, 4.0)
    A = PETSc.Mat().createAIJ(
        [(last - first, N * N), (last - first, N * N)],
        csr=(rows.indptr.astype(PETSc.IntType), rows.indices.astype(PETSc.IntType), rows.data),
    )
    J = A.duplicate(copy=True)

    def function(snes, x, f):
        A.mult(x, f)
        f.array[:] -= h2 * LAMBDA * np.exp(x.array_r)

    def jacobian(snes, x, J, P):
        d = P.getDiagonal()
        d.array[:] = diagonal - h2 * LAMBDA * np.exp(x.array_r)
        P.setDiagonal(d)
        P.assemble()

    snes = PETSc.SNES().create()
    x, f = A.createVecs()
    snes.setFunction(function, f)
    snes.setJacobian(jacobian, J)
    snes.setTolerances(rtol=1e-10, atol=1e-50, stol=0.0, max_it=30)
    snes.ksp.setType("cg")
    snes.ksp.setTolerances(rtol=1e-5)
    snes.ksp.pc.setType("jacobi")
    snes.solve(None, x)
    assert snes.getConvergedReason() > 0
    whole = np.concatenate(A.getComm().tompi4py().allgather(x.array_r.copy()))
    return whole, snes.getIterationNumber()


@pytest.mark.mpi
def test_bratu_beside_snes(world):
    expected, iterations = _snes()
    system = problems.make_nonlinear(f"bratu2d:n={N},lambda={LAMBDA}").on(world)
    for jacobian in (system.jacobian, "coloured", "matrix_free"):
        u, info = hs.nonlinear_solve(
            system.residual,
            system.u0,
            *system.theta,
            pattern=system.A,
            jacobian=jacobian,
            linear_method="cg",
            forcing=1e-5,
            rtol=1e-10,
        )
        assert info.converged and abs(info.iterations - iterations) <= 1
        assert np.abs(full(system.layout, u) - expected).max() < 1e-8


@pytest.mark.parametrize("spec", ["plaplacian2d:n=10,p=4", "diffusion2d:n=10", "reaction2d:n=6"])
def test_beside_scipy(spec):
    optimize = pytest.importorskip("scipy.optimize")
    world = hs.World.serial("cpu")
    system = problems.make_nonlinear(spec).on(world)

    def function(u):
        return system.residual(torch.from_numpy(u), *system.theta).numpy()

    expected = optimize.newton_krylov(function, system.u0.numpy().copy(), f_tol=1e-11, maxiter=200)
    u, info = hs.nonlinear_solve(
        system.residual,
        system.u0,
        *system.theta,
        pattern=system.A,
        precond="block_jacobi",
        rtol=1e-11,
    )
    assert info.converged and np.abs(u.numpy() - expected).max() < 1e-8
