"""What a solve on the CPU loads, and how often it asks the file system on the way.

Every rank of a job does it at the same time: 10^4 of them, of one file system.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch import launch_python

PROGRAM = """
import json, os, sys
asked, opened, programs = [0], [0], []
for name in ("stat", "lstat"):
    def count(*given, call=getattr(os, name), **named):
        asked[0] += 1
        return call(*given, **named)
    setattr(os, name, count)
def hook(event, given):
    opened[0] += event == "open"
    if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.system"):
        programs.append(str(given[0] if given else event))
sys.addaudithook(hook)
from hpc_sla.cli import main
code = main(sys.argv[1:])
loaded = sorted(sys.modules)
print(json.dumps([code, asked[0], opened[0], programs, loaded]))
"""

HEAVY = (
    "IPython", "matplotlib", "mpmath", "networkx", "pandas", "pyamg", "pyarrow", "pymetis", "rich",
    "scipy.integrate", "scipy.interpolate", "scipy.io", "scipy.optimize", "scipy.signal",
    "scipy.spatial", "scipy.special", "scipy.stats", "sympy", "torch._dynamo", "torch._inductor",
    "torch.onnx", "torch.utils.tensorboard", "torchvision", "triton", "xarray",
)  # fmt: skip
"""Large, and of no use to a solve of a file; some are needed by other commands."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("loading")
    command = ("partition", "poisson2d:n=8", "-o", "m.h5", "--parts", "1")
    made = launch_python(0, "-m", "hpc_sla", *command, cwd=folder)
    assert made.returncode == 0, made.stderr
    solve = ("solve", "m.h5", "-o", "x.h5", "--method", "cg", "--precond", "amg", "--json")
    # The first may have bytecode to write, which takes files of its own.
    for _ in range(2):
        done = launch_python(1, "-c", PROGRAM, *solve, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    assert found[0] == 0
    return found


def test_nothing_heavy_is_loaded(told: list) -> None:
    loaded = set(told[4])
    assert {"torch", "scipy.sparse", "h5py", "mpi4py.MPI", "hpc_sla.precond.amg.amg"} <= loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_modules_are_counted(told: list) -> None:
    """1592 with torch 2.13; each is seven file operations or so."""
    assert len(told[4]) < 1800


def test_files_are_asked_for_rarely(told: list) -> None:
    """287 and 1505 with torch 2.13. What importing itself asks is not among the first: it is above.
    Where torch may ask whose the lines are that register its operators, they are 13 000.
    """
    assert told[1] < 600
    assert told[2] < 2000


def test_no_program_is_started(told: list) -> None:
    """From a process that holds a network card that is a risk, and 10^4 of them are a load."""
    assert told[3] == []


def test_the_counts_are_of_this_process(tmp_path: Path) -> None:
    """What would be missed if `solve` did it is seen here."""
    program = PROGRAM.replace(
        "from hpc_sla.cli import main",
        "import subprocess, scipy.stats; main = lambda given: subprocess.call('true')",
    )
    done = launch_python(0, "-c", program, cwd=tmp_path)
    _, _, opened, programs, loaded = json.loads(done.stdout.splitlines()[-1])
    assert programs and opened > 100
    assert "scipy.stats" in loaded
