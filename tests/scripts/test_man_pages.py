"""scripts/man_pages.py: what `man` makes of every command's help."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_sla.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_pages_of_all_commands(tmp_path: Path) -> None:
    pytest.importorskip("click_man")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "man_pages.py", tmp_path],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.stem: path.read_text() for path in (tmp_path / "man1").iterdir()}
    assert set(pages) == {"hpc_sla", *(f"hpc_sla-{name}" for name in COMMANDS)}
    assert "\x08" not in "".join(pages.values())
    for name in COMMANDS:
        assert f"hpc_sla-{name}(1)" in pages["hpc_sla"]
    assert "\n.br\ncg: Conjugate gradients" in pages["hpc_sla-solve"]
    if shutil.which("man"):
        told = subprocess.run(
            ["man", "-l", "--warnings", tmp_path / "man1" / "hpc_sla-solve.1"],
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        assert not told.stderr
        lines = [line.strip() for line in told.stdout.splitlines()]
        assert any(line.startswith("cg: Conjugate gradients: symmetric") for line in lines)
