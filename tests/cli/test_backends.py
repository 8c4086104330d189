"""`backends`: serial, a table or one JSON object."""

from __future__ import annotations

import json
import sys

import pytest

from hpc_sla.cli import main
from hpc_sla.linear import METHODS
from hpc_sla.sparse_tensor.backends import BACKENDS
from tests.launch import launch_python


def test_the_table_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.isascii()
    for name, backend in BACKENDS.items():
        (line,) = (line for line in out.splitlines() if line.startswith(f"| {name} "))
        assert backend.best_use in line and (backend.why_not() or "yes") in line
    for method in METHODS:
        assert method in out


def test_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eigenpy", None)
    assert main(["backends", "--json"]) == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["backends"]}
    assert list(told) == ["torch", "scipy", "eigen", "triangular", "cudss", "cusolver"]
    assert told["scipy"]["available"] is True and told["scipy"]["reason"] is None
    assert told["eigen"]["available"] is False and "eigenpy" in told["eigen"]["reason"]
    assert set(told["eigen"]["unavailable_methods"]) == {"llt", "ldlt", "lu"}
    assert set(told["torch"]["methods"]) == set(METHODS)
    for entry in told.values():
        assert set(entry["devices"]) <= {"cpu", "cuda"} and entry["methods"] and entry["best_use"]


def test_it_starts_no_mpi_and_one_rank_answers(tmp_path) -> None:
    code = "import sys; from hpc_sla.cli import main; main(['backends']); " + (
        "assert 'mpi4py.MPI' not in sys.modules"
    )
    alone = launch_python(0, "-c", code, cwd=tmp_path)
    assert alone.returncode == 0 and alone.stdout.count("| scipy ") == 1, alone.stderr
    two = launch_python(2, "-m", "hpc_sla", "backends", cwd=tmp_path)
    assert two.returncode == 0 and two.stdout.count("| scipy ") == 1, two.stderr
