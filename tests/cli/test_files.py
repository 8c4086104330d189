"""No command writes over what it reads, nor two outputs into one file; refused before any work."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.cli import main
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.cli.settle import _one_file
from hpc_sla.storage.atomic import check_writable
from hpc_sla.storage.result_file import ResultWriter
from tests.cli.cases import run_cases

N = 16


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    A = load_source("poisson2d:n=4").matrix
    scipy.io.mmwrite("a.mtx", sp.coo_matrix(A))
    np.save("b.npy", np.ones(N))
    np.save("c.npy", np.random.default_rng(0).random((N, 2)))
    write_partitioned(load_source("poisson2d:n=4"), "a.h5", 2, "metis")
    shutil.copy("a.h5", "m.h5")
    Path("run.toml").write_text("rtol = 1e-6\n")
    for name in ("x.h5", "runs/y.h5"):
        Path(name).parent.mkdir(exist_ok=True)
        with ResultWriter(name, N, "f8") as writer:
            writer.write_slab("x", 0, np.ones(N))
            writer.finish([1.0], {"status": "converged"})
    shutil.copy("x.h5", "z.npy")  # what counts is what is in it
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _symbolic(path: str) -> str:
    os.symlink(path, f"link-{Path(path).name}")
    return f"link-{Path(path).name}"


def _hard(path: str) -> str:
    os.link(path, f"hard-{Path(path).name}")
    return f"hard-{Path(path).name}"


def _by_another_folder(path: str) -> str:
    os.symlink(".", "same")
    return f"same/./same/{path}"


WAYS: dict[str, Callable[[str], str]] = {
    "itself": lambda path: path,
    "dotted": lambda path: f"./{path}",
    "absolute": os.path.abspath,
    "symbolic link": _symbolic,
    "hard link": _hard,
    "another folder": _by_another_folder,
}

# A command without its output, the output's option, and what must not be written to.
PARTITION = ["partition", "a.mtx", "--rhs", "b.npy", "--coordinates", "c.npy"]
GRAD = ["grad", "a.h5", "--loss", "misfit", "--target", "b.npy", "--config", "run.toml"]
INPUTS = [
    (PARTITION, "-o", "a.mtx", "SOURCE"),
    (PARTITION, "-o", "b.npy", "--rhs"),
    (PARTITION, "-o", "c.npy", "--coordinates"),
    ([*PARTITION, "--config", "run.toml"], "-o", "run.toml", "--config"),
    (["partition", "a.h5"], "-o", "a.h5", "SOURCE"),
    (["solve", "a.h5"], "-o", "a.h5", "FILE.h5"),
    (["solve", "a.h5"], "--checkpoint", "a.h5", "FILE.h5"),
    (["solve", "a.h5"], "--log-file", "a.h5", "FILE.h5"),
    (["solve", "a.h5", "--config", "run.toml"], "-o", "run.toml", "--config"),
    (["solve", "a.h5", "--config", "run.toml"], "--log-file", "run.toml", "--config"),
    (["eigsh", "a.h5"], "-o", "a.h5", "FILE.h5"),
    (["eigsh", "a.h5", "--mass", "m.h5"], "-o", "m.h5", "--mass"),
    (["newton", "--config", "run.toml"], "-o", "run.toml", "--config"),
    (GRAD, "-o", "a.h5", "FILE.h5"),
    (GRAD, "-o", "b.npy", "--target"),
    (GRAD, "-o", "run.toml", "--config"),
    (["verify", "a.h5"], "--log-file", "a.h5", "FILE.h5"),
    (["bench", "a.h5"], "--log-file", "a.h5", "FILE.h5"),
    (["export", "z.npy"], "-o", "z.npy", "RESULT.h5"),
    (["export", "x.h5", "--coordinates", "c.npy"], "-o", "c.npy", "--coordinates"),
    (["collect", "x.h5", "b.npy"], "-o", "x.h5", "RESULT.h5|FOLDER"),
    (["collect", "x.h5", "b.npy"], "-o", "b.npy", "RESULT.h5|FOLDER"),
    (["collect", "runs"], "-o", "runs/y.h5", "RESULT.h5|FOLDER"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("command", "option", "target", "other"), INPUTS)
def test_an_input_is_no_output(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    option: str,
    target: str,
    other: str,
    way: str,
) -> None:
    name = WAYS[way](target)
    before = everything(here)
    assert main([*command, option, name]) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert told.out == ""
    assert f"is the same file as {target} of {other}" in line, line
    assert f"Give {option.replace('-o', '--output')} a name of its own" in line
    assert everything(here) == before


OUTPUTS = [
    (["solve", "a.h5", "-o", "r.h5", "--checkpoint", "r.h5"], "--checkpoint", "--output"),
    (["solve", "a.h5", "-o", "r.h5", "--log-file", "./r.h5"], "--log-file", "--output"),
    (["solve", "a.h5", "--log-file", "a.result.h5"], "--log-file", "--output"),
    (["solve", "a.h5", "--checkpoint", "c.h5", "--log-file", "c.h5"], "--log-file", "--checkpoint"),
    (["solve", "-o", "poisson2d-n256-p1.h5"], "--output", "the file made of the default problem"),
    (
        ["solve", "a.h5", "-o", "r.0.h5", "--log-file", "r.h5", "--log-all-ranks"],
        "--log-file",
        "--output",
    ),
    (["newton", "--checkpoint", "bratu2d.result.h5"], "--checkpoint", "--output"),
    (["grad", "a.h5", "--log-file", "a.gradient.h5"], "--log-file", "--output"),
]


@pytest.mark.parametrize(("command", "one", "other"), OUTPUTS)
def test_two_outputs_are_two_files(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], one: str, other: str
) -> None:
    before = everything(here)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{one}: is the same file as " in line
    assert f"{other}." in line
    assert everything(here) == before


def test_of_a_generator_nothing_is_written_but_the_result(here: Path) -> None:
    before = set(everything(here))
    assert main(["eigsh", "poisson2d:n=4", "-k", "1", "--mass", "poisson2d:n=4", "-o", "w.h5"]) == 0
    assert main(["solve", "elasticity3d:n=3,nu=0.4"]) == 0
    assert set(everything(here)) - before == {"w.h5", "elasticity3d-n3-nu0.4.result.h5"}


@pytest.mark.parametrize("command", [["info"], ["solve"], ["eigsh"], ["diff", "x.h5"], ["collect"]])
def test_a_file_is_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, "a.h5/"]) == 2
    assert "a.h5/: " in (err := capsys.readouterr().err) and "is not a folder" in err


def test_links_that_lead_nowhere_yet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither file is there, and both would be one."""
    os.symlink("new.h5", "link.h5")
    assert main(["solve", "a.h5", "-o", "link.h5", "--checkpoint", "new.h5"]) == 2
    assert "--checkpoint: is the same file as link.h5 of --output" in capsys.readouterr().err
    assert not Path("new.h5").exists()


def test_names_that_differ_by_case(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _one_file("New.h5", "new.h5")
    assert not _one_file("New.h5", "runs/new.h5")
    # As on macOS: what is asked of the folder is whether it has a name in another case.
    monkeypatch.setattr("hpc_sla.cli.settle.folds_case", lambda path: True)
    assert _one_file("New.h5", "new.h5")
    assert not _one_file("New.h5", "runs/new.h5")
    assert not _one_file("New.h5", "newer.h5")


def test_an_earlier_result_is_replaced(here: Path) -> None:
    assert main(["solve", "a.h5", "-o", "x.h5"]) == 0
    assert main(["partition", "a.mtx", "-o", "old.h5"]) == 0
    assert main(["partition", "a.mtx", "-o", "old.h5", "--rhs", "manufactured"]) == 0
    assert main(["export", "x.h5", "-o", "b.npy"]) == 0
    assert np.load("b.npy").shape == (N,)


@pytest.mark.parametrize("name", ["a.mtx", "b.npy", "run.toml"])
@pytest.mark.parametrize("command", [["partition", "poisson2d:n=4"], ["solve", "a.h5"]])
def test_what_is_no_hdf5_stays(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str
) -> None:
    """A result is never written over a user's file of another kind."""
    before = everything(here)
    assert main([*command, "-o", name]) == 2
    assert f"{name}: --output: exists already" in capsys.readouterr().err
    assert everything(here) == before


def _folder() -> str:
    return "runs"


def _closed() -> str:
    Path("closed.h5").write_bytes(b"")
    os.chmod("closed.h5", 0o444)
    return "closed.h5"


def _fifo() -> str:
    os.mkfifo("fifo.h5")
    return "fifo.h5"


def _circle() -> str:
    os.symlink("one.h5", "two.h5")
    os.symlink("two.h5", "one.h5")
    return "one.h5"


PLACES: dict[str, Callable[[], str]] = {
    "folder": _folder,
    "no folder": lambda: "none/x.h5",
    "below a file": lambda: "a.h5/x.h5",
    "too long": lambda: "n" * 256 + ".h5",
    "path too long": lambda: "n/" * 2100 + "x.h5",
    "empty": lambda: "",
    "zero byte": lambda: "x\0.h5",
    "device": lambda: "/dev/full",
    "pipe": _fifo,
    "links in a circle": _circle,
    "write-protected": _closed,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "command",
    [
        ["partition", "poisson2d:n=4", "-o"],
        ["solve", "a.h5", "-o"],
        ["solve", "a.h5", "--checkpoint"],
        ["eigsh", "a.h5", "-o"],
        ["newton", "-o"],
        ["grad", "a.h5", "-o"],
    ],
)
def test_where_nothing_can_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], place: str
) -> None:
    path = PLACES[place]()
    if place == "write-protected" and os.access(path, os.W_OK):
        pytest.skip("the superuser may write anything")
    before = everything(here)
    assert main([*command, path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hpc_sla: error: ")
    assert "--checkpoint" in line or "--output" in line
    assert everything(here) == before


def test_the_longest_name_in_bytes(here: Path) -> None:
    """255 bytes serve, of which the temporary name must not need more."""
    longest = "é" * 126 + ".h5"
    assert main(["solve", "a.h5", "-o", longest]) == 0
    with pytest.raises(Exception, match="too long"):
        check_writable("é" * 128)


PIPES = [
    (["partition", "pipe.mtx", "-o", "m.h5"], "pipe.mtx", "SOURCE"),
    (["partition", "a.mtx", "-o", "m.h5", "--rhs", "pipe.npy"], "pipe.npy", "--rhs"),
    (
        ["partition", "a.mtx", "-o", "m.h5", "--coordinates", "pipe.npy"],
        "pipe.npy",
        "--coordinates",
    ),
    (["solve", "pipe.h5"], "pipe.h5", "FILE.h5"),
    (["solve", "--config", "pipe.toml"], "pipe.toml", "regular"),
    (["solve", "--config", "pipe.h5"], "pipe.h5", "regular"),
    (
        ["solve", "a.h5", "--log-file", "pipe.jsonl"],
        "pipe.jsonl",
        "error: pipe.jsonl: --log-file: is a",
    ),
    (["info", "pipe.h5"], "pipe.h5", "is a pipe"),
    (["diff", "x.h5", "pipe.h5"], "pipe.h5", "is a pipe"),
    (["collect", "x.h5", "pipe.h5"], "pipe.h5", "is a pipe"),
    (["export", "pipe.h5", "-o", "y.npy"], "pipe.h5", "is a pipe"),
    (["export", "x.h5", "-o", "y.xdmf", "--matrix", "pipe.h5"], "pipe.h5", "--matrix: is a pipe"),
    (["grad", "a.h5", "--loss", "misfit", "--target", "pipe.npy"], "pipe.npy", "--target: is a"),
]


@pytest.mark.parametrize(("command", "pipe", "said"), PIPES)
def test_a_pipe_is_refused_and_not_waited_for(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], pipe: str, said: str
) -> None:
    os.mkfifo(pipe)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert pipe in line
    assert said in line
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


@pytest.mark.parametrize("log", ["/dev/null", "/dev/stderr"])
def test_a_log_to_a_device(here: Path, log: str) -> None:
    assert main(["solve", "a.h5", "-o", "r.h5", "--log-file", log]) == 0


def test_names_that_are_not_utf8(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of a run, whatever its files are called, and what comes after it."""
    odd = os.fsdecode(b"\xff\xfe\xe9")
    os.rename("b.npy", f"{odd}.npy")
    matrix, result = f"{odd}.h5", f"{odd}.x.h5"
    assert main(["partition", "a.mtx", "-o", matrix, "--rhs", f"{odd}.npy"]) == 0
    log = ["--log-file", f"{odd}.jsonl", "--checkpoint", f"{odd}.ckpt"]
    assert main(["solve", matrix, "-o", result, "--json", *log]) == 0
    assert main(["solve", matrix, "-o", result]) == 0
    assert main(["eigsh", matrix, "-o", f"{odd}.modes.h5", "-k", "2"]) == 0
    assert (
        main(["grad", matrix, "-o", f"{odd}.g.h5", "--loss", "misfit", "--target", "c1.npy"]) == 2
    )
    assert main(["grad", matrix, "-o", f"{odd}.g.h5"]) == 0
    for command in (
        ["info", result],
        ["info", matrix],
        ["diff", result, "x.h5", "--rtol", "1e9"],
        ["collect", result],
        ["collect", result, "-o", f"{odd}.csv"],
        ["export", result, "-o", f"{odd}.npy"],
        ["verify", matrix, "--against", "scipy"],
    ):
        assert main(command) == 0, command
    assert main(["export", result, "-o", f"{odd}.xdmf", "--coordinates", "c.npy"]) == 2
    assert "UTF-8" in capsys.readouterr().err
    assert main(["solve", "--config", result, "-o", "again.h5"]) == 2  # TOML has no such names
    assert "no such file" in capsys.readouterr().err


def test_all_ranks_are_told(here: Path) -> None:
    before = everything(here)
    outcomes = run_cases(
        3,
        {
            "input": ["solve", "a.h5", "-o", "a.h5"],
            "every log": ["solve", "a.h5", "-o", "r.2.h5", "--log-file", "r.h5", "--log-all-ranks"],
            "pipe": ["solve", "a.h5", "--log-file", "none/a.jsonl", "--log-all-ranks"],
            "good": ["solve", "a.h5", "-o", "r.h5"],
        },
        here,
    )
    assert [one.codes for one in outcomes.values()] == [[2] * 3] * 3 + [[0] * 3]
    for name in ("input", "every log", "pipe"):
        assert len(outcomes[name].stderr.splitlines()) == 1, outcomes[name]
        assert outcomes[name].others == ""
    assert before.items() <= everything(here).items()
