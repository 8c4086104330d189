"""Every block of README and pages, in order, as a reader who pastes them one after the other.

``mpiexec -n 2 python run_blocks.py DOCUMENT ... FOLDER/ DOCUMENT ...``, in a folder with the files
the text presumes; documents after a folder are read by somebody who begins in that one, with no
file. Blocks in `sh`, `python` or no language are run; others (`bash`, `text`, directives) are
shown only. Python blocks of a document share one namespace. Command lines of hpc_sla run within
this process, on these ranks: loading torch anew for each would take most of the time. Others run
in a shell, on rank 0. A block is skipped only for a reason that stands here.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpi4py import MPI

from hpc_sla.cli import main

SKIPPED = {
    "bash scripts/": "sets up an environment, which tests/scripts tries out",
    "pip install ": "changes the environment",
    "sbatch ": "wants a cluster",
    "source .venv/": "of the reader's own environment",
    "module load": "of a site",
    "HPC_SLA_MPI=system": "builds mpi4py",
    "mpiexec -n 4 python -m timeit": "measures",
    "strace ": "measures, with a program that may not be there",
    "eval ": "starts daemons",
    "NODES=4 ": "wants a cluster",
    "export HPC_SLA_ARCHIVE": "of a cluster",
    "mpiexec -n 2 python -m hpc_sla solve mine.h5 --device cuda": "wants a GPU",
    "mpiexec -n 2 python examples/": "tests/examples runs it",
    "import dolfinx": "no package of PyPI",
    "import firedrake": "no package of PyPI",
    "python -m hpc_sla export plate.h5": "of the reader's own mesh: tests/cli/test_export_mesh.py",
}
NEEDS = {"hpc_sla bench": "petsc4py", "import xarray": "xarray"}
RUN = ("", "sh", "python")
LAUNCHERS = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_")
COMM = MPI.COMM_WORLD


@dataclass
class Block:
    line: int
    language: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    for found in re.finditer(r"^```([^`\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if found[1] in RUN:
            yield Block(text.count("\n", 0, found.start()) + 2, found[1], found[2])


def commands(text: str) -> Iterator[str]:
    """Command lines, one with all of its here-document."""
    lines = iter(text.splitlines())
    for line in lines:
        while line.endswith("\\"):
            line = line[:-1] + next(lines)
        if end := re.search(r"<<'(\w+)'", line):
            for more in lines:
                line += "\n" + more
                if more == end[1]:
                    break
        if line.strip():
            yield line


def skipped(text: str) -> bool:
    return any(text.lstrip().startswith(start) for start in SKIPPED) or any(
        word in text and importlib.util.find_spec(module) is None for word, module in NEEDS.items()
    )


def small(line: str) -> str:
    """The same command of a smaller model problem."""
    return re.sub(r"\bn=\d{2,}", "n=16", line)


def run_command(line: str) -> None:
    words = [
        name
        for word in shlex.split(small(line), comments=True)
        for name in (sorted(glob.glob(word)) if "*" in word else [word])
    ]
    if "hpc_sla" in words:
        code = main(words[words.index("hpc_sla") + 1 :])
    else:
        code = 0
        if COMM.rank == 0:
            kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
            code = subprocess.run(["bash", "-c", line], env=kept, check=False).returncode
    if code := max(COMM.allgather(code)):  # a command that needs no MPI fails on rank 0 only
        raise SystemExit(f"exit code {code}: {line}")


def run_document(document: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document):
        # A shell's lines are looked at one by one.
        if block.language == "python" and skipped(block.text):
            continue
        place = f"{document.name}:{block.line}"
        if COMM.rank == 0:
            print(place, block.text.splitlines()[0], file=sys.stderr, flush=True)
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(document), "exec"), names)
        else:
            for line in commands(block.text):
                if not skipped(line):
                    run_command(line)
        COMM.Barrier()


if __name__ == "__main__":
    start = Path.cwd()
    for name in sys.argv[1:]:
        if name.endswith("/"):
            (start / name).mkdir(exist_ok=True)
            os.chdir(start / name)
        else:
            run_document(Path(name))
