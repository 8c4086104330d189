"""Whatever is typed or configured: an exit code that says so, one message, and no traceback."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import numpy as np
import pytest

from hpc_sla.cli import COMMANDS, main
from hpc_sla.cli.config import CONFIGURABLE
from hpc_sla.cli.files import Read, Written
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.result_file import ResultWriter

# A working command line of each command, quick whatever is changed of it.
GOOD: dict[str, list[str]] = {
    "partition": ["partition", "poisson2d:n=4", "-o", "p.h5"],
    "info": ["info", "a.h5"],
    "solve": ["solve", "a.h5", "-o", "r.h5"],
    "eigsh": ["eigsh", "a.h5", "-k", "1", "-o", "r.h5"],
    "newton": ["newton", "bratu2d:n=4,lambda=1", "-o", "r.h5"],
    "grad": ["grad", "a.h5", "-o", "r.h5"],
    "verify": ["verify", "a.h5", "--against", "scipy"],
    "bench": ["bench", "a.h5", "--rhs", "none"],  # refused before PETSc is timed
    "backends": ["backends"],
    "collect": ["collect", "x.h5"],
    "diff": ["diff", "x.h5", "x.h5"],
    "export": ["export", "x.h5", "-o", "y.npy"],
    "plot": ["plot", "x.h5", "-o", "y.png"],
}
WORDS = ["", " ", "\0", "\udcff", "x:y=z", ":", "=", "n" * 5000, "\n", "-", "../..", "é"]
NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e9999", "1e-9999", str(2**63), str(-(2**63) - 1)]
NUMBERS += ["9" * 5000, "0x10", "1_000", "1.5", "½", "true"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_partitioned(load_source("poisson2d:n=4"), "a.h5", 2, "metis")
    with ResultWriter("x.h5", 16, "f8") as writer:
        writer.write_slab("x", 0, np.ones(16))
        writer.finish([1.0], {"status": "converged"})
    return tmp_path


def command_of(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"hpc_sla.cli.{name}").command
    return command


def options() -> list[tuple[str, str]]:
    """Every option of every command that takes a value."""
    return [
        (name, max(option.opts, key=len))
        for name in COMMANDS
        for option in command_of(name).params
        if isinstance(option, click.Option) and not option.is_flag
    ]


def told(capsys: pytest.CaptureFixture[str], code: int, what: object) -> None:
    """Bad input is one line; a run may have gone well or not converged; nothing else."""
    err = capsys.readouterr().err
    assert "Traceback" not in err, what
    assert code in (0, 2, 3), (what, code, err)
    if code == 2:
        lines = err.splitlines()
        assert lines[-1].startswith("hpc_sla: error: "), (what, err)
        assert len(lines) == 1, (what, err)


@pytest.mark.parametrize(("name", "option"), options())
def test_every_option(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, option: str
) -> None:
    (parameter,) = (p for p in command_of(name).params if option in p.opts)
    number = isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType))
    for value in NUMBERS + WORDS[:5] if number else WORDS + NUMBERS[:5]:
        code = main([*GOOD[name], option, value])
        told(capsys, code, (option, value[:60]))
        # However far a residual grows: a limit that one can do without.
        endless = (option, value) == ("--dtol", "inf")
        if number and not endless and not any(c.isdigit() for c in value):
            assert code == 2, (option, value)
        if isinstance(parameter.type, (Read, Written)) and value in ("", "\0"):
            assert code == 2, (option, value)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("backends",)])
def test_every_argument(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    before = len(GOOD[name]) - len(GOOD[name][2:])
    for value in [*WORDS, "poisson2d:n=1e9999", f"poisson2d:n={2**63}", "poisson2d:n=-1"]:
        given = [name, value, *GOOD[name][before:]]
        code = main(given)
        told(capsys, code, value[:60])
        assert code == 2 or (name == "collect" and Path(value).is_dir()), value[:60]


GENERATED = [
    "n=1e9999",
    "n=nan",
    "n=",
    "n=4,n=4",
    "n=4=4",
    "n=-4",
    "n=0",
    f"n={2**63}",
    "n=" + "9" * 5000,
    "n=4,contrast=nan",
    "n=4,contrast=1e9999",
    "=4",
    "\0",
    "n=\udcff",
]


@pytest.mark.parametrize("generator", ["poisson2d", "jumps2d", "elasticity3d", "bratu2d"])
def test_generators(here: Path, capsys: pytest.CaptureFixture[str], generator: str) -> None:
    for text in GENERATED:
        for command in (["partition", "-o", "p.h5"], ["newton", "-o", "r.h5"], ["eigsh", "-k1"]):
            code = main([command[0], f"{generator}:{text}", *command[1:]])
            told(capsys, code, (command[0], text[:60]))
            assert code == 2, (command[0], text[:60])


VALUES = ["nan", "inf", "-inf", "-1", "0", str(2**63), str(-(2**70)), "1e400", "[]", "[1]", "{}"]
VALUES += ["[[1]]", "true", "''", "'a'", '"\\u0000"', "2020-01-01", "[1, 'a']", "['a', 'a']"]


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_every_key_of_a_configuration(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    keys = [
        max(parameter.opts, key=len).lstrip("-")
        for parameter in command_of(name).params
        if parameter.expose_value
    ]
    for key in keys:
        for value in VALUES:
            Path("run.toml").write_text(f"[{name}]\n{key} = {value}\n")
            code = main([*GOOD[name], "--config", "run.toml"])
            told(capsys, code, (key, value))


SPECS = ["", ":", "gmres:", "gmres:restart", "gmres:=5", "GMRES", "gmres:restart=5,restart=6"]
SPECS += [
    f"gmres:restart={value}"
    for value in ("", "0", "-1", 2**63, "1e9999", "nan", "1.5", "\0", "true", "9" * 5000)
]
PRECONDS = ["", "amg:theta=nan", "amg:levels=-1", "block_jacobi:factor=", "jacobi:x=1"]
PRECONDS += [f"chebyshev:degree={value}" for value in ("0", "-1", 2**70, "nan", "1e9999")]
PRECONDS += [f"additive_schwarz:overlap={value}" for value in ("-1", "1e9999", 2**63)]


@pytest.mark.parametrize(
    ("option", "specs"), [("--method", SPECS), ("--precond", PRECONDS)], ids=["method", "precond"]
)
def test_solvers_and_their_options(
    here: Path, capsys: pytest.CaptureFixture[str], option: str, specs: list[str]
) -> None:
    for spec in specs:
        code = main([*GOOD["solve"], option, spec])
        told(capsys, code, spec)


def test_a_refused_log_leaves_no_handler(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`logging` closes at the end of the process what was begun."""
    import logging

    Path("text").write_text("not a log")
    for path in ("text", "none/log.jsonl", "."):
        assert main([*GOOD["solve"], "--log-file", path]) == 2
    logging.shutdown()
    assert "_file" not in capsys.readouterr().err
