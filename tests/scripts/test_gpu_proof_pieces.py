"""The proof for machines with GPUs, its pieces: parts that fail, verdicts, other solvers."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
import torch

from tests.launch import REPOSITORY, environment
from tests.scripts.test_gpu_proof import laplacian


@pytest.fixture
def module(monkeypatch):
    """One of the programme's modules, by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts" / "proof"))
    return importlib.import_module


# Parts that come to no good end

ENDS = {
    "crash": ("raise ValueError('what went wrong')", "exit code 1: ValueError: what went wrong"),
    "hang": ("import time; time.sleep(600)", "no end within 8 s"),
    "nothing": ("", "it ended well, and wrote nothing"),
    "late": (
        "import json, pathlib, sys, os\n"
        "checks = [{'name': 'a', 'status': 'PASS'}]\n"
        "text = json.dumps({'facts': {}, 'checks': checks, 'rows': []})\n"
        "pathlib.Path(sys.argv[2]).write_text(text)\n"
        "os._exit(7)",
        "exit code 7: it said nothing",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_part_that_fails_costs_itself_only(end, tmp_path, module, monkeypatch):
    text, reason = ENDS[end]
    (tmp_path / "part.py").write_text(text)
    launch = module("launch")
    monkeypatch.setattr(launch, "PROGRAMME", tmp_path / "part.py")
    monkeypatch.setattr(launch, "GRACE", 1.0)
    for name, value in environment(1).items():
        monkeypatch.setenv(name, value)
    found = launch.launch("machine", 1, tmp_path, 8.0 if end == "hang" else 200.0, 5.0)
    assert found["status"] == "FAIL" and found["reason"].startswith(reason), found
    assert [check["name"] for check in found["checks"]] == (["a"] if end == "late" else [])
    assert not running(tmp_path / "part.py")


def running(programme: Path) -> list[str]:
    """Processes of it, once those that are ending have had time to."""
    end = time.monotonic() + 60
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.fsencode(programme) in (process / "cmdline").read_bytes():
                    found.append(process.name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.2)


def test_a_missing_mpiexec_is_told(tmp_path, module, monkeypatch):
    launch = module("launch")
    monkeypatch.setattr(launch, "mpiexec", lambda: str(tmp_path / "none"))
    found = launch.launch("machine", 1, tmp_path, 10.0, 5.0)
    assert found["status"] == "FAIL" and "mpiexec cannot be started" in found["reason"]


@pytest.mark.parametrize(
    ("seconds", "free", "reason"), [(-1.0, 1e12, "no time"), (60, 1e3, "needs")]
)
def test_sizes_that_do_not_fit_are_left_out(module, monkeypatch, tmp_path, seconds, free, reason):
    import hpc_sla as hs

    table1, world = module("table1"), hs.World.serial("cpu")
    monkeypatch.setattr(table1, "free_bytes", lambda world: free)
    record = module("record").Record(world, tmp_path / "found.json", seconds)
    table1.run(world, module("plan").SMALL, record)
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [(row["n"], row["status"]) for row in rows] == [(41, "SKIP"), (100, "SKIP")]
    assert all(row["reason"].startswith(reason) for row in rows)


# What findings come to, of made-up ones


def made(card: str | None, **seconds: float) -> list[dict]:
    """A machine and its Table 1: seconds by the name of a size, ``n1000``, of amg."""
    rows = [
        {"n": int(n[1:]), "rows": int(n[1:]) ** 2, "precond": "amg", "status": "PASS",
         "name": n, "total_seconds": value, "published_seconds": 0.19}
        for n, value in seconds.items()
    ]  # fmt: skip
    share = {"n": 1000, "rows": 10**6, "precond": "jacobi", "status": "SKIP", "name": "slope",
             "reason": "no time", "tb_per_second": 3.6}  # fmt: skip
    about = {"status": "PASS", "reason": "", "seconds": 1.0, "ranks": 1, "checks": []}
    stream = {"name": "bandwidth", "status": "PASS", "triad_tb_per_second": 4.0}
    return [
        {"part": "machine", "facts": {"card": card}, "rows": [stream], **about},
        {"part": "table1", "facts": {}, "rows": [*rows, share], **about},
    ]


@pytest.mark.parametrize(
    ("card", "second", "statuses"),
    [
        ("NVIDIA H200", 0.019, ["PASS", "NOT JUDGED", "NOT JUDGED", "NOT JUDGED", "PASS"]),
        ("NVIDIA H200", 0.021, ["FAIL", "NOT JUDGED", "NOT JUDGED", "NOT JUDGED", "PASS"]),
        ("NVIDIA H100 80GB HBM3", 0.021, ["NOT JUDGED"] * 5),
    ],
)
def test_goals_are_judged_on_their_card(module, card, second, statuses):
    judge = module("judge")
    parts = made(card, n1000=second)
    goals = judge.goals(parts, small=False)
    assert [goal["status"] for goal in goals] == statuses
    assert goals[0]["value"] == second and goals[-1]["value"] == pytest.approx(0.9)
    assert judge.verdict(parts, goals) == ("FAIL" if "FAIL" in statuses else "PASS")
    (ratio,) = judge.ratios(parts)
    assert ratio["ours_over_published"] == pytest.approx(second / 0.19)
    assert {goal["status"] for goal in judge.goals(parts, small=True)} == {"NOT JUDGED"}


def test_what_counts_as_a_failure(module):
    judge = module("judge")
    parts = made("NVIDIA H200")
    parts[1]["rows"].append({"name": "theirs", "status": "FAIL", "ours": False})
    assert judge.failures(parts, []) == []
    parts[1]["rows"].append({"name": "own", "status": "FAIL", "reason": "out of memory"})
    assert judge.failures(parts, []) == ["table1 on 1: own: out of memory"]
    assert judge.verdict([], []) == "FAIL"  # nothing was shown


def test_efficiency_is_beside_one_rank(module):
    def line(ranks: int, scaling: str, seconds: float, n: int) -> dict:
        row = {"scaling": scaling, "precond": "amg", "n": n, "rows": n * n, "status": "PASS"}
        return {"part": "table2", "ranks": ranks, "rows": [{**row, "total_seconds": seconds}]}

    parts = [line(1, "strong", 8.0, 9), line(4, "strong", 4.0, 9), line(1, "weak", 3.0, 9)]
    parts += [line(4, "weak", 4.0, 18), line(4, "strong", 1.0, 5)]  # which one rank did not run
    found = module("judge").efficiencies(parts)
    assert [(e["scaling"], e["efficiency"]) for e in found] == [("strong", 0.5), ("weak", 0.75)]


def test_json_without_numbers_that_are_none(module, tmp_path):
    module("record").write(tmp_path / "a.json", {"a": [float("nan"), (float("inf"), 1.0)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [None, 1.0]]}


# Other solvers


class FakeAmgX:
    """As much of pyamgx as is used; solves by SciPy."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def initialize(self) -> None:
        self.calls.append("initialize")

    def finalize(self) -> None:
        self.calls.append("finalize")

    def __getattr__(self, kind: str):
        return lambda: FakeObject(self, kind)


class FakeObject(SimpleNamespace):
    def __init__(self, library: FakeAmgX, kind: str) -> None:
        super().__init__(library=library, kind=kind, iterations_number=5)

    def create(self, *_given: object) -> FakeObject:
        return self

    create_simple = create

    def create_from_dict(self, settings: dict) -> FakeObject:
        self.library.settings = settings
        return self

    def upload(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays

    def setup(self, matrix: FakeObject) -> None:
        pointers, columns, values = matrix.arrays
        assert (pointers.dtype, columns.dtype) == (np.int32, np.int32)
        self.matrix = sp.csr_array((values, columns, pointers))

    def solve(self, b: FakeObject, x: FakeObject, zero_initial_guess: bool) -> None:
        assert zero_initial_guess
        x.answer = scipy.sparse.linalg.spsolve(self.matrix.tocsc(), *b.arrays)

    def download(self, into: np.ndarray) -> None:
        into[:] = self.answer

    def destroy(self) -> None:
        self.library.calls.append(self.kind)


def test_amgx_by_its_documented_calls(module, monkeypatch):
    fake = FakeAmgX()
    monkeypatch.setitem(sys.modules, "pyamgx", fake)
    peer = module("peer_amgx").AmgX()
    assert peer.why_not(torch.device("cpu")) == "needs a GPU"
    assert peer.why_not(torch.device("cuda")) is None
    A, b = module("peers").system(9, torch.device("cpu"))
    peer.prepare(9, A, b, 1e-6)
    x, iterations = peer.solve()
    assert np.allclose(laplacian(9) @ x.numpy(), 1.0) and iterations == 5
    assert fake.settings["solver"]["tolerance"] == 1e-6
    peer.release()
    assert fake.calls.count("finalize") == 1 and {"Matrix", "Solver", "Config"} <= set(fake.calls)


def test_peers_that_run_on_cpus_solve(module):
    for peer in (module("peer_torch").TorchCG(), module("peer_torch_sla").TorchSla()):
        if peer.why_not(torch.device("cpu")) is None:
            A, b = module("peers").system(31, torch.device("cpu"))
            peer.prepare(31, A, b, 1e-6)
            x, _ = peer.solve()
            assert np.linalg.norm(laplacian(31) @ x.numpy() - 1.0) <= 1.1e-6 * 31
