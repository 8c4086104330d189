"""One archive of the environment, unpacked once a node: jobs/unpack.sh, and what calls it.

The environment is a pretended one: a folder with a shell script for a Python.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACK = ROOT / "jobs" / "unpack.sh"


def pretend(folder: Path, python: str = 'echo started >>"${0%/*}/../../starts"') -> Path:
    """An archive as scripts/pack_environment.sh makes them."""
    inside = folder / "made" / "hpc_sla"
    (inside / "bin").mkdir(parents=True)
    (inside / "base").mkdir()
    (inside / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (inside / "bin" / "python").chmod(0o755)
    archive = folder / "env.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(inside, "hpc_sla")
    sign(archive)
    return archive


def sign(archive: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    Path(f"{archive}.sha256").write_text(f"{digest}\n")


def digest_of(archive: Path) -> str:
    return Path(f"{archive}.sha256").read_text().strip()


def unpack(archive: Path, place: Path, digest: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(UNPACK), str(archive), str(place), digest or digest_of(archive)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcomes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    told = [process.communicate(timeout=100) for process in processes]
    return [(one.returncode, *words) for one, words in zip(processes, told, strict=True)]


def test_of_eight_at_once_one_unpacks(tmp_path: Path) -> None:
    archive, place = pretend(tmp_path), tmp_path / "node" / "place"
    place.parent.mkdir()
    told = outcomes([unpack(archive, place) for _ in range(8)])
    assert [code for code, _, _ in told] == [0] * 8, told
    assert sum("unpacked into" in out for _, out, _ in told) == 1
    assert (tmp_path / "node" / "starts").read_text() == "started\n"
    assert (place / "pyvenv.cfg").read_text().startswith(f"home = {place}/base/bin\n")
    assert place.stat().st_mode & 0o077 == 0, "others could put programs there"
    subprocess.run(["bash", UNPACK, "--remove", place], check=True, timeout=60)
    assert [path.name for path in place.parent.iterdir()] == ["starts"]


def test_what_is_there_of_another_archive_is_replaced(tmp_path: Path) -> None:
    archive, place = pretend(tmp_path), tmp_path / "place"
    place.mkdir()
    (place / ".unpacked").write_text("of before\n")
    (place / "old").touch()
    assert outcomes([unpack(archive, place)])[0][0] == 0
    assert not (place / "old").exists() and (place / "bin" / "python").exists()


def test_what_was_sent_to_the_node_is_removed(tmp_path: Path) -> None:
    archive, place = pretend(tmp_path), tmp_path / "place"
    sent = tmp_path / "place.archive.env.tar.gz"
    sent.write_bytes(archive.read_bytes())
    assert outcomes([unpack(sent, place, digest_of(archive))])[0][0] == 0
    assert not sent.exists() and archive.exists()


def test_nothing_that_was_sent_is_left_where_it_has_been_unpacked_before(tmp_path: Path) -> None:
    archive, place = pretend(tmp_path), tmp_path / "place"
    assert outcomes([unpack(archive, place)])[0][0] == 0
    sent = tmp_path / "place.archive.env.tar.gz"
    sent.write_bytes(archive.read_bytes())
    assert outcomes([unpack(sent, place, digest_of(archive))]) == [(0, "", "")]
    assert not sent.exists() and archive.exists()


# In a folder where everybody can write


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    archive, place, precious = pretend(tmp_path), tmp_path / "place", tmp_path / "precious"
    precious.write_text("all of it\n")
    (tmp_path / "place.lock").symlink_to(precious)
    code, _, err = outcomes([unpack(archive, place)])[0]
    assert code == 1 and "place.lock is a symbolic link" in err
    assert precious.read_text() == "all of it\n" and not place.exists()


def plant(place: Path) -> Path:
    """A folder like one that has been unpacked; what its Python does is seen."""
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").write_text(f"#!/bin/sh\ntouch {place.parent}/run-by-others\n")
    (place / "bin" / "python").chmod(0o755)
    return place


def test_a_folder_that_comes_into_being_meanwhile_is_not_used(tmp_path: Path) -> None:
    """By a `tar` that makes it once it has unpacked."""
    archive, place = pretend(tmp_path), tmp_path / "place"
    planted = plant(tmp_path / "planted")
    fake = tmp_path / "path" / "tar"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n{shutil.which("tar")} "$@" && cp -r {planted} {place}\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", UNPACK, archive, place, digest_of(archive)],
        env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1 and "is in the way" in done.stderr
    assert not (tmp_path / "run-by-others").exists()


def test_a_folder_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    """Not taken for what had been unpacked, though it says so."""
    archive, place = pretend(tmp_path), tmp_path / "place"
    planted = plant(tmp_path / "planted")
    (planted / ".unpacked").write_text(f"{digest_of(archive)}\n")
    place.symlink_to(planted)
    code, out, _ = outcomes([unpack(archive, place)])[0]
    assert code == 0 and "unpacked into" in out and not place.is_symlink()
    assert (planted / "bin" / "python").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["place.lock", "place.archive.env.tar.gz"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, which: str) -> None:
    archive, place = pretend(tmp_path), tmp_path / "place"
    sent = tmp_path / "place.archive.env.tar.gz"
    sent.write_bytes(archive.read_bytes())
    (tmp_path / which).touch()
    os.chown(tmp_path / which, 65534, 65534)
    code, _, err = outcomes([unpack(sent, place, digest_of(archive))])[0]
    assert code == 1 and f"{which} belongs to another user" in err
    assert not place.exists()


SQUASH = ["mksquashfs", "{from}", "{to}", "-noappend", "-quiet", "-no-progress"]
ZSTD = ["sh", "-c", "tar -C {from} -cf - hpc_sla | zstd -q -o {to}"]


@pytest.mark.parametrize(
    ("suffix", "programs", "command"),
    [
        ("squashfs", ("mksquashfs", "unsquashfs"), SQUASH),
        ("tar.zst", ("zstd",), ZSTD),
    ],
)
def test_other_formats(tmp_path: Path, suffix: str, programs: tuple, command: list[str]) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {missing}")
    pretend(tmp_path)
    archive, place = tmp_path / f"env.{suffix}", tmp_path / "place"
    names = {"{from}": str(tmp_path / "made"), "{to}": str(archive)}
    for mark, name in names.items():
        command = [word.replace(mark, name) for word in command]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    sign(archive)
    code, out, err = outcomes([unpack(archive, place)])[0]
    assert code == 0 and "unpacked into" in out, err
    assert (place / "bin" / "python").exists()
    archive.write_bytes(archive.read_bytes()[:100])  # a squashfs ends in nothing but zeros
    sign(archive)
    assert outcomes([unpack(archive, tmp_path / "other")])[0][0] == 1
    assert not (tmp_path / "other").exists()


def damage_bytes(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-40])


def damage_content(archive: Path) -> None:
    damage_bytes(archive)
    sign(archive)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_bytes, "is broken: its bytes are not those that were packed"),
        (damage_content, "cannot be unpacked into"),
        (Path.unlink, "is not there"),
    ],
)
def test_a_broken_archive_says_so(tmp_path: Path, damage, words: str) -> None:
    archive, place = pretend(tmp_path), tmp_path / "place"
    damage(archive)
    for code, out, err in outcomes([unpack(archive, place) for _ in range(3)]):
        assert code == 1 and out == ""
        assert words in err and str(archive) in err
    assert not place.exists()


def test_a_python_that_does_not_start_says_so(tmp_path: Path) -> None:
    archive, place = pretend(tmp_path, "exit 3"), tmp_path / "place"
    code, _, err = outcomes([unpack(archive, place)])[0]
    assert code == 1 and "does not start here" in err
    assert not (place / ".unpacked").exists()


JOB = """
set -euo pipefail
source jobs/environment.sh
echo "environment $environment, python $(command -v python), safe ${PYTHONSAFEPATH:-0}"
ls "$HPC_SLA_NODE_DIR"
last sh -c 'exit 7'
"""
# Two nodes on this machine, as `srun` and `sbcast` would have it.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
"$@" & first=$!
"$@" & wait $! && wait $first
"""
SBCAST = """#!/bin/bash
cp "${@: -2}"
"""


@pytest.fixture
def job(tmp_path: Path):
    """Run what a job script does with environment.sh: what it printed, and on stderr."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    for name, text in {"srun": SRUN, "sbcast": SBCAST}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    node = tmp_path / "node"
    node.mkdir()
    (tmp_path / "shared" / "bin").mkdir(parents=True)
    (tmp_path / "shared" / "bin" / "activate").write_text("export VIRTUAL_ENV=activated\n")

    def run(archive: Path | str, nodes: int = 2) -> tuple[str, str]:
        kept = {name: value for name, value in os.environ.items() if name[:5] not in ("SLURM",)}
        env = {
            **kept,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HPC_SLA_ARCHIVE": str(archive), "HPC_SLA_NODE_DIR": str(node),
            "HPC_SLA_VENV": str(tmp_path / "shared"), "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": str(nodes),
        }  # fmt: skip
        env.pop("PYTHONSAFEPATH", None)
        done = subprocess.run(
            ["bash", "-c", JOB], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 7, done.stderr
        assert {path.name for path in node.iterdir()} <= {"starts"}, "left behind"
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_runs_from_the_node(tmp_path: Path, job, nodes: int) -> None:
    out, _ = job(pretend(tmp_path), nodes)
    name = f"hpc_sla-{subprocess.getoutput('id -un')}-12"
    place = tmp_path / "node" / name
    assert f"environment {place}, python {place}/bin/python, safe 1" in out
    assert f"\n{name}\n" in out, "what is on the node while the job runs"
    assert ".archive." not in out, "sent, unpacked, and no longer needed"
    assert out.count("unpacked into") == 1
    assert (tmp_path / "node" / "starts").read_text() == "started\n"


def test_a_job_whose_archive_is_broken_goes_on_without(tmp_path: Path, job) -> None:
    archive = pretend(tmp_path)
    damage_bytes(archive)
    out, err = job(archive)
    assert f"environment {tmp_path / 'shared'}, " in out and "safe 0" in out
    assert "is broken" in err and "going on with the environment in" in err


def test_a_job_without_its_archive_goes_on(tmp_path: Path, job) -> None:
    out, err = job(tmp_path / "none.squashfs")
    assert f"environment {tmp_path / 'shared'}, " in out
    assert "run 'bash scripts/pack_environment.sh'" in err


@pytest.mark.parametrize(
    "newer", ["hpc_sla/a.py", "hpc_sla/kernels/a.c", "hpc_sla/kernels/a.h", "hpc_sla/kernels/a.so",
              "shared/lib/python3.12/site-packages/hpc_sla/kernels/a.so", ""],
)  # fmt: skip
def test_a_job_runs_no_older_code_than_there_is(tmp_path: Path, job, newer: str) -> None:
    (tmp_path / "jobs").unlink()
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    archive = pretend(tmp_path)
    if newer:
        (tmp_path / newer).parent.mkdir(parents=True)
        (tmp_path / newer).touch()
        os.utime(archive, (0, 0))
    out, err = job(archive)
    if not newer:
        assert "safe 1" in out and "newer" not in err
        return
    assert f"environment {tmp_path / 'shared'}, " in out
    assert f"{newer} is newer than" in err
