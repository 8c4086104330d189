"""The examples of nonlinear solves, run as their docstrings say."""

from __future__ import annotations

import pytest

from tests.launch import REPOSITORY, launch_python

EXAMPLES = REPOSITORY / "examples"


def test_bratu_fold(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("--n", "31", "--steps", "8", "--top", "2.1", "--plot", "branches.png")
    done = launch_python(2, str(EXAMPLES / "bratu_branches.py"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "branches.png").stat().st_size > 5000
    lines = [line.split() for line in done.stdout.splitlines()]
    lambdas = [float(words[3]) for words in lines if words[0] == "u(centre)"]
    top = lambdas.index(max(lambdas))
    assert 2 < top < 7  # both branches
    assert abs(float(lines[-1][-1]) - 6.808) < 1e-3


def test_closure_is_learnt_alike_on_all_ranks(tmp_path):
    arguments = ("--n", "5", "--steps", "2")
    done = launch_python(4, str(EXAMPLES / "neural_closure.py"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    first, final = (float(line.split()[3]) for line in (steps[0], steps[-1]))
    assert final < 0.01 * first and last.endswith("True")
    errors = [float(line.split()[-1]) for line in steps]
    assert errors[-1] < 0.5 * errors[0]
