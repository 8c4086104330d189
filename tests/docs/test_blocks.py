"""README and guide are true when they are pasted, block after block."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from tests.docs import run_blocks
from tests.launch import REPOSITORY, launch_python

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "docs" / "guide.md"]


@pytest.fixture
def folder(tmp_path):
    """With what the text takes for granted: a matrix and a right-hand side of the reader's."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(15, 15))
    scipy.io.mmwrite(tmp_path / "mine.mtx", sp.kronsum(line, line).tocoo())
    plain = (tmp_path / "mine.mtx").read_bytes()
    (tmp_path / "mine.mtx.gz").write_bytes(gzip.compress(plain))
    np.save(tmp_path / "b.npy", np.linspace(1.0, 2.0, 225))
    np.save(tmp_path / "points.npy", np.stack(np.divmod(np.arange(225), 15), axis=1) / 14)
    return tmp_path


@pytest.mark.timeout(900)
def test_every_block_runs(folder):
    """The guide after the README, whose files it goes on with; both in one launch."""
    program = Path(run_blocks.__file__)
    done = launch_python(2, program, *DOCUMENTS, timeout=850, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_is_skipped_is_there():
    """A reason outlives the block that it was for, unless somebody looks."""
    lines = "".join(document.read_text() for document in DOCUMENTS)
    assert not [start for start in run_blocks.SKIPPED if f"\n{start}" not in lines]
    assert sum(len(list(run_blocks.blocks(document))) for document in DOCUMENTS) > 30


def test_lines_that_go_on():
    text = "cat > a <<'END'\nb\nEND\n\npython x \\\n  y\nz # c\n"
    assert list(run_blocks.commands(text)) == ["cat > a <<'END'\nb\nEND", "python x   y", "z # c"]
