"""Four new users go from the site's first page to what they came for, by its links and commands.

The FEM engineer's and the PyTorch researcher's commands are run with those of all pages, and their
goals looked at, in test_blocks.py. The cluster operator's and the contributor's are here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import scipy.io
import scipy.sparse as sp

from tests.docs import pages
from tests.docs.run_blocks import blocks, commands
from tests.launch import REPOSITORY, environment
from tests.scripts.test_slurm import run
from tests.scripts.test_slurm import slurm as slurm
from tests.scripts.test_slurm_jobs import printed_in, wait

WAYS = [pages.ENGINEER, pages.RESEARCHER, pages.OPERATOR, pages.CONTRIBUTOR]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
def test_each_page_leads_to_the_next(way):
    for page, after in zip([pages.FIRST, *way], way, strict=False):
        assert after in [name for name, _ in pages.links(page)]


def lines_of(page: str) -> list[str]:
    return [line for block in blocks(REPOSITORY / page) for line in commands(block.text)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_operator_runs_a_users_matrix(slurm, tmp_path):
    """What the page on batch jobs says of a matrix, on two nodes in place of four."""
    partition, submit = (
        next(line for line in lines_of("jobs/README.md") if word in line)
        for word in ("partition matrix.mtx.gz", "jobs/solve.sbatch matrix.h5")
    )
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30))
    scipy.io.mmwrite(tmp_path / "matrix.mtx", sp.kronsum(line, line).tocoo())
    for name in ("jobs", "scripts"):  # submitted from the repository's root
        (tmp_path / name).symlink_to(REPOSITORY / name)
    path = f"{sys.prefix}/bin:{slurm['PATH']}"
    env = environment(1) | slurm | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    assert run("gzip", "matrix.mtx", cwd=tmp_path).returncode == 0
    done = run(*partition.replace("64", "4").split(), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    here = re.sub(
        "--nodes=4 --ntasks-per-node=16", "--parsable --nodes=2 --ntasks-per-node=2", submit
    )
    assert here != submit
    sent = run(*here.split(), cwd=tmp_path, env=env)
    assert sent.returncode == 0, sent.stderr
    state = wait(env, sent.stdout.strip())
    assert state["JobState"] == "COMPLETED", printed_in(tmp_path)
    result = f"hpc_sla-{sent.stdout.strip()}.result.h5"
    told = run("python", "-m", "hpc_sla", "info", result, cwd=tmp_path, env=env)
    assert "converged" in told.stdout and "1e-10" in told.stdout


def python(folder, *arguments) -> subprocess.CompletedProcess[str]:
    env = environment(1) | {"PYTHONPATH": str(folder)}
    # The share of the tests that this test is in is not theirs.
    env = {name: value for name, value in env.items() if not name.startswith("HPC_SLA_TEST_")}
    return run(sys.executable, *arguments, limit=200, cwd=folder, env=env)


@pytest.mark.timeout(300)
def test_the_contributor_adds_a_method(tmp_path):
    """The page's class, by the steps of CONTRIBUTING, in a copy of the sources."""
    for name in ("hpc_sla", "tests"):
        leave = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=leave)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    text = (REPOSITORY / "docs" / "how-to" / "own_method.md").read_text()
    kind = re.search(r"^class SteepestDescent.*?(?=^\S)", text, re.M | re.S)
    steps = re.search(
        r"## Add a Krylov method\n(.*?)\n## ", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S
    )[1]
    # 1. a file with a subclass of Method, whose docstring is the help
    assert "`hpc_sla/linear/NAME.py`: a subclass of `Method`" in steps
    body = kind[0].replace("(hs.Method)", "(Method)").rstrip()
    # 3. what a step hands to the next
    assert "`carried`, `kept` and `kept_like_x`" in steps
    body = body.replace(
        "    side =", '    name = "steepest"\n    carried = ("rr", "live")\n    side ='
    )
    imports = "import math\n\nimport torch\n\nfrom hpc_sla.linear.method import Method\n\n\n"
    (tmp_path / "hpc_sla" / "linear" / "steepest.py").write_text(
        f'"""Steepest descent: for the patient."""\n\n{imports}{body}\n'
    )
    # 2. a line in METHODS
    assert "One line in `METHODS`, `hpc_sla/linear/choices.py`" in steps
    choices = tmp_path / "hpc_sla" / "linear" / "choices.py"
    last = '        "lsmr": "LSMR",\n'
    choices.write_text(
        choices.read_text().replace(last, f'{last}        "steepest": "SteepestDescent",\n')
    )

    helped = python(tmp_path, "-m", "hpc_sla", "solve", "--help")
    assert "steepest: Steepest descent: for the patient" in helped.stdout
    tests = [
        name
        for name in re.findall(r"`(?:tests/linear/)?(test_\w+\.py)`", steps)
        if "solve" not in name
    ]
    assert len(tests) == 3
    files = [*(f"tests/linear/{name}" for name in tests), "tests/adjoint/test_solve.py"]
    # It is one of those that do not end within as many steps as there are rows.
    chosen = ("-k", "steepest and not awkward")
    done = python(
        tmp_path, "-m", "pytest", "--with-mpi", "-q", "-p", "no:cacheprovider", *files, *chosen
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 30
