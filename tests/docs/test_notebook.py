"""The notebook runs as Jupyter would run it: its cells, on two ranks that ipyparallel starts."""

from __future__ import annotations

import pytest

from tests.launch import REPOSITORY, environment

PATH = REPOSITORY / "docs" / "tutorials" / "notebook.ipynb"


def test_the_notebook_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    pytest.importorskip("ipyparallel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    # Profiles of Jupyter and IPython go there, too.
    for name, value in environment(2, HOME=str(tmp_path), IPYTHONDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(PATH, as_version=4)
    shown = [text for cell in notebook.cells for text in printed(cell)]
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute(cwd=tmp_path)
    now = [text for cell in notebook.cells for text in printed(cell)]
    # Ranks print in any order.
    assert sorted(shown) == sorted(now) and len(shown) > 3


def printed(cell) -> list[str]:
    """What a cell printed, but for progress bars."""
    texts = [out.get("text") or out["data"]["text/plain"] for out in cell.get("outputs", ())]
    return [text for text in texts if text.strip() and "\r" not in text and "Starting" not in text]
