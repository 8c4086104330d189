"""Poisson's equation with zero boundary values: the 5- and 7-point stencils."""

from __future__ import annotations

from hpc_sla.problems.grid import GridProblem


def poisson2d(n: int = 256) -> GridProblem:
    """-Laplace(u) = f on the unit square, times h^2: 4 on the diagonal, -1 for 4 neighbours."""
    return GridProblem("poisson2d", {"n": n}, laplacian(2))


def poisson3d(n: int = 48) -> GridProblem:
    """-Laplace(u) = f on the unit cube, times h^2: 6 on the diagonal, -1 for 6 neighbours."""
    return GridProblem("poisson3d", {"n": n}, laplacian(3))


def laplacian(dimensions: int) -> dict[tuple[int, ...], float]:
    """The stencil of minus the Laplacian, times h^2."""
    stencil: dict[tuple[int, ...], float] = {(0,) * dimensions: 2.0 * dimensions}
    for axis in range(dimensions):
        for step in (-1, 1):
            stencil[tuple(step * (k == axis) for k in range(dimensions))] = -1.0
    return stencil
