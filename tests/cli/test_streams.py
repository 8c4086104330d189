"""The exit code tells of the solve, whatever became of standard output and error."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpc_sla.cli import COMMANDS, main
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.result_file import ResultWriter, read_result
from tests.cli.cases import CG
from tests.launch import environment


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_partitioned(load_source("poisson2d:n=6"), "a.h5", 2, "metis")
    with ResultWriter("x.h5", 36, "f8") as writer:
        writer.write_slab("x", 0, np.ones(36))
        writer.finish([1.0], {"status": "converged"})
    return tmp_path


class Failing(io.RawIOBase):
    """A descriptor that takes nothing."""

    def __init__(self, number: int) -> None:
        self.number = number

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:
        if not self.number:
            return len(data)
        raise OSError(self.number, os.strerror(self.number))


def broken(kind: str) -> io.TextIOWrapper | None:
    if kind == "closed":
        return None
    number = {"full": errno.ENOSPC, "pipe": errno.EPIPE}[kind]
    return io.TextIOWrapper(io.BufferedWriter(Failing(number)), encoding="utf-8")


SOLVE = ["solve", "a.h5", "-o", "r.h5"]
COMMAND_LINES = {
    "solve": (SOLVE, 0),
    "solve --json": ([*SOLVE, "--json"], 0),
    "not converged": ([*SOLVE, *CG, "--max-iterations", "1"], 3),
    "eigsh": (["eigsh", "a.h5", "-k", "1", "--json"], 0),
    "grad": (["grad", "a.h5"], 0),
    "newton": (["newton", "bratu2d:n=6,lambda=1", "--json"], 0),
    "verify": (["verify", "a.h5", "--against", "scipy"], 0),
    "partition": (["partition", "poisson2d:n=4", "-o", "p.h5"], 0),
    "diff": (["diff", "x.h5", "x.h5"], 0),
    "info": (["info", "x.h5"], 1),
    "collect": (["collect", "x.h5"], 1),
    "backends": (["backends"], 1),
    "bad input": (["info", "none.h5"], 2),
    "nothing to print": (["collect", "x.h5", "-o", "t.csv"], 0),
}


@pytest.mark.parametrize("kind", ["closed", "full", "pipe"])
@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("case", COMMAND_LINES)
def test_a_stream_that_takes_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    which: str,
    kind: str,
) -> None:
    command, code = COMMAND_LINES[case]
    streams = ("stdout", "stderr") if which == "both" else (which,)
    put = {name: broken(kind) for name in streams}
    for name, stream in put.items():
        monkeypatch.setattr(sys, name, stream)
    found = main(command)
    assert {name: getattr(sys, name) for name in streams} == put
    told = capsys.readouterr()
    # Where printing is all there is to do, it has failed; a reader that leaves had enough.
    lost = "stdout" in streams and kind != "pipe"
    assert found == (code if lost or code != 1 else 0)
    if which == "stdout":
        lost = lost and case not in ("bad input", "nothing to print")
        assert ("standard output cannot be written" in told.err) == lost
        assert len(told.err.splitlines()) == (lost or code == 2)
    for stream in put.values():
        if stream is not None:
            stream.buffer.raw.number = 0  # or closing it would fail once more


def test_real_ones(here: Path) -> None:
    """At the end Python flushes once more; and what is opened next is not standard output."""
    program = f"{sys.executable} -m hpc_sla"
    run = ["/bin/bash", "-c"]
    for redirection, code in ((">&- 2>&-", 0), (">/dev/full", 0), ("| true", 0)):
        line = f"{program} solve a.h5 -o r.h5 --log-file r.jsonl {redirection}"
        done = subprocess.run(
            [*run, f"{line}; exit ${{PIPESTATUS[0]}}"],
            env=environment(1),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert read_result("r.h5").attributes["status"] == "converged"
        log = Path("r.jsonl").read_text().splitlines()
        assert all(entry.startswith("{") for entry in log)
        Path("r.jsonl").unlink()


def test_an_ascii_locale(here: Path) -> None:
    os.rename("a.h5", "é.h5")
    plain = environment(1, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    for command, code in ((["solve", "é.h5", "--json"], 0), (["info", "nö.h5"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "hpc_sla", *command], env=plain, capture_output=True, timeout=300
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
    assert Path("é.result.h5").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_HPC_SLA_COMPLETE", f"{shell}_source")
    assert main([]) == 0
    script = capsys.readouterr().out
    assert f"_HPC_SLA_COMPLETE={shell}_complete" in script
    assert " hpc_sla" in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hpc_sla ", set(COMMANDS)),
        ("hpc_sla so", {"solve"}),
        ("hpc_sla solve --max", {"--max-iterations"}),
        ("hpc_sla eigsh --which ", {"smallest", "largest"}),
    ],
)
def test_completions(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    expected: set[str],
) -> None:
    monkeypatch.setenv("_HPC_SLA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert main([]) == 0
    assert {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()} == expected


def test_completion_of_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_HPC_SLA_COMPLETE", "bash_complete")
    for words, count in (("hpc_sla solve a", 2), ("hpc_sla solve a.h5 -o r", 4)):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(count))
        assert main([]) == 0
        assert capsys.readouterr().out.startswith("file,")
