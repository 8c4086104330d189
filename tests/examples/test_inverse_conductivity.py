"""The inverse problem: its matrix cell by cell, and how near it comes to the truth."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.collective import dense
from tests.launch import REPOSITORY, launch_python

PATH = REPOSITORY / "examples" / "inverse_conductivity.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("inverse_conductivity", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.mpi
def test_the_matrix_cell_by_cell(world, example):
    n = 5
    kappa = np.random.default_rng(130).uniform(0.2, 5.0, (n, n))
    expected = np.zeros((n * n, n * n))
    for y, x in np.ndindex(n, n):
        i = y * n + x
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < n and 0 <= u < n:
                through = 2 * kappa[y, x] * kappa[v, u] / (kappa[y, x] + kappa[v, u])
                expected[i, v * n + u] = -through
            else:
                through = 2 * kappa[y, x]
            expected[i, i] += through
    m = torch.from_numpy(np.log(kappa).ravel()).to(world.device)
    np.testing.assert_allclose(dense(example.Square(world, n).matrix(m)), expected, rtol=1e-12)


@pytest.mark.mpi
def test_the_conductivity_is_recovered(world, example):
    true, found, error = example.recover(world, 20, 20)
    at_first = float((1 - torch.exp(true)).norm() / torch.exp(true).norm())
    assert error < 0.25 < 0.4 * at_first
    # L-BFGS on every rank took the same steps.
    mine = found.cpu().numpy()
    assert all((mine == other).all() for other in world.comm.allgather(mine))
    # Inside the disc, inside the bar, and far from both.
    disc, bar, far = (float(torch.exp(found[y * 20 + x])) for y, x in ((12, 7), (7, 14), (2, 2)))
    assert 4 < disc < 6 and 0.2 < bar < 0.32 and 0.9 < far < 1.1


def test_it_runs_as_its_docstring_says(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("--n", "12", "--steps", "12", "--plot", "conductivity.png")
    done = launch_python(2, str(PATH), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    errors = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(errors) == 3 and errors[-1] < 0.6 * errors[0]
    assert (tmp_path / "conductivity.png").stat().st_size > 5000
