"""README and pages are true when they are pasted, block after block."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import h5py
import meshio
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

from tests.docs import run_blocks
from tests.docs.pages import DOCUMENTS, JOURNEYS
from tests.launch import REPOSITORY, launch_python


@pytest.fixture(scope="module")
def pasted(tmp_path_factory):
    """What is left of README and pages, all of them run in one launch.

    A journey begins in a folder of its own, with no file. The others go on with those of the
    README, and with what is taken for granted: a matrix and a right-hand side of the reader's.
    """
    folder = tmp_path_factory.mktemp("pasted")
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(15, 15))
    scipy.io.mmwrite(folder / "mine.mtx", sp.kronsum(line, line).tocoo())
    for name in ("mine.mtx.gz", "matrix.mtx.gz"):
        (folder / name).write_bytes(gzip.compress((folder / "mine.mtx").read_bytes()))
    np.save(folder / "b.npy", np.linspace(1.0, 2.0, 225))
    np.save(folder / "points.npy", np.stack(np.divmod(np.arange(225), 15), axis=1) / 14)
    apart = {page for pages in JOURNEYS.values() for page in pages}
    arguments = [REPOSITORY / page for page in DOCUMENTS if page not in apart]
    for who, pages in JOURNEYS.items():
        if who == "engineer" and find_spec("skfem") is None:
            continue
        arguments += [f"{who}/", *(REPOSITORY / page for page in pages)]
    done = launch_python(2, Path(run_blocks.__file__), *arguments, timeout=850, cwd=folder)
    return folder, done


@pytest.mark.timeout(900)
def test_every_block_runs(pasted):
    _, done = pasted
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_is_skipped_is_there():
    """A reason outlives the block that it was for, unless somebody looks."""
    lines = "".join((REPOSITORY / page).read_text() for page in DOCUMENTS)
    assert not [start for start in run_blocks.SKIPPED if f"\n{start}" not in lines]
    assert sum(len(list(run_blocks.blocks(REPOSITORY / page))) for page in DOCUMENTS) > 90


def test_lines_that_go_on():
    text = "cat > a <<'END'\nb\nEND\n\npython x \\\n  y\nz # c\n"
    assert list(run_blocks.commands(text)) == ["cat > a <<'END'\nb\nEND", "python x   y", "z # c"]


def test_blocks_between_others(tmp_path):
    """A fence that is not run does not hide the next one."""
    page = tmp_path / "page.md"
    page.write_text("```{toctree}\na\n```\ntext\n```python\nb\n```\n```text\nc\n```\n```\nd\n```\n")
    found = [(block.line, block.language, block.text) for block in run_blocks.blocks(page)]
    assert found == [(6, "python", "b\n"), (12, "", "d\n")]


def test_the_engineer_has_a_solution_on_the_mesh(pasted):
    pytest.importorskip("skfem")
    folder = pasted[0] / "engineer"
    mesh = meshio.read(folder / "disc.solution.vtu")
    u, r2 = mesh.point_data["x"], np.square(mesh.points).sum(axis=1)
    inside = ~np.isnan(u)
    assert 0.8 < inside.mean() < 1
    np.testing.assert_allclose(u[inside], (1 - r2[inside]) / 4, atol=2e-3)
    with h5py.File(folder / "modes.h5") as result:
        omega = np.sqrt(result["eigenvalues"][:])
    np.testing.assert_allclose(omega, np.pi**2 * np.array([2, 5, 5, 8, 10, 10]), rtol=0.01)
    assert (folder / "modes.png").stat().st_size > 5000


def test_the_researcher_has_a_coefficient(pasted):
    state = torch.load(pasted[0] / "researcher" / "kappa.pt")
    at = torch.cartesian_prod(*[torch.linspace(0.2, 0.8, 7, dtype=torch.float64)] * 2)
    bumps = torch.exp(-torch.cdist(at, state["centres"]).square() / 0.06)
    found = torch.exp(bumps @ state["weights"])
    true = torch.exp(1.5 * torch.exp(-(at - 0.4).square().sum(dim=1) / 0.04))
    assert (found - true).norm() < 0.1 * true.norm()
    assert (true - 1).norm() > 0.3 * true.norm()
