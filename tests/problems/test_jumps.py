"""Jumping coefficients, against an assembly face by face."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_sla import problems


@pytest.mark.parametrize("contrast", [1e6, 1e-3])
def test_against_an_assembly_face_by_face(contrast):
    n = 11
    problem = problems.make(f"jumps2d:n={n},contrast={contrast},inclusions=4,seed=1")
    grid = np.arange(n + 2) / (n + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    k = problem.coefficient(points.reshape(-1, 2)).reshape(n + 2, n + 2)
    assert set(np.unique(k)) == {1.0, contrast}
    wide = np.zeros(((n + 2) ** 2, (n + 2) ** 2))
    number = np.arange((n + 2) ** 2).reshape(n + 2, n + 2)
    for a, b in (
        *zip(number[1:].ravel(), number[:-1].ravel(), strict=True),
        *zip(number[:, 1:].ravel(), number[:, :-1].ravel(), strict=True),
    ):
        # Two half cells in series.
        flow = 1 / (0.5 / k.flat[a] + 0.5 / k.flat[b])
        wide[np.ix_([a, b], [a, b])] += flow * np.array([[1, -1], [-1, 1]])
    inner = number[1:-1, 1:-1].ravel()
    np.testing.assert_allclose(problem.matrix().toarray(), wide[np.ix_(inner, inner)], rtol=1e-12)
    np.testing.assert_allclose(problem.coordinates(0, n * n), points[1:-1, 1:-1].reshape(-1, 2))


@pytest.mark.parametrize("given", ["contrast=1", "inclusions=0"])
def test_without_jumps_it_is_poisson(given):
    matrix = problems.make(f"jumps2d:n=9,{given}").matrix()
    assert (matrix != problems.make("poisson2d:n=9").matrix()).nnz == 0


def test_the_inclusions_cover_about_a_third_and_depend_on_the_seed():
    covered = []
    for seed in range(20):
        problem = problems.make(f"jumps2d:n=64,seed={seed}")
        inside = problem.coefficient(problem.coordinates(0, 64**2)) > 1
        covered.append(inside)
    assert 0.22 < np.mean(covered) < 0.36
    assert not np.array_equal(covered[0], covered[1])
