"""`plot`: each picture is there and not blank, and what it draws is what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.cli import main
from hpc_sla.cli.plot import KINDS
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.matrix_file import MatrixFile
from tests.cli.cases import run_cases
from tests.cli.test_results import here as here
from tests.cli.test_results import write

figures = pytest.importorskip("matplotlib.figure")
Image = pytest.importorskip("PIL.Image")

from hpc_sla.report import drawn, plots  # noqa: E402


def colours(path: Path) -> int:
    """How many a picture has, greys of its text and frame among them."""
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 2 ranks with all that it leaves, others to compare it with, and matrices."""
    folder = tmp_path_factory.mktemp("plots")
    for spec in ("poisson2d:n=20", "elasticity3d:n=3"):
        write_partitioned(load_source(spec), folder / f"{spec.partition(':')[0]}.h5", 3, "metis")
    plain = load_source("poisson2d:n=6").matrix
    sp.save_npz(folder / "plain.npz", sp.coo_array(plain))
    write_partitioned(load_source(str(folder / "plain.npz")), folder / "plain.h5", 2, "metis")
    solve = ["solve", "poisson2d.h5", "--method", "cg", "--log-file"]
    amg = ["--profile", "--precond", "amg:coarse_size=30"]
    cases = {
        "amg": [*solve, "log.jsonl", *amg, "-o", "two.h5"],
        "jacobi": [*solve, "other.jsonl", "--precond", "jacobi", "-o", "jacobi.h5"],
        "modes": ["eigsh", "poisson2d.h5", "-o", "modes.h5"],
    }
    alone = {"one": [*solve, "one.jsonl", "--precond", "jacobi", "-o", "one.h5"]}
    for outcomes in (run_cases(2, cases, folder), run_cases(1, alone, folder)):
        for outcome in outcomes.values():
            assert outcome.codes[0] == 0, outcome.stderr
    return folder


PICTURES = {
    "convergence": ["two.h5", "jacobi.h5"],
    "convergence of logs": ["log.jsonl", "other.jsonl"],
    "spectrum": ["modes.h5"],
    "scaling": ["jacobi.h5", "one.h5"],
    "partition": ["poisson2d.h5"],
    "partition in space": ["elasticity3d.h5"],
    "halo": ["poisson2d.h5", "--part", "1"],
    "halo in space": ["elasticity3d.h5"],
    "spy": ["poisson2d.h5"],
    "profile": ["log.jsonl"],
    "hierarchy": ["log.jsonl"],
}


def test_all_kinds_are_drawn_here() -> None:
    assert {name.partition(" ")[0] for name in PICTURES} == set(KINDS)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(files, name, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    kind, picture = name.partition(" ")[0], tmp_path / "p.png"
    assert main(["plot", *PICTURES[name], "--kind", kind, "-o", str(picture)]) == 0
    assert colours(picture) > 20
    drawing = tmp_path / "p.svg"
    assert main(["plot", *PICTURES[name], "--kind", kind, "-o", str(drawing), "--title", "T"]) == 0
    assert "<svg" in drawing.read_text()


@pytest.mark.parametrize(
    ("file", "kind"),
    [("two.h5", "convergence"), ("modes.h5", "spectrum"), ("poisson2d.h5", "partition"),
     ("plain.h5", "spy"), ("log.jsonl", "convergence")],
)  # fmt: skip
def test_without_a_kind(files, file, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    for name, more in (("a.svg", []), ("b.svg", ["--kind", kind])):
        assert main(["plot", file, "-o", str(tmp_path / name), *more]) == 0
    # But for the date and names that are made anew each time.
    texts = [(tmp_path / name).read_text() for name in ("a.svg", "b.svg")]
    paths = [[line for line in text.splitlines() if line.startswith("L ")] for text in texts]
    assert paths[0] == paths[1]


def test_what_is_drawn_of_a_matrix(files):
    for name in ("poisson2d.h5", "elasticity3d.h5"):
        with MatrixFile(files / name) as file:
            block, offsets = file.block_size, file.part_offsets
            indptr, indices, _ = file.read_rows(0, file.n_rows)
            points, parts = drawn.points_and_parts(file)
            A = sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(file.n_rows,) * 2)
            assert drawn.filled_blocks(file).sum() == A.nnz
            for part in range(3):
                first, last = offsets[part : part + 2]
                owned, near = drawn.halo_nodes(file, part)
                assert set(owned) == {row // block for row in range(first, last)}
                named = set(A[first:last].indices) - set(range(first, last))
                assert set(near) == {row // block for row in named}
                assert (parts[owned] == part).all() and (parts[near] != part).all()
            assert len(points) == len(parts) == file.n_rows // block


def test_what_is_drawn_of_a_run(files):
    log = drawn.Log(files / "log.jsonl")
    found = log.last("profile", "")["profile"]
    ax = figures.Figure().subplots()
    plots.profile(ax, found["by_rank"], found["seconds"])
    tops = [max(bar.get_y() + bar.get_height() for bar in ax.patches if bar.get_x() < 0.5)]
    assert tops == [pytest.approx(found["seconds"], abs=1e-4)]
    for name, event in found["events"].items():
        assert max(found["by_rank"][name]) == pytest.approx(event["seconds_max"], abs=1e-6)
    levels = log.last("hierarchy", "")["levels"]
    assert len(levels) > 1 and levels[0]["rows"] == 400 and levels[0]["ranks"] == 2
    steps, residuals = log.history()
    assert steps[0] == 0 and residuals[0] == 1 and residuals[-1] < 1e-7
    ax = figures.Figure().subplots()
    plots.convergence(ax, {"a": (np.arange(4), np.array([1.0, 0.0, np.nan, 0.5]))})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 3])


def test_names_as_they_are(here):
    for name in ("_a$b.h5", "é\n$.h5"):
        write(here / name, np.ones(4))
    assert main(["plot", "_a$b.h5", "é\n$.h5", "-o", "p.png", "--title", "$ \udcff"]) == 0
    ax = figures.Figure().subplots()
    plots.spectrum(ax, {"_a": [1.0], "b": [2.0]})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [" _a", "b"]


def test_a_log_of_several_lives_and_of_one_that_was_killed(here):
    lines = [
        {"event": "start"}, {"event": "iteration", "iteration": 5, "relative_residual": 0.5},
        {"event": "start"}, {"event": "iteration", "iteration": 7, "relative_residual": 0.1},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    Path("log.jsonl").write_text(text + '{"event": "iterat')
    steps, residuals = drawn.Log("log.jsonl").history()
    assert (steps.tolist(), residuals.tolist()) == ([7], [0.1])
    assert main(["plot", "log.jsonl", "-o", "p.png"]) == 0


WRONG = {
    "suffix": (["r.h5", "-o", "p.bmp"], ".png, .svg, .pdf"),
    "nothing": (["no.h5", "-o", "p.png"], "no.h5"),
    "text": (["text", "-o", "p.png"], "not an HDF5 file"),
    "no log": (["bad.jsonl", "-o", "p.png"], "line 2"),
    "mixed": (["r.h5", "m.h5", "-o", "p.png"], "is no result, which r.h5 is"),
    "kind": (["m.h5", "--kind", "profile", "-o", "p.png"], "partition, halo, spy"),
    "several": (["m.h5", "m.h5", "--kind", "spy", "-o", "p.png"], "one too many"),
    "part": (["m.h5", "--kind", "halo", "--part", "9", "-o", "p.png"], "has no part 9"),
    "no profile": (["log.jsonl", "--kind", "profile", "-o", "p.png"], "--profile"),
    "no levels": (["log.jsonl", "--kind", "hierarchy", "-o", "p.png"], "--precond amg"),
    "no eigenvalues": (["r.h5", "--kind", "spectrum", "-o", "p.png"], "has no eigenvalues"),
    "no seconds": (["r.h5", "--kind", "scaling", "-o", "p.png"], "no converged run"),
    "onto itself": (["r.h5", "-o", "r.h5"], "r.h5"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be(here, case, capsys):
    write_partitioned(load_source("poisson2d:n=4"), "m.h5", 2, "metis")
    write(here / "r.h5", np.ones(16))
    Path("text").write_text("text\n")
    Path("log.jsonl").write_text('{"event": "start"}\n')
    Path("bad.jsonl").write_text('{"event": "start"}\n{"x": 1}\n')
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    arguments, words = WRONG[case]
    assert main(["plot", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before
