"""Options from a TOML file: the same run as with them typed, one clear message where not."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_sla.cli import COMMANDS, asked, main
from hpc_sla.cli.config import CONFIGURABLE, _parameters
from hpc_sla.linear.choices import DEFAULT_METHOD
from hpc_sla.storage.result_file import ResultWriter
from tests.cli.cases import run_cases

RUN = """
device = "cpu"            # of every command
rtol = 1e-4

[solve]
file = "m.h5"
rtol = 1e-9               # over the one above
max-iterations = 400      # or max_iterations
json = true

[partition]
source = "poisson2d:n=16"
parts = 3
rhs = ["ones", "manufactured"]

[eigsh]
k = 4
tol = 1
"""


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_text("\ufeff" + RUN.lstrip(), encoding="utf-8")
    assert parsed("verify", "n.h5", "--config", path)["rtol"] == 1e-4


def parsed(name: str, *arguments: object) -> dict[str, object]:
    command = importlib.import_module(f"hpc_sla.cli.{name}").command
    return dict(command.make_context(name, [str(a) for a in arguments]).params)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_sections_over_shared_over_defaults(run):
    found = parsed("solve", "--config", run)
    assert found["file"] == "m.h5"
    assert found["rtol"] == 1e-9
    assert found["max_iterations"] == 400
    assert found["device"] == "cpu"
    assert found["as_json"] is True
    assert found["method"] == DEFAULT_METHOD
    assert parsed("verify", "n.h5", "--config", run)["rtol"] == 1e-4


def test_the_command_line_comes_first(run):
    found = parsed("solve", "other.h5", "--rtol", "1e-5", "--config", run, "--device", "auto")
    assert (found["file"], found["rtol"], found["device"]) == ("other.h5", 1e-5, "auto")
    assert found["max_iterations"] == 400


def test_required_ones_and_lists(run):
    found = parsed("partition", "-o", "x.h5", "--config", run)
    assert found["source"] == "poisson2d:n=16"
    assert found["parts"] == 3
    assert found["rhs"] == ("ones", "manufactured")
    assert parsed("partition", "-o", "x.h5", "--rhs", "ones", "--config", run)["rhs"] == ("ones",)


def test_a_whole_number_will_do_for_a_number(run):
    found = parsed("eigsh", "--config", run)
    assert found["k"] == 4
    assert found["tol"] == 1.0
    assert isinstance(found["tol"], float)


def test_every_command_that_computes_takes_one():
    assert set(CONFIGURABLE) <= set(COMMANDS)
    for name in CONFIGURABLE:
        command = importlib.import_module(f"hpc_sla.cli.{name}").command
        assert any("--config" in option.opts for option in command.params), name
        assert len(_parameters(command)) == sum(p.expose_value for p in command.params)


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_every_parameter_is_a_field_of_the_options(name: str) -> None:
    module = importlib.import_module(f"hpc_sla.cli.{name}")
    parameters = {one.name for one in module.command.params if one.expose_value}
    options = getattr(asked, f"{name.capitalize()}Options")
    fields = {one.name: one.default for one in dataclasses.fields(options)}
    assert parameters <= set(fields)
    left_out = set(fields) - parameters
    assert all(fields[one] is not dataclasses.MISSING for one in left_out), left_out


WRONG = {
    "misspelt": ("[solve]\nrtoll = 1", ["[solve] rtoll", "Perhaps 'rtol' is meant"]),
    "misspelt with dashes": ("[solve]\nmax-iteration = 1", ["Perhaps 'max_iterations' is meant"]),
    "misspelt above": ("devise = 'cpu'", ["devise", "Perhaps 'device' is meant"]),
    "misspelt section": ("[sovle]\nrtol = 1", ["[sovle]", "no such section", "'solve' is meant"]),
    "of another command": ("[eigsh]\natol = 1", ["[eigsh] atol", "Perhaps 'tol'"]),
    "in another section": ("[newton]\njacobain = 'auto'", ["Perhaps 'jacobian' is meant"]),
    "nothing like it": ("[solve]\nqqq = 1", ["qqq", "Known are: atol,"]),
    "section for an option": ("[rtol]\nx = 1", ["[rtol]", "no such section"]),
    "both spellings": ("[solve]\nmax-iterations=1\nmax_iterations=1", ["given twice"]),
    "text for a number": (
        "[solve]\nrtol = '1e-8'",
        ["[solve] rtol: is the text '1e-8', it must be a number", "rtol = 1e-8"],
    ),
    "fraction for a count": ("[solve]\nmax-iterations = 1.5", ["1.5", "a whole number"]),
    "truth for a number": ("rtol = true", ["is true, it must be a number"]),
    "number for text": ("[solve]\nmethod = 3", ["the number 3", "text in quotes"]),
    "number for a flag": ("[solve]\njson = 1", ["true or false"]),
    "list for text": ("[solve]\nmethod = ['cg']", ["an array"]),
    "date": ("[solve]\nmethod = 2020-01-01", ["a date or time"]),
    "table for an option": ("[solve.rtol]\nx = 1", ["a table", "a number"]),
    "not TOML": ("rtol = = 1", ["is not TOML", "line 1"]),
    "twice": ("rtol = 1\nrtol = 1", ["is not TOML"]),
    "nested": ("x = " + "[" * 100_000, ["is not TOML"]),
    "refused by the command": ("[solve]\nrtol = -1.0", ["--rtol", "-1"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told(tmp_path, case, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = WRONG[case]
    Path("run.toml").write_text(text)
    assert main(["solve", "--config", "run.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hpc_sla: error: ")
    if case != "refused by the command":
        assert line.startswith("hpc_sla: error: run.toml: ")
    for word in words:
        assert word in line, line


def test_a_choice_that_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("[eigsh]\nwhich = 'biggest'")
    assert main(["eigsh", "--config", "run.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.toml: [eigsh] which: 'biggest' is not one of 'smallest', 'largest'" in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"#" * (1 << 20) + b"\n"])
def test_files_that_are_no_configuration(tmp_path, content, capsys):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    assert main(["solve", "--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hpc_sla: error: {path}: ")


def test_a_result_without_one(tmp_path, capsys):
    path = tmp_path / "old.h5"
    with ResultWriter(path, 1, "f8") as writer:
        writer.write_slab("x", 0, np.zeros(1))
        writer.finish([0.0], {"command": "by hand"})
    assert main(["solve", "--config", str(path)]) == 2
    assert "does not say what configuration" in capsys.readouterr().err
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = '[eigsh]\nk = 3\n[solve]\noutput = "/etc/passwd"\nrtol = 0.5'
    found = parsed("solve", "--config", path)
    assert found["rtol"] == 0.5
    assert found["output"] is None  # a file must not say what to write to
    assert main(["newton", "--config", str(path)]) == 2
    assert "made by eigsh, solve, not by newton" in capsys.readouterr().err


def test_a_run_and_its_repetition(tmp_path):
    text = RUN.replace("[partition]", "[partition]\nmethod = 'rcb'").replace("tol = 1\n", "")
    (tmp_path / "run.toml").write_text(text)
    (tmp_path / "bad.toml").write_text("[solve]\nrtoll = 1")
    told = run_cases(
        2,
        {
            "partition": ["partition", "-o", "m.h5", "--config", "run.toml"],
            "solve": ["solve", "--config", "run.toml", "--rhs", "manufactured", "-o", "a.h5"],
            "again": ["solve", "--config", "a.h5", "-o", "b.h5"],
            "bad": ["solve", "--config", "bad.toml"],
            "pairs": ["eigsh", "m.h5", "--config", "run.toml", "-o", "w.h5", "-k", "3"],
        },
        tmp_path,
    )
    assert [one.codes for one in told.values()] == [[0, 0], [0, 0], [0, 0], [2, 2], [0, 0]]
    assert told["bad"].stderr.count("\n") == 1
    assert told["bad"].others == ""
    assert told["again"].json["result"] == "b.h5"
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        np.testing.assert_array_equal(a["x"][:], b["x"][:])
        assert a.attrs["rtol"] == 1e-9
        one, other = (f.attrs["config"].decode().splitlines() for f in (a, b))
    assert one[0] == "[solve]"
    assert f'file = "{tmp_path}/m.h5"' in one
    assert 'rhs = "manufactured"' in one
    assert [line.replace("a.h5", "b.h5") for line in one] == other
    with h5py.File(tmp_path / "w.h5") as file:
        assert file["eigenvalues"].shape == (3,)
    with h5py.File(tmp_path / "m.h5") as file:
        assert "parts = 3\n" in file.attrs["config"].decode()
