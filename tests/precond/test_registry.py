"""Preconditioners by name, by option and by object, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.precond import CHOICES, Identity, Polynomial, Preconditioner, make_preconditioner
from tests.collective import distribute, everywhere, spd_matrix, spread
from tests.methods import GENERAL

pytestmark = pytest.mark.mpi

CONSTRUCTED = [name for name in GENERAL if name != "none"]


@pytest.fixture
def A(world):
    return distribute(spd_matrix(23, 40), world)


def test_options_are_parsed_to_the_types_of_their_defaults():
    spec = "additive_schwarz:overlap=2, type=basic"
    made = CHOICES.make(spec)
    assert (made.name, made.overlap, made.type) == ("additive_schwarz", 2, "basic")
    ratio = CHOICES.make("chebyshev:eigenvalue_ratio=20").eigenvalue_ratio
    assert ratio == 20 and type(ratio) is float
    assert CHOICES.make("none").options == CHOICES.make("jacobi:").options == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("magic", "unknown preconditioner 'magic'.*none, jacobi, .*additive_schwarz"),
        ("", "unknown preconditioner ''"),
        (3, "unknown preconditioner 3"),
        ("jacobi:degree=2", "not an option of jacobi.*defaults: none"),
        ("chebyshev:order=2", "'order=2' is not an option.*degree=4, eigenvalue_ratio=30"),
        ("chebyshev:degree", "'degree' is not an option"),
        ("chebyshev:degree=2,degree=3", "given twice"),
        ("chebyshev:degree=2.5", "chebyshev:degree: '2.5' is not a whole number"),
        ("chebyshev:eigenvalue_ratio=big", "not a number"),
        ("chebyshev:degree=0", "chebyshev:degree: 0 is below 1"),
        ("chebyshev:eigenvalue_ratio=1", "above 1"),
        ("chebyshev:eigenvalue_ratio=nan", "above 1"),
        ("polynomial:degree=-1", "negative"),
        ("block_jacobi:factor=qr", "unknown factor 'qr'.*ilu0, ic0, lu"),
        ("additive_schwarz:factor=qr", "unknown factor 'qr'.*ilu0, ic0, lu"),
        ("block_jacobi:factor=lu,backend=magic", "unknown backend 'magic'.*auto, scipy, eigen"),
        ("additive_schwarz:backend=scipy", "factor=ilu0 has no backends.*factor=lu"),
        ("additive_schwarz:overlap=-1", "negative"),
        ("additive_schwarz:type=none", "unknown type 'none'.*restrict, basic"),
    ],
)
def test_what_is_not_known_is_refused_and_the_known_named(A, spec, message):
    with pytest.raises(hs.InputError, match=message):
        make_preconditioner(spec, A)


def test_one_that_only_one_rank_gets_wrong_is_refused_by_all(A):
    other = Polynomial().on(A)
    if A.world.rank == A.world.size - 1:
        other._fits = (A.layout.n_owned + 1, A.dtype, A.device)
    with pytest.raises(hs.InputError, match="does not go with"):
        make_preconditioner(other, A)


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_one_of_another_matrix_is_refused(A, name):
    world = A.world
    for other in (
        distribute(spd_matrix(29, 41), world),
        distribute(spd_matrix(23, 40).astype(np.float32), world),
    ):
        M = CHOICES.make(name).on(other)
        with pytest.raises(hs.InputError, match=f"{name}.* does not go with"):
            hs.solve(A, spread(A.layout, np.ones(23)), precond=M)


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_set_up_once_it_serves_many_solves(A, name):
    M = CHOICES.make(name).on(A)
    assert make_preconditioner(M, A) is M and M.name.startswith(name)
    by_name = make_preconditioner(name, A)
    assert type(by_name) is type(M) and by_name.name == M.name
    for seed in range(2):
        r = spread(A.layout, np.random.default_rng(seed).standard_normal(23))
        z, again = M.apply(r, torch.empty_like(r)), by_name.apply(r, torch.empty_like(r))
        assert everywhere(A.world, torch.equal(z, again))


def test_values_that_want_a_gradient_are_no_obstacle(A):
    wanting = A.with_values(A.values.clone().requires_grad_())
    r = spread(A.layout, np.ones(23))
    for name in CONSTRUCTED:
        z = CHOICES.make(name).on(wanting).apply(r, torch.empty_like(r))
        assert everywhere(A.world, not z.requires_grad), name


class _Own(Preconditioner):
    name, symmetric = "own", True

    def apply(self, r, out):
        return r

    apply_transpose = apply


def test_what_says_nothing_of_its_matrix_goes_with_any(A):
    for precond in (_Own(), Identity()):
        assert make_preconditioner(precond, A) is precond
    assert make_preconditioner(None, A).name == "none"


@pytest.mark.parametrize("name", GENERAL)
def test_a_nan_in_the_matrix_is_the_solvers_to_tell(A, name):
    values = A.values.clone()
    values[:1] = float("nan")
    b = spread(A.layout, np.ones(23))
    _, info = hs.solve(A.with_values(values), b, method="bicgstab", precond=name)
    assert info.status == "not_finite"


@pytest.mark.parametrize("precond", ["block_jacobi:factor=lu", "additive_schwarz:factor=lu"])
def test_a_singular_block_is_refused_by_all_ranks(world, precond):
    matrix = spd_matrix(4, 42, density=1.0).toarray()
    matrix[2:, 2:] = [[1.0, 1.0], [1.0, 1.0]]
    matrix[:2, 2:] = matrix[2:, :2] = 0
    A = distribute(sp.csr_matrix(matrix), world, "all on the last")
    with pytest.raises(hs.InputError, match="cannot be factorised"):
        make_preconditioner(precond, A)
    M = make_preconditioner(precond.replace("lu", "ilu0"), A)
    assert M.shift == 1e-3


def test_symmetry_is_what_all_ranks_say(world):
    """Only the last rank's block is not symmetric."""
    matrix = sp.lil_matrix(spd_matrix(16, 43))
    matrix[15, 14] = matrix[15, 14] + 1.0
    A = distribute(sp.csr_matrix(matrix), world, "contiguous")
    for name in ("block_jacobi", "block_jacobi:factor=lu", "additive_schwarz:type=basic"):
        assert not make_preconditioner(name, A).symmetric
    assert make_preconditioner("block_jacobi:factor=ic0", A).symmetric
