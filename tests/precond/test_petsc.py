"""Block Jacobi and additive Schwarz beside PETSc's, on the same ranks and rows.

Agreement is to rounding: the same blocks, in the same order, by the same factorisation.
"""

from __future__ import annotations

import numpy as np
import pytest

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from hpc_sla.reference import petsc as reference
from tests.collective import distribute_once, on, random_matrix, spd_matrix
from tests.precond.test_spectrum import _poisson

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not reference.available(), reason="PETSc is not installed"),
]


def _unsymmetric():
    matrix = random_matrix(60, 0.08, 60)
    matrix.setdiag(6.0)
    return matrix.tocsr()


MATRICES = {
    "poisson": lambda: _poisson(12),
    "scaled": lambda: spd_matrix(61, 61, density=0.05),
    "unsymmetric": _unsymmetric,
}
# Our name; PETSc's options.
PAIRS = [
    ("jacobi", {"pc_type": "jacobi"}),
    ("block_jacobi", {"pc_type": "bjacobi"}),  # whose own default is ILU(0)
    ("block_jacobi:factor=lu", {"pc_type": "bjacobi", "sub_pc_type": "lu"}),
    ("block_jacobi:factor=ic0", {"pc_type": "bjacobi", "sub_pc_type": "icc"}),
    ("additive_schwarz", {"pc_type": "asm"}),  # overlap 1, restricted, ILU(0) by default
    (
        "additive_schwarz:overlap=2,type=basic,factor=lu",
        {
            "pc_type": "asm",
            "pc_asm_overlap": "2",
            "pc_asm_type": "basic",
            "sub_pc_type": "lu",
        },
    ),
    (
        "additive_schwarz:overlap=3,factor=ilu0",
        {"pc_type": "asm", "pc_asm_overlap": "3"},
    ),
    (
        "additive_schwarz:type=basic,factor=ic0",
        {"pc_type": "asm", "pc_asm_type": "basic", "sub_pc_type": "icc"},
    ),
]


class _Theirs:
    """A KSP and PC on the rows of A, of the given options."""

    def __init__(self, A: hs.DSparseMatrix, options: dict[str, str]) -> None:
        self.matrix = reference.PetscMatrix.from_matrix(A)
        PETSc = self.matrix.petsc
        self.ksp = PETSc.KSP().create(A.world.comm)
        self.ksp.setOperators(self.matrix.mat)
        prefix = "hpc_sla_test_"
        for key, value in options.items():
            PETSc.Options().setValue(prefix + key, value)
        self.ksp.setOptionsPrefix(prefix)
        self.ksp.setFromOptions()
        self.ksp.setUp()
        for key in options:
            PETSc.Options().delValue(prefix + key)

    def apply(self, r: np.ndarray, transpose: bool = False) -> np.ndarray:
        source, result = self.matrix.vector(r), self.matrix.mat.createVecLeft()
        pc = self.ksp.getPC()
        (pc.applyTranspose if transpose else pc.apply)(source, result)
        return self.matrix._taken(source, result)

    def iterations(self, b: np.ndarray, rtol: float) -> int:
        PETSc = self.matrix.petsc
        self.ksp.setType(PETSc.KSP.Type.CG)
        self.ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        self.ksp.setTolerances(rtol=rtol, atol=0.0, max_it=1000)
        source, result = self.matrix.vector(b), self.matrix.mat.createVecLeft()
        self.ksp.solve(source, result)
        assert self.ksp.getConvergedReason() > 0
        return int(self.ksp.getIterationNumber())


@pytest.mark.parametrize(("spec", "options"), PAIRS, ids=[spec for spec, _ in PAIRS])
@pytest.mark.parametrize("partition", ["metis", "contiguous"])
@pytest.mark.parametrize("name", MATRICES)
def test_applies_as_petsc_does(world, name, partition, spec, options):
    if name == "unsymmetric" and "ic0" in spec:
        pytest.skip("no Cholesky factor")
    A = distribute_once(MATRICES[name](), world, partition)
    M = make_preconditioner(spec, A)
    theirs = _Theirs(A, options)
    r = np.random.default_rng([62, world.rank]).standard_normal(A.layout.n_owned)
    mine = on(world, r)
    for transpose in (False, True):
        how = M.apply_transpose if transpose else M.apply
        ours = how(mine, mine.new_empty(mine.shape)).cpu().numpy()
        exact = theirs.apply(r, transpose)
        worst = world.max(abs(ours - exact).max(initial=0) / abs(exact).max(initial=1e-300))
        assert worst < 1e-10, f"transpose={transpose}"


@pytest.mark.parametrize("spec", ["block_jacobi", "block_jacobi:factor=ic0"])
def test_cg_takes_as_many_iterations_as_petsc(world, spec):
    A = distribute_once(_poisson(40), world)
    b = np.random.default_rng([63, world.rank]).standard_normal(A.layout.n_owned)
    _, info = hs.solve(A, on(world, b), "cg", spec)
    theirs = _Theirs(A, dict(PAIRS)[spec]).iterations(b, 1e-8)
    assert info.converged and abs(info.iterations - theirs) <= 1
