"""scripts/pack_environment.sh, of an environment without packages: what comes out runs anywhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.scripts.test_unpack import ROOT, digest_of, outcomes, unpack

PACK = ROOT / "scripts" / "pack_environment.sh"

LOOK = """
import _hashlib, importlib.util, json, os, sys
import hpc_sla
names = ("json", "hpc_sla", "_hashlib", "hpc_sla.errors")
files = [os.path.realpath(importlib.util.find_spec(name).origin) for name in names]
print(json.dumps([sys.prefix, sys.base_prefix, files, importlib.util.find_spec("pip") is None]))
"""


def pack(venv: Path, *arguments: object, script: Path = PACK) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        env={**os.environ, "HPC_SLA_VENV": str(venv)},
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_what_is_unpacked_needs_nothing_of_where_it_was_packed(tmp_path: Path) -> None:
    venv, place = tmp_path / "venv", tmp_path / "node" / "place"
    base = sys._base_executable  # type: ignore[attr-defined]
    subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True, timeout=200)
    (venv / "bin" / "hello").write_text(f"#!{venv}/bin/python\nimport sys\nprint(sys.prefix)\n")
    (venv / "bin" / "hello").chmod(0o755)
    archive = tmp_path / "env.tar.gz"
    done = pack(venv, archive)
    assert done.returncode == 0, done.stderr
    assert digest_of(archive) == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert not list(tmp_path.glob(".pack-*")), "left behind"
    venv.rename(tmp_path / "elsewhere")
    place.parent.mkdir()
    assert outcomes([unpack(archive, place)])[0][0] == 0

    kept = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    env = {**kept, "LD_LIBRARY_PATH": str(place / "base" / "lib")}
    run = {"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 100}
    told = subprocess.run([place / "bin" / "python", "-c", LOOK], **run)
    assert told.returncode == 0, told.stderr
    prefix, base_prefix, files, no_pip = __import__("json").loads(told.stdout)
    assert (prefix, base_prefix) == (str(place), str(place / "base"))
    assert all(file.startswith(f"{place}/") for file in files), files
    assert no_pip
    said = subprocess.run([place / "bin" / "hello"], **run)
    assert said.stdout.strip() == str(place), said.stderr

    # Bytecode that Python takes as it is: bit 0 says hash-based, bit 1 would have the source read.
    compiled = list(place.rglob("__pycache__/*.pyc"))
    assert {path.read_bytes()[4] for path in compiled} == {1}
    ours = {path.name.partition(".")[0] for path in compiled if "hpc_sla/cli/" in str(path)}
    assert {path.stem for path in (ROOT / "hpc_sla" / "cli").rglob("*.py")} == ours


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("installed", [True, False])
def test_the_compiled_loops_come_from_where_they_are(tmp_path: Path, installed: bool) -> None:
    """Of a clone without them: from what `pip install .` has put into the environment."""
    clone, venv = tmp_path / "clone", tmp_path / "venv"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    (clone / "hpc_sla" / "kernels").mkdir(parents=True)
    base = sys._base_executable  # type: ignore[attr-defined]
    subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True, timeout=200)
    compiled = "hpc_sla/kernels/_native" + sysconfig.get_config_var("EXT_SUFFIX")
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / compiled).parent.mkdir(parents=True)
    (packages / compiled).with_name("old.py").touch()
    if installed:
        (packages / compiled).write_text("loops")
    done = pack(venv, tmp_path / "env.tar.gz", script=clone / "scripts" / PACK.name)
    assert done.returncode == 0, done.stderr
    assert ("does without the compiled loops" in done.stderr) is not installed
    with tarfile.open(tmp_path / "env.tar.gz") as file:
        names = file.getnames()
        inside = f"hpc_sla/{packages.relative_to(venv)}/{compiled}"
        assert (inside in names) is installed
        if installed:
            assert file.extractfile(inside).read() == b"loops"
    assert not any(name.endswith("hpc_sla/kernels/old.py") for name in names)


def test_a_name_that_says_no_format_is_refused(tmp_path: Path) -> None:
    done = pack(Path(sys.prefix), tmp_path / "env.zip")
    assert done.returncode == 1 and "must end with .squashfs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_an_environment_it_says_what_makes_one(tmp_path: Path) -> None:
    done = pack(tmp_path / "none")
    assert done.returncode == 1 and "run scripts/setup.sh" in done.stderr
