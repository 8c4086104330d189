"""`verify` and `bench`, on two ranks."""

from __future__ import annotations

import pytest

from hpc_sla.cli.prepare import MANUFACTURED, load_source, write_partitioned
from hpc_sla.reference import petsc
from tests.cli.cases import CG, Outcome, run_cases

RANKS = 2
AUTO = ["--method", "auto", "--precond"]
needs_petsc = pytest.mark.skipif(not petsc.available(), reason="petsc4py is not installed")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("verify")
    for name, spec in (
        ("poisson", "poisson2d:n=24"),
        ("aniso", "anisotropic2d:n=24,epsilon=0.01,angle=0.5"),
        ("convection", "convection2d:n=16"),
    ):
        source = load_source(spec, (MANUFACTURED,))
        write_partitioned(source, folder / f"{name}.h5", 3, "metis")
    cases = {
        "scipy": ["verify", "poisson.h5", "--against", "scipy", "--json"],
        "scipy table": ["verify", "aniso.h5", "--against", "scipy"],
        "default without PETSc": ["verify", "poisson.h5", "--json"],
        "asked without PETSc": ["verify", "poisson.h5", "--against", "petsc"],
        "bench without PETSc": ["bench", "poisson.h5"],
        "not symmetric": ["verify", "convection.h5", "--against", "scipy", *CG, "--json"],
        "bench of nothing": ["bench", "poison2d:n=8"],
        "scipy generator": ["verify", "jumps2d:n=20", "--against", "scipy", "--json"],
        "memory": ["bench", "poisson2d:n=40", "--memory", *CG, "--json"],
        "memory table": ["bench", "aniso.h5", "--memory", "--method", "cg", "--precond", "amg"],
        "memory of no rhs": ["bench", "poisson2d:n=9", "--memory", "--rhs", "twos"],
    }
    hidden = {name: ["petsc4py"] for name in cases if name.endswith("without PETSc")}
    if petsc.available():
        cases |= {
            "petsc": ["verify", "poisson.h5", *CG, "--json"],
            "petsc aniso": ["verify", "aniso.h5", "--against", "petsc", *CG, "--json"],
            "petsc no precond": ["verify", "aniso.h5", *CG[:-1], "none", "--json"],
            "petsc by itself": ["verify", "poisson.h5", *AUTO, "chebyshev", "--json"],
            "petsc in vain": [
                *("verify", "poisson.h5", *AUTO, "chebyshev:degree=20"),
                *("--max-iterations", "12", "--json"),
            ],
            "bench": ["bench", "poisson2d:n=40", *CG, "--repeats", "2", "--json"],
            "bench blocks": ["bench", "elasticity3d:n=5", *CG, "--repeats", "1", "--json"],
            "bench file": ["bench", "aniso.h5", "--repeats", "1"],
            "bench limit": ["bench", "aniso.h5", *CG, "--max-iterations", "5", "--json"],
            "bench auto": ["bench", "convection.h5", *AUTO, "jacobi", "--repeats", "1", "--json"],
            "bench other": ["bench", "aniso.h5", *AUTO, "chebyshev", "--repeats", "1"],
        }
    return run_cases(RANKS, cases, folder, hidden=hidden)


@pytest.mark.parametrize(
    ("case", "against", "names"),
    [
        ("scipy", "SciPy", ["A x", "A^T x", "residual", "solution"]),
        ("scipy generator", "SciPy", ["A x", "A^T x", "residual", "solution"]),
        ("default without PETSc", "SciPy", ["A x", "A^T x", "residual", "solution"]),
        *(
            pytest.param(
                case,
                "PETSc",
                ["A x", "A^T x", "residual", "solution", "iterations"],
                marks=needs_petsc,
            )
            for case in ("petsc", "petsc aniso", "petsc no precond")
        ),
    ],
)
def test_agreement(outcomes: dict[str, Outcome], case: str, against: str, names: list[str]) -> None:
    outcome = outcomes[case]
    assert outcome.codes == [0] * RANKS, outcome
    told = outcome.json
    assert (told["status"], told["against"], told["ranks"]) == ("ok", against, RANKS)
    assert [check["name"] for check in told["checks"]] == names
    assert all(check["ok"] for check in told["checks"])


@needs_petsc
def test_petsc_runs_its_own_where_it_has_none_like_ours(outcomes: dict[str, Outcome]) -> None:
    """What was chosen and not asked for is no question of iterations, nor of PETSc's success."""
    for case in ("petsc by itself", "petsc in vain"):
        assert outcomes[case].codes == [0] * RANKS, outcomes[case]
        checks = outcomes[case].json["checks"]
        assert [check["name"] for check in checks] == ["A x", "A^T x", "residual", "solution"]
        vain = "gmres + block_jacobi ended DIVERGED" in checks[-1]["note"]
        assert vain == (case == "petsc in vain")


def test_the_table(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["scipy table"]
    assert outcome.codes == [0] * RANKS
    for word in ("difference", "tolerance", "A^T x", "ok", "against SciPy"):
        assert word in outcome.stdout


@pytest.mark.parametrize("case", ["asked without PETSc", "bench without PETSc"])
def test_how_to_get_petsc(outcomes: dict[str, Outcome], case: str) -> None:
    outcome = outcomes[case]
    assert outcome.codes == [2] * RANKS
    assert len(outcome.stderr.splitlines()) == 1
    assert "scripts/setup.sh --test" in outcome.stderr
    assert "hpc_sla[petsc]" in outcome.stderr


def test_products_agree_where_cg_does_not_converge(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["not symmetric"]
    told = outcome.json
    assert all(check["ok"] for check in told["checks"])
    if told["status"] != "ok":
        assert outcome.codes == [3] * RANKS
        assert [check["name"] for check in told["checks"]] == ["A x", "A^T x"]


@needs_petsc
def test_both_race_on_the_rows_that_ranks_make(outcomes: dict[str, Outcome]) -> None:
    """Nodes of three unknowns stay on one rank, and both take as many iterations."""
    outcome = outcomes["bench blocks"]
    assert outcome.codes == [0] * RANKS, outcome
    told = outcome.json
    assert (told["status"], told["rows"]) == ("converged", 540)
    assert abs(told["ours"]["iterations"] - told["petsc"]["iterations"]) <= 1


def test_a_misspelt_generator(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["bench of nothing"]
    assert outcome.codes == [2] * RANKS
    assert len(outcome.stderr.splitlines()) == 1


def test_memory(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["memory"].codes == [0] * RANKS, outcomes["memory"]
    told = outcomes["memory"].json
    assert (told["status"], told["rows"], told["ranks"]) == ("converged", 1600, RANKS)
    assert told["bytes_per_row"]["solution"] == 8
    assert told["bytes_moved_per_iteration"] > 0 and told["triad_bytes_per_second"] > 0
    assert outcomes["memory table"].codes == [0] * RANKS, outcomes["memory table"]
    for word in ("right-hand side", "multigrid, level 0", "all that is held", "triad", "achieved"):
        assert word in outcomes["memory table"].stdout
    assert outcomes["memory of no rhs"].codes == [2] * RANKS
    assert "twos" in outcomes["memory of no rhs"].stderr


@needs_petsc
def test_bench(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["bench"].codes == [0] * RANKS, outcomes["bench"]
    told = outcomes["bench"].json
    assert (told["rows"], told["ranks"], told["rtol"]) == (1600, RANKS, 1e-8)
    assert told["time_per_iteration_ratio"] > 0
    assert told["total_time_ratio"] > 0
    if told["peak_memory_ratio"] is None:
        assert told["peak_memory_reason"]
    else:
        assert told["peak_memory_ratio"] > 0
        assert told["ours"]["bytes_per_row"] > 0
    ours, theirs = told["ours"], told["petsc"]
    assert abs(ours["iterations"] - theirs["iterations"]) <= max(1, 0.01 * theirs["iterations"])
    assert len(ours["laps_solve"]) == len(theirs["laps_solve"]) == 2


@needs_petsc
def test_bench_table_and_limit(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["bench file"].codes == [0] * RANKS, outcomes["bench file"]
    for word in ("time per iteration", "peak memory", "ratio", "PETSc"):
        assert word in outcomes["bench file"].stdout
    assert outcomes["bench limit"].codes == [0] * RANKS
    assert outcomes["bench limit"].json["ours"]["iterations"] == 5


@needs_petsc
def test_bench_of_what_is_left_open(outcomes: dict[str, Outcome]) -> None:
    """PETSc runs what ours has chosen, or its own where it has none like it."""
    assert outcomes["bench auto"].codes == [0] * RANKS, outcomes["bench auto"]
    told = outcomes["bench auto"].json
    assert (told["method"], told["precond"]) == ("bicgstab", "jacobi")
    assert (told["petsc_method"], told["petsc_precond"]) == ("bicgstab", "jacobi")
    assert outcomes["bench other"].codes == [0] * RANKS, outcomes["bench other"]
    title = outcomes["bench other"].stdout.splitlines()[0]
    assert "cg + chebyshev" in title and "beside PETSc's gmres + block_jacobi" in title


def test_whole_solves_are_compared_where_both_did_the_same() -> None:
    """One that gave up in half the time is not twice as fast."""
    from hpc_sla.cli.run.bench import _comparable

    def solved(converged: bool, iterations: int) -> dict[str, bool | int]:
        return {"converged": converged, "iterations": iterations}

    assert _comparable(solved(True, 9), solved(True, 17))
    assert _comparable(solved(False, 100), solved(False, 100))  # --max-iterations 100
    assert not _comparable(solved(True, 100), solved(False, 200))
    assert not _comparable(solved(False, 50), solved(True, 100))
