"""--log-file and --profile: a run can be understood from its log, and is the same with them."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal

import pytest

import hpc_sla.observe.log
from hpc_sla.errors import InputError
from hpc_sla.observe.profile import Event, summarise
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import run_cases
from tests.cli.test_checkpoint import COMMANDS, Running, folder, matrix  # noqa: F401


def lines_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert {"time", "seconds", "rank", "level", "event"} <= set(line)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    return lines


def one(lines, event):
    (found,) = [line for line in lines if line["event"] == event]
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_log_and_profile_of_a_solve(ranks, folder):  # noqa: F811
    given = ["solve", "matrix.h5", "--rtol", "1e-10", "--json"]
    gmres = [*given, "--method", "gmres", "--precond", "amg"]
    cg = [*given, "--method", "cg", "--precond"]
    solve = [*cg, "jacobi"]
    outcomes = run_cases(
        ranks,
        {
            "plain": [*solve, "-o", "plain.h5"],
            "both": [*solve, "-o", "both.h5", "--profile", "--log-file", "both.jsonl"],
            "gmres": [*gmres, "-o", "gmres.h5"],
            "gmres-both": [*gmres, "-o", "gmres-both.h5", "--profile"],
            **{
                precond: [*cg, precond, "-o", f"{precond}.h5", "--profile"]
                for precond in ("chebyshev", "block_jacobi")
            },
            "short": [*solve, "--max-iterations", "2", "--log-file", "short.jsonl"]
            + ["--log-all-ranks"],
            "bad": [*solve, "--rhs", "none", "--log-file", "bad.jsonl"],
            "unwritable": [*solve, "--log-file", "nowhere/log.jsonl"],
            "no log": [*solve, "--log-file", "plain.h5"],
            "input": [*solve, "--log-file", "matrix.h5"],
            "alone": [*solve, "--log-all-ranks"],
        },
        folder,
    )
    codes = {name: set(outcome.codes) for name, outcome in outcomes.items()}
    refused = ("bad", "unwritable", "no log", "input", "alone")
    assert all(codes[name] == {2} for name in refused), outcomes
    assert codes["both"] == {0}, outcomes["both"]
    assert codes["short"] == {3}, outcomes["short"]
    # Bitwise the same iterates.
    for plain in ("plain", "gmres"):
        other = "both" if plain == "plain" else "gmres-both"
        a, b = (read_result(folder / f"{name}.h5") for name in (plain, other))
        assert a.x.tobytes() == b.x.tobytes()
        assert list(a.residual_history) == list(b.residual_history)

    for precond in ("chebyshev", "block_jacobi"):
        solved = outcomes[precond].json
        assert solved["profile"]["events"]["precond apply"]["calls"] > solved["iterations"]
        assert solved["profile"]["events"]["precond set-up"]["calls"] == 1

    answer = outcomes["both"].json
    events = answer["profile"]["events"]
    assert 0.2 < sum(event["share"] for event in events.values()) <= 1.05
    iterations = answer["iterations"]
    assert events["product and dots"]["calls"] == iterations
    assert events["cg pass: x and p"]["calls"] == iterations
    others = sum(events[name]["calls"] for name in ("product", "product with |A|"))
    assert events["halo exchange"]["calls"] == iterations + others
    assert events["reduction"]["calls"] >= 2 * iterations
    assert (events["halo exchange"]["bytes_per_rank"] > 0) == (ranks > 1)
    for event in events.values():
        assert (
            event["seconds_min"] <= event["seconds_max"] <= event["seconds_with_inner_max"] + 1e-9
        )
        assert event["seconds_max"] <= answer["profile"]["seconds"]
    bound = answer["nnz"] * 12 * iterations
    assert bound <= ranks * events["product and dots"]["bytes_per_rank"] < 3 * bound
    events = outcomes["gmres-both"].json["profile"]["events"]
    iterations = outcomes["gmres-both"].json["iterations"]
    assert events["orthogonalisation"]["calls"] >= iterations
    assert events["precond apply"]["calls"] >= iterations
    assert "profile" not in outcomes["plain"].json

    log = lines_of(folder / "both.jsonl")
    assert [log[0]["event"], log[1]["event"]] == ["start", "world"]
    assert log[0]["options"]["log_file"] == "both.jsonl" and "torch" in log[0]["versions"]
    assert "rtol = 1e-10" in log[0]["config"] and "command" in log[0]
    assert log[0]["options"]["rtol"] == 1e-10
    assert sum(log[1]["ranks_per_host"].values()) == log[1]["ranks"] == ranks
    assert len(one(log, "input")["digest"]) >= 32
    begun = [line["stage"] for line in log if line["event"] == "stage_begin"]
    ended = {line["stage"]: line["took"] for line in log if line["event"] == "stage_end"}
    assert begun == ["read", "setup", "solve", "write"] == list(ended)
    last = [line for line in log if line["event"] == "iteration"][-1]
    assert last["iteration"] == answer["iterations"]
    assert one(log, "summary")["status"] == one(log, "solved")["status"] == "converged"
    assert one(log, "profile")["profile"]["events"].keys() == answer["profile"]["events"].keys()
    assert log[-1]["event"] == "end" and log[-1]["exit_code"] == 0

    for rank in range(ranks):
        log = lines_of(folder / f"short.{rank}.jsonl")
        assert {line["rank"] for line in log} == {rank}
        assert one(log, "solved")["status"] == "max_iterations"
        assert log[-1]["exit_code"] == 3
    log = lines_of(folder / "bad.jsonl")
    assert log[-2]["event"] == "error" and log[-2]["level"] == "error"
    assert "none" in log[-2]["message"] and log[-2]["remedy"]
    assert log[-1]["exit_code"] == 2
    assert "nowhere/log.jsonl" in outcomes["unwritable"].stderr


def test_logs_of_the_other_commands(folder):  # noqa: F811
    """What a run was of, and what came of it: as --json says it."""
    commands = {
        "eigsh": ["eigsh", "matrix.h5", "-k", "2"],
        "newton": ["newton", "bratu2d:n=16,lambda=5"],
        "grad": ["grad", "matrix.h5"],
        "verify": ["verify", "matrix.h5", "--against", "scipy"],
        "bench": ["bench", "matrix.h5", "--repeats", "1"],
    }
    if importlib.util.find_spec("petsc4py") is None:
        del commands["bench"]
    outcomes = run_cases(
        2,
        {
            name: [*command, "--json", "--profile", "--log-file", f"{name}.jsonl"]
            for name, command in commands.items()
        },
        folder,
    )
    for name, outcome in outcomes.items():
        assert outcome.codes == [0, 0], outcome.stderr
        lines = lines_of(folder / f"{name}.jsonl")
        assert [line["event"] for line in lines[:3]] == ["start", "world", "input"]
        assert lines[-1]["event"] == "end" and lines[-1]["exit_code"] == 0
        summary = one(lines, "summary")
        assert summary["status"] == outcome.json["status"]
        logged = one(lines, "profile")["profile"]
        by_rank = logged.pop("by_rank")
        assert outcome.json["profile"] == logged
        for event, seconds in by_rank.items():
            assert len(seconds) == 2
            assert max(seconds) == pytest.approx(logged["events"][event]["seconds_max"], abs=1e-6)
        assert outcome.json["profile"]["events"]
        assert name == "bench" or "solved" in {line["event"] for line in lines}


@pytest.mark.parametrize("ranks", [2])
def test_log_of_a_run_that_is_told_to_end(ranks, folder):  # noqa: F811
    arguments = [*COMMANDS["solve"], "--log-file", "run.jsonl", "--checkpoint", "run.ckpt.h5"]
    with Running(ranks, "iterate", arguments, folder) as running:
        running.wait_for((folder / "there.0").exists)
        os.kill(running.pid(0), signal.SIGTERM)
        running.process.communicate(timeout=300)
        assert running.process.returncode == 75
    log = lines_of(folder / "run.jsonl")
    assert one(log, "signal")["name"] == "SIGTERM"
    assert one(log, "checkpoint")["path"] == "run.ckpt.h5"
    assert one(log, "preempted")["checkpoint_iteration"] == one(log, "checkpoint")["iteration"]
    assert log[-1]["event"] == "end" and log[-1]["exit_code"] == 75


@pytest.fixture
def told():
    """Records of the logger, as a library user's handler gets them."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler = Keep()
    hpc_sla.observe.log.logger.addHandler(handler)
    yield records
    hpc_sla.observe.log.logger.removeHandler(handler)
    hpc_sla.observe.log.logger.setLevel(logging.NOTSET)


def test_nothing_is_emitted_unless_asked(told):
    hpc_sla.observe.log.emit("something", number=1)
    assert not told
    hpc_sla.observe.log.logger.setLevel(logging.INFO)
    hpc_sla.observe.log.emit("something", number=1)
    (record,) = told
    assert (record.event, record.fields) == ("something", {"number": 1})
    assert record.getMessage() == "something number=1"


def test_lines_are_json_whatever_the_numbers(tmp_path, told):
    handler = hpc_sla.observe.log.JsonLines(tmp_path / "a.jsonl", rank=3)
    hpc_sla.observe.log.logger.addHandler(handler)
    hpc_sla.observe.log.logger.setLevel(logging.INFO)
    hpc_sla.observe.log.emit("odd", norm=float("nan"), many=[float("inf"), 1], text="a\nb", rank=7)
    hpc_sla.observe.log.logger.warning("of %s", "somebody else")
    hpc_sla.observe.log.logger.removeHandler(handler)
    handler.close()
    odd, other = lines_of(tmp_path / "a.jsonl")
    assert (odd["norm"], odd["many"], odd["text"]) == (None, [None, 1], "a\nb")
    assert (odd["rank"], odd["rank_"], other["text"]) == (3, 7, "of somebody else")
    (tmp_path / "b").write_text("something else")
    with pytest.raises(InputError, match="is not a log"):
        hpc_sla.observe.log.JsonLines(tmp_path / "b")


def test_profile_over_ranks():
    told = [(2.0, {"a": Event(3, 1.5, 1.0, 4_000_000_000)}), (2.0, {"a": Event(3, 0.5, 0.5, 0)})]
    event = summarise(told)["events"]["a"]
    assert (event["calls"], event["seconds_max"], event["seconds_min"]) == (3, 1.0, 0.5)
    assert (event["ratio"], event["share"], event["gb_per_second"]) == (2.0, 0.375, 4.0)
    assert summarise([*told, (2.0, {})])["events"]["a"]["ratio"] is None
