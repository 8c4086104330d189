"""Whatever is wrong: one message, exit code 2 on every rank, nothing overwritten, no hang."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpc_sla.cli.run.solver import check_solver_names
from hpc_sla.errors import InputError
from tests.cli.bad_files import BAD_FILES, good
from tests.cli.cases import Outcome, run_cases
from tests.launch import launch

RANKS = 3
BEFORE = b"a result of an earlier run"

# What to say on the command line, and what the message must then say.
BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "missing file": (["solve", "missing.h5"], "missing.h5"),
    "a folder": (["solve", "."], "folder"),
    "no such right-hand side": (["solve", "good.h5", "--rhs", "nope"], "nope"),
    "zero tolerance": (["solve", "good.h5", "--rtol", "0"], "--rtol"),
    "negative tolerance": (["solve", "good.h5", "--rtol", "-1e-8"], "--rtol"),
    "tolerance not a number": (["solve", "good.h5", "--rtol", "nan"], "--rtol"),
    "negative absolute tolerance": (["solve", "good.h5", "--atol", "-1"], "--atol"),
    "negative limit": (["solve", "good.h5", "--max-iterations", "-1"], "--max-iterations"),
    "unknown method": (["solve", "good.h5", "--method", "gauss"], "cg"),
    "unknown preconditioner": (["solve", "good.h5", "--precond", "magic"], "jacobi"),
    "unknown option of one": (["solve", "good.h5", "--precond", "chebyshev:order=2"], "degree"),
    "unknown device": (["solve", "good.h5", "--device", "abacus"], "abacus"),
    "unknown transport": (["solve", "good.h5", "--transport", "pigeon"], "pigeon"),
    "nccl without a GPU": (
        ["solve", "good.h5", "--device", "cpu", "--transport", "nccl"],
        "nccl",
    ),
    "output folder missing": (["solve", "good.h5", "-o", "no/such/folder/x.h5"], "no/such"),
    "output folder is a file": (["solve", "good.h5", "-o", "good.h5/x.h5"], "good.h5"),
    "output is a folder": (["solve", "good.h5", "-o", "."], "folder"),
    "output is the input": (["solve", "good.h5", "-o", "good.h5"], "--output"),
    "output is a device": (["solve", "good.h5", "-o", "/dev/null"], "/dev/null"),
    "a result file": (["solve", "good.result.h5"], "result"),
    "verify: missing file": (["verify", "missing.h5"], "missing.h5"),
    "bench: no laps": (["bench", "good.h5", "--repeats", "0"], "--repeats"),
    "unknown option": (["solve", "good.h5", "--tolerance", "1"], "--tolerance"),
    "tolerance in words": (["solve", "--rtol", "small"], "small"),
    "unknown command": (["resolve"], "resolve"),
}
if not torch.cuda.is_available():
    BAD_OPTIONS["no GPU"] = (["solve", "good.h5", "--device", "cuda"], "CUDA")
# These name their own output, or have none.
WITHOUT_OUTPUT = ("verify", "bench", "resolve")


def arguments(case: list[str]) -> list[str]:
    if case[0] in WITHOUT_OUTPUT or "-o" in case:
        return case
    return [*case, "-o", "result.h5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    good(folder / "good.h5")
    (folder / "result.h5").write_bytes(BEFORE)
    for number, (make, _) in enumerate(BAD_FILES.values()):
        make(folder / f"bad{number}.h5")
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    cases = {"a good one": ["solve", "good.h5"]}
    for number, name in enumerate(BAD_FILES):
        cases[name] = arguments(["solve", f"bad{number}.h5", "--method", "cg"])
    for name, (case, _) in BAD_OPTIONS.items():
        cases[name] = arguments(case)
    return run_cases(RANKS, cases, folder)


@pytest.mark.parametrize("name", [*BAD_FILES, *BAD_OPTIONS])
def test_one_message_and_code_2_on_every_rank(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    said = (BAD_FILES.get(name) or BAD_OPTIONS[name])[1]

    assert outcome.codes == [2] * RANKS, outcome
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert outcome.stderr.startswith("hpc_sla: error: ")
    assert said in outcome.stderr
    assert outcome.stdout == outcome.others == ""


@pytest.mark.parametrize("name", BAD_FILES)
def test_the_message_names_the_file(outcomes: dict[str, Outcome], name: str) -> None:
    number = list(BAD_FILES).index(name)
    assert f"bad{number}.h5" in outcomes[name].stderr


def test_what_was_there_before_is_still_there(folder: Path, outcomes: dict[str, Outcome]) -> None:
    assert outcomes["a good one"].codes == [0] * RANKS
    assert (folder / "result.h5").read_bytes() == BEFORE
    left = {path.name for path in folder.iterdir() if not path.name.startswith("cases")}
    assert left == {
        "good.h5",
        "good.result.h5",
        "result.h5",
        *(f"bad{number}.h5" for number in range(len(BAD_FILES))),
    }


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (["solve", "good.h5", "--rtol", "0"], "--rtol"),
        (["solve", "good.h5", "--no-such-option"], "--no-such-option"),
        (["solve", "damaged.h5"], "damaged.h5: /indices"),
    ],
)
def test_a_real_launch(tmp_path: Path, case: list[str], said: str) -> None:
    good(tmp_path / "good.h5")
    BAD_FILES["flipped byte in the columns"][0](tmp_path / "damaged.h5")
    done = launch(2, *case, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("method", "precond", "field"),
    [
        ("cg", "chebyshev:degree=0", "--precond chebyshev:degree"),
        ("cg", "amg:cycle=Q", "--precond amg:cycle"),
        ("cg", "nothing", "--precond"),
        ("gmres:restart=0", "jacobi", "--method"),
    ],
)
def test_a_bad_value_is_told_with_its_option(method, precond, field):
    with pytest.raises(InputError) as caught:
        check_solver_names(method, precond)
    assert caught.value.field is not None and caught.value.field.startswith(field)
