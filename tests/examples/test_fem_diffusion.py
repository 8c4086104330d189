"""The example: its matrix beside a dense assembly, its gradient beside central differences."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.collective import dense, everywhere
from tests.launch import REPOSITORY, launch_python

PATH = REPOSITORY / "examples" / "fem_diffusion.py"


@pytest.fixture(scope="module")
def fem():
    spec = importlib.util.spec_from_file_location("fem_diffusion", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _assembled(fem, n, kappa):
    """Element by element, the textbook's way."""
    whole = np.zeros(((n + 1) ** 2, (n + 1) ** 2))
    for e in range(n * n):
        nodes = (np.array([e // n, e % n]) + fem.CORNERS) @ [n + 1, 1]
        whole[np.ix_(nodes, nodes)] += kappa[e] * fem.STIFFNESS
    grid = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)[1:-1, 1:-1].ravel()
    return whole[np.ix_(grid, grid)]


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 3, 7])
def test_matrix_and_gradient(world, fem, n):
    problem = fem.Diffusion(world, n)
    everyone = np.random.default_rng(120).standard_normal(n * n) * 0.5
    m = torch.from_numpy(everyone[problem.elements.rows]).requires_grad_()
    A = problem.matrix(m.detach())
    expected = _assembled(fem, n, np.exp(everyone))
    np.testing.assert_allclose(dense(A), expected, atol=1e-14)
    observed = problem.solve(fem.true_parameters(problem.elements, n))
    loss = problem.loss(m, observed)
    loss.backward()
    direction = torch.cos(torch.from_numpy(problem.elements.rows * 1.0))
    slope = float(problem.elements.dot(m.grad, direction))
    h = 1e-4
    with torch.no_grad():
        ends = [float(problem.loss(m + s * direction, observed)) for s in (h, -h)]
    assert abs((ends[0] - ends[1]) / (2 * h) - slope) < 1e-6 * abs(slope)
    # The same gradient on any number of ranks: that of the dense computation.
    whole = torch.from_numpy(everyone).requires_grad_()
    units = [_assembled(fem, n, np.eye(n * n)[e]) for e in range(n * n)]
    K = torch.einsum("e,eij->ij", torch.exp(whole), torch.from_numpy(np.stack(units)))
    u = torch.linalg.solve(K, torch.full((len(K),), 1.0 / n**2, dtype=torch.float64))
    seen = torch.from_numpy(A.layout.allgather(observed).numpy())
    ((u - seen).square().sum() / seen.square().sum()).backward()
    mine = whole.grad[torch.from_numpy(problem.elements.rows)]
    assert everywhere(
        world, torch.allclose(m.grad, mine, atol=1e-9 * float(whole.grad.abs().max()))
    )


def test_it_runs_as_its_docstring_says(tmp_path):
    done = launch_python(2, str(PATH), "--elements", "8", "--steps", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    misfits = [float(line.split()[3]) for line in done.stdout.splitlines()]
    assert len(misfits) == 3 and misfits[-1] < 0.05 * misfits[0]
