"""Tetrahedra and hexahedra, against dense assemblies that share nothing with the package."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse.linalg
from scipy.spatial import Delaunay

from hpc_sla import problems
from hpc_sla.problems import tetrahedra


def whole_mesh(problem):
    """All points, the tetrahedra by SciPy, and which points are inside the cube."""
    n = problem.mesh.n
    points = problem.mesh.coordinates(np.arange((n + 1) ** 3 + n**3))
    simplices = Delaunay(points).simplices
    inside = ((points > 0) & (points < 1)).all(axis=1)
    return points, simplices, inside


def volumes(points, simplices):
    shifted = np.concatenate([np.ones((*simplices.shape, 1)), points[simplices]], axis=2)
    return np.abs(np.linalg.det(shifted)) / 6


@pytest.mark.parametrize("spec", ["n=1", "n=3,jitter=0.8,seed=4", "n=4", "n=4,jitter=0.05"])
def test_tetrahedra_against_a_dense_assembly(spec):
    problem = problems.make(f"unstructured3d:{spec}")
    n = problem.mesh.n
    points, simplices, inside = whole_mesh(problem)
    dense = np.zeros((len(points), len(points)))
    for corners, volume in zip(simplices, volumes(points, simplices), strict=True):
        if volume < 1e-15:
            continue
        # Hat functions are the columns of the inverse of [1 x y z].
        hats = np.linalg.inv(np.column_stack([np.ones(4), points[corners]]))
        dense[np.ix_(corners, corners)] += volume * hats[1:].T @ hats[1:]
    assert inside.sum() == problem.n_rows
    expected = n * dense[np.ix_(inside, inside)]
    np.testing.assert_allclose(problem.matrix().toarray(), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(problem.coordinates(0, problem.n_rows), points[inside])


def test_the_tetrahedra_fill_the_cube():
    problem = problems.make("unstructured3d:n=6,jitter=0.6")
    corners = problem.mesh.tetrahedra(0, 12)
    points = problem.mesh.coordinates(np.arange(7**3 + 6**3))
    assert volumes(points, corners).sum() == pytest.approx(1, rel=1e-13)
    assert len(np.unique(corners, axis=0)) == len(corners)


@pytest.mark.parametrize("margin", [1, 2, 6])
def test_slabs_are_meshed_by_the_points_nearby(margin, monkeypatch):
    """However few are tried first: where circumspheres reach further, more are taken."""
    problem = problems.make("unstructured3d:n=12,jitter=0.5,seed=1")
    whole = problem.matrix()
    looked = []
    near = tetrahedra.ScatteredMesh._near

    def watched(self, low, high, from_layer, to_layer):
        looked.append((from_layer, to_layer))
        return near(self, low, high, from_layer, to_layer)

    monkeypatch.setattr(tetrahedra.ScatteredMesh, "_near", watched)
    monkeypatch.setattr(tetrahedra, "_MARGIN", margin)
    n = problem.n_rows
    for r0, r1 in ((0, 40), (n // 2, n // 2 + 30), (n - 5, n)):
        assert (problem.rows(r0, r1) != whole[r0:r1]).nnz == 0
    assert (0, 24) not in looked
    assert (len(looked) > 3) == (margin < 6)


def test_the_error_falls_with_the_square_of_the_mesh_width():
    errors = []
    for n in (5, 10):
        problem = problems.make(f"unstructured3d:n={n}")
        points, simplices, inside = whole_mesh(problem)
        lumped = np.bincount(simplices.ravel(), np.repeat(volumes(points, simplices) / 4, 4))
        exact = np.prod(np.sin(np.pi * points[inside]), axis=1)
        load = n * 3 * np.pi**2 * exact * lumped[inside]
        x = scipy.sparse.linalg.spsolve(problem.matrix().tocsc(), load)
        errors.append(np.sqrt(np.sum(lumped[inside] * (x - exact) ** 2)))
    assert 3.2 < errors[0] / errors[1] < 5


def test_points_move_but_not_off_the_boundary():
    still, moved = (problems.make(f"unstructured3d:n=5,jitter={j}").mesh for j in (1e-9, 0.8))
    every = np.arange(6**3 + 5**3)
    before, after = still.coordinates(every), moved.coordinates(every)
    shift = 5 * (after - before)
    on_boundary = (np.round(before, 6) == 0) | (np.round(before, 6) == 1)
    assert (after[on_boundary] == np.round(before[on_boundary])).all()
    assert (abs(shift) <= 0.4 + 1e-8).all()
    assert abs(shift[~on_boundary]).mean() == pytest.approx(0.2, rel=0.1)


def dense_elasticity(n, E, nu):
    """The stiffness of all nodes, over h: strains by index notation, 27 quadrature points."""
    lame, shear = E * nu / (1 + nu) / (1 - 2 * nu), E / 2 / (1 + nu)
    grid, weight = np.polynomial.legendre.leggauss(3)
    grid, weight = (grid + 1) / 2, weight / 2
    corners = list(product((0, 1), repeat=3))
    element = np.zeros((8, 3, 8, 3))
    for q in product(range(3), repeat=3):
        at = grid[list(q)]
        slopes = np.empty((8, 3))
        for a, corner in enumerate(corners):
            one = [t if c else 1 - t for t, c in zip(at, corner, strict=True)]
            sign = [1 if c else -1 for c in corner]
            slopes[a] = [
                sign[0] * one[1] * one[2],
                one[0] * sign[1] * one[2],
                one[0] * one[1] * sign[2],
            ]
        w = np.prod(weight[list(q)])
        element += w * lame * np.einsum("ai,bj->aibj", slopes, slopes)
        element += w * shear * np.einsum("aj,bi->aibj", slopes, slopes)
        element += w * shear * np.einsum("ak,bk,ij->aibj", slopes, slopes, np.eye(3))
    node = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    dense = np.zeros((node.size, 3, node.size, 3))
    for cell in product(range(n), repeat=3):
        at = [node[tuple(np.add(cell, corner))] for corner in corners]
        for a, b in product(range(8), repeat=2):
            dense[at[a], :, at[b], :] += element[a, :, b, :]
    return dense.reshape(3 * node.size, -1)


@pytest.mark.parametrize(("n", "E", "nu"), [(1, 1.0, 0.3), (2, 210.0, -0.4), (3, 1.0, 0.45)])
def test_elasticity_against_a_dense_assembly(n, E, nu):
    every = problems.make(f"elasticity3d:n={n},E={E},nu={nu},clamped=false")
    held = problems.make(f"elasticity3d:n={n},E={E},nu={nu}")
    expected = dense_elasticity(n, E, nu)
    np.testing.assert_allclose(every.matrix().toarray(), expected, rtol=1e-11, atol=1e-12 * E)
    free = 3 * (n + 1) ** 2  # the nodes with x = 0 come first
    np.testing.assert_allclose(
        held.matrix().toarray(), expected[free:, free:], rtol=1e-11, atol=1e-12 * E
    )
    points = every.coordinates(0, every.n_rows)
    np.testing.assert_array_equal(held.coordinates(0, held.n_rows), points[free:])
    assert (points[:free, 0] == 0).all() and (points[free:, 0] > 0).all()
    np.testing.assert_array_equal(points[0::3], points[2::3])
    np.testing.assert_allclose(points[3], [0, 0, 1 / n])


def test_a_bar_that_is_pulled_has_young_s_modulus():
    """u = (x, -nu y, -nu z) is uniaxial stress E: twice the energy of the unit cube is E."""
    problem = problems.make("elasticity3d:n=3,E=7,nu=0.3,clamped=false")
    u = problem.coordinates(0, problem.n_rows).reshape(-1, 3, 3)[:, 0] * [1, -0.3, -0.3]
    energy = u.ravel() @ (problem.matrix() @ u.ravel()) / 3
    assert energy == pytest.approx(7, rel=1e-12)


def test_the_solution_is_no_rigid_motion_and_zero_on_the_clamp():
    problem = problems.make("elasticity3d:n=3,clamped=false")
    n = problem.n_rows
    field, modes = problem.field(0, n), problem.near_nullspace(0, n)
    left = field - modes @ np.linalg.lstsq(modes, field)[0]
    assert np.linalg.norm(left) > 0.1 * np.linalg.norm(field)
    assert (field[: 3 * 16] == 0).all()
