"""Aggregates of the compiled loop, by their plain algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.kernels import multigrid as kernels
from hpc_sla.kernels import native

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="pyamg does not widen aggregates")


def _grid(n, dimensions):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    matrix = second
    for _ in range(dimensions - 1):
        matrix = sp.kronsum(matrix, second)
    return sp.csr_matrix(matrix)


def grid_in_space(n):
    """The 7-point stencil on n^3 nodes."""
    return _grid(n, 3)


def _connected_ring():
    """A node with six neighbours, two of them connected, and one that two of them lead to."""
    edges = [*((0, j) for j in range(1, 7)), (1, 2), (3, 7), (4, 7), (7, 8)]
    return _of_edges(edges, 9)


def _permuted(matrix):
    order = np.random.default_rng(1).permutation(matrix.shape[0])
    matrix = sp.csr_matrix(matrix[order][:, order])
    matrix.sort_indices()
    return matrix


def _of_edges(edges, n):
    a = 7 * np.eye(n)
    for i, j in edges:
        a[i, j] = a[j, i] = -1
    return sp.csr_matrix(a)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "matrix",
    [
        grid_in_space(7),
        _permuted(grid_in_space(6)),
        grid_in_space(5)[:90, :90],
        _grid(4, 4),
        _grid(9, 2),
        _connected_ring(),
        _of_edges([*((0, j) for j in range(1, 6)), (1, 6), (2, 6), (3, 7), (7, 8), (8, 9)], 10),
        _of_edges([*((0, j) for j in range(1, 10)), (1, 10), (2, 10)], 11),
    ],
    ids=[
        "grid",
        "permuted",
        "cut off",
        "four dimensions",
        "plane",
        "connected ring",
        "five",
        "nine",
    ],
)
def test_aggregates_are_those_of_the_plain_algorithm(matrix, dtype):
    """As written down in the sets of its definition; where all connections are of one size."""
    near = [set(np.flatnonzero(row)) - {i} for i, row in enumerate(matrix.toarray())]
    of = {}
    count = 0
    for i, ring in enumerate(near):
        if i in of or not ring or any(j in of for j in ring):
            continue
        members = {i} | ring
        if 5 <= len(ring) <= 8 and not any(near[j] & ring for j in ring):
            around = set().union(*(near[j] for j in ring)) - members
            members |= {j for j in around if j not in of and len(near[j] & ring) >= 2}
        of |= dict.fromkeys(members, count)
        count += 1
    # All entries are of one size, so that the strongest neighbour is the first.
    hosts = dict(of)
    for i, ring in enumerate(near):
        first = min((j for j in ring if j in hosts), default=None)
        if i not in hosts and first is not None:
            of[i] = hosts[first]
    for i, ring in enumerate(near):
        if i not in of and ring:
            of |= {j: count for j in {i} | ring if j not in of}
            count += 1
    group, found = kernels.aggregate(
        matrix.astype(dtype), np.sqrt(matrix.diagonal()).astype(dtype), 0.04
    )
    assert found == count
    assert group.tolist() == [of.get(i, -1) for i in range(len(near))]
