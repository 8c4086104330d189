"""The comparison accepts what is right, and catches an operator with one thing wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.problems import make
from hpc_sla.reference import choose, make_reference, petsc
from hpc_sla.reference.base import Reference
from hpc_sla.reference.compare import compare_products, compare_solutions
from hpc_sla.reference.scipy import MAX_ROWS
from tests.collective import MATRICES, PARTITIONS, distribute

REFERENCES = [
    "scipy",
    pytest.param(
        "petsc",
        marks=pytest.mark.skipif(not petsc.available(), reason="petsc4py is not installed"),
    ),
]
RTOL = 1e-8


@pytest.fixture(params=REFERENCES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def failed(checks: list) -> list[str]:
    """The same on every rank: each check's figures are reduced over all ranks."""
    return [check.name for check in checks if not check.ok]


def poisson(world: hs.World, spec: str = "poisson2d:n=12") -> hs.DSparseMatrix:
    return distribute(make(spec).matrix(), world)


def changed(A: hs.DSparseMatrix, rank: int, factor: float) -> hs.DSparseMatrix:
    """A with the first entry of one rank multiplied by `factor`."""
    values = A.values.clone()
    if A.world.rank == rank:
        values[0] *= factor
    return A.with_values(values)


@pytest.mark.mpi
@pytest.mark.parametrize("pattern", MATRICES)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_right_products_pass(world: hs.World, name: str, pattern: str, partition: str) -> None:
    A = distribute(MATRICES[pattern](), world, partition)
    reference = make_reference(name, A)
    checks = compare_products(A, reference)
    reference.close()
    assert [check.name for check in checks] == ["A x", "A^T x"]
    assert failed(checks) == []


@pytest.mark.mpi
def test_single_precision_passes(world: hs.World, name: str) -> None:
    A = distribute(make("convection2d:n=9").matrix().astype(np.float32), world)
    reference = make_reference(name, A)
    assert failed(compare_products(A, reference)) == []
    reference.close()


@pytest.mark.mpi
def test_one_wrong_entry_on_the_last_rank(world: hs.World, name: str) -> None:
    A = poisson(world)
    reference = make_reference(name, A)
    wrong = changed(A, world.size - 1, 1 + 1e-12)
    assert failed(compare_products(wrong, reference)) == ["A x", "A^T x"]
    reference.close()


@pytest.mark.mpi
def test_a_wrong_entry_that_is_tiny_beside_the_others(world: hs.World, name: str) -> None:
    A = distribute(MATRICES["spd"](), world)  # rows differ in scale by up to 10^8
    reference = make_reference(name, A)
    for rank in range(world.size):
        assert "A x" in failed(compare_products(changed(A, rank, 1 + 1e-10), reference))
    reference.close()


@pytest.mark.mpi
def test_a_transpose_that_is_not_one(world: hs.World, name: str) -> None:
    A = poisson(world, "convection2d:n=9")
    pattern = A.pattern
    pattern.rmatmul = pattern.matmul  # type: ignore[method-assign]
    reference = make_reference(name, A)
    assert failed(compare_products(A, reference)) == ["A^T x"]
    reference.close()


@pytest.mark.mpi
@pytest.mark.several
def test_a_halo_that_is_late(world: hs.World, name: str) -> None:
    """Every halo value of the previous product instead of this one's."""
    if world.size == 1:
        pytest.skip("one rank has no halo")
    A = poisson(world)

    def stale(x: torch.Tensor) -> torch.Tensor:
        halo = A.pattern.halo
        late = torch.zeros(halo.n_columns, dtype=x.dtype, device=x.device)
        out, part = torch.empty_like(x), x.new_empty(halo.n_rows)
        A.pattern.owned.matmul(A.values[: A.pattern.owned.nnz], x, out)
        if halo.nnz:
            halo.matmul(A.values[A.pattern.owned.nnz :], late, part)
            out.index_add_(0, A.pattern.boundary, part)
        return out

    reference = make_reference(name, A)
    wrong = type("Wrong", (), {"__matmul__": lambda self, x: stale(x)})()
    wrong.layout, wrong.dtype, wrong.device, wrong.T = A.layout, A.dtype, A.device, A.T
    assert failed(compare_products(wrong, reference)) == ["A x"]
    reference.close()


@pytest.mark.mpi
def test_a_wrong_permutation_shows_against_scipy(world: hs.World) -> None:
    A = distribute(MATRICES["random"](), world)
    reference = make_reference("scipy", A)
    layout = hs.RowLayout(world, A.layout.offsets, np.roll(A.layout.rows, 1))
    reference._layout = layout  # type: ignore[attr-defined]
    assert "A x" in failed(compare_products(A, reference))
    reference.close()


def solved(world: hs.World, name: str) -> tuple[hs.DSparseMatrix, torch.Tensor, Reference, tuple]:
    A = poisson(world, "poisson2d:n=20")
    b = torch.ones(A.layout.n_owned, dtype=A.dtype, device=A.device)
    reference = make_reference(name, A)
    theirs = reference.solve(b.cpu().numpy(), "cg", "jacobi", RTOL, 0.0, 1000)
    x, info = hs.solve(A, b, "cg", "jacobi", rtol=RTOL)
    return A, b, reference, (x, info.iterations, theirs)


@pytest.mark.mpi
def test_right_solutions_pass(world: hs.World, name: str) -> None:
    A, b, reference, (x, iterations, theirs) = solved(world, name)
    checks = compare_solutions(A, b, x, iterations, reference, theirs, RTOL, 0.0)
    reference.close()
    expected = ["residual", "solution"] + (["iterations"] if name == "petsc" else [])
    assert [check.name for check in checks] == expected
    assert failed(checks) == []
    # What "how far may a residual move the solution" rests on: the smallest eigenvalue is known.
    smallest = 8 * np.sin(np.pi / 2 / 21) ** 2
    assert theirs.inverse_norm == pytest.approx(1 / smallest, rel=0.1)


@pytest.mark.mpi
def test_wrong_solutions_and_counts_are_caught(world: hs.World, name: str) -> None:
    A, b, reference, (x, iterations, theirs) = solved(world, name)
    near = x * (1 + 1e-5)
    checks = compare_solutions(A, b, near, 2 * iterations, reference, theirs, RTOL, 0.0)
    reference.close()
    expected = ["residual", "solution"] + (["iterations"] if name == "petsc" else [])
    assert failed(checks) == expected


@pytest.mark.mpi
def test_nan_is_never_ok(world: hs.World, name: str) -> None:
    A, b, reference, (x, iterations, theirs) = solved(world, name)
    if world.rank == world.size - 1:
        x[-1] = torch.nan
    checks = compare_solutions(A, b, x, iterations, reference, theirs, RTOL, 0.0)
    reference.close()
    assert {"residual", "solution"} <= set(failed(checks))


@pytest.mark.mpi
def test_a_singular_matrix_is_an_error_on_every_rank(world: hs.World) -> None:
    A = distribute(MATRICES["no entries"](), world)
    reference = make_reference("scipy", A)
    with pytest.raises(hs.HpcSlaError, match="SciPy cannot factor"):
        reference.solve(np.ones(A.layout.n_owned), "cg", "jacobi", RTOL, 0.0, 10)


def test_too_many_rows_for_scipy() -> None:
    with pytest.raises(hs.InputError, match="too many for a direct solve"):
        choose("scipy", MAX_ROWS + 1)


def test_the_default_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reference", "distributed"):
        monkeypatch.setattr(f"hpc_sla.{module}.petsc.available", lambda: False)
    assert choose(None, 10) == "scipy"
    with pytest.raises(hs.InputError, match="not installed"):
        choose(None, MAX_ROWS + 1)
    with pytest.raises(hs.InputError, match=r"scripts/setup\.sh --test"):
        choose("petsc", 10)
