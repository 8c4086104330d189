"""Every partitioner gives every row a part, evenly, the same each time; METIS also cuts little."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.errors import InputError
from hpc_sla.partition import METHODS, order_by_part, partition, quality, reorder
from hpc_sla.partition.metis import adjacency
from hpc_sla.partition.rcb import rcb


def grid(n):
    problem = problems.make(f"poisson2d:n={n}")
    return problem.matrix(), problem.coordinates(0, problem.n_rows)


def arrow(n):
    """One dense row and column, pattern not symmetric."""
    matrix = sp.lil_array((n, n))
    matrix[0, :] = 1
    matrix[n // 2 :, 0] = 1
    matrix.setdiag(1)
    return sp.csr_array(matrix)


def random_pattern(n):
    return sp.csr_array(sp.random_array((n, n), density=0.05, rng=np.random.default_rng(0)))


MATRICES = {
    "grid": lambda: grid(12)[0],
    "two grids": lambda: sp.block_diag([grid(7)[0], grid(9)[0]], format="csr"),
    "arrow": lambda: arrow(60),
    "one way": lambda: sp.csr_array(sp.triu(random_pattern(80), 1)),
    "random, empty rows": lambda: random_pattern(70),
    "diagonal": lambda: sp.csr_array(sp.eye_array(10)),
    "nothing stored": lambda: sp.csr_array((9, 9)),
    "one row": lambda: sp.csr_array(sp.eye_array(1)),
    "no rows": lambda: sp.csr_array((0, 0)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 2, 3, 8, 9, 100])
@pytest.mark.parametrize("name", MATRICES)
def test_every_row_has_a_part(name, parts, method):
    matrix = MATRICES[name]()
    n = matrix.shape[0]
    points = np.random.default_rng(1).random((n, 2))
    part = partition(matrix, parts, method, points)
    assert part.dtype == np.int32
    assert part.shape == (n,)
    if n:
        assert 0 <= part.min() <= part.max() < parts
    sizes = np.bincount(part, minlength=parts)
    if method != "metis" or parts >= n:
        assert sizes.max(initial=0) - sizes.min(initial=n) <= (1 if method == "contiguous" else 2)
        assert sizes.max(initial=0) <= -(-n // parts)
    np.testing.assert_array_equal(part, partition(matrix, parts, method, points))


@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix])
def test_the_argument_is_left_alone(container):
    matrix = container(random_pattern(50))
    before = [array.copy() for array in (matrix.indptr, matrix.indices, matrix.data)]
    order_by_part(partition(matrix, 3), 3, matrix)
    reorder(matrix, np.arange(50)[::-1])
    for array, copy in zip((matrix.indptr, matrix.indices, matrix.data), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", MATRICES)
def test_metis_sees_the_symmetrised_pattern_without_loops(name):
    matrix = MATRICES[name]()
    starts, neighbours = adjacency(matrix)
    assert starts.dtype == neighbours.dtype == np.int32
    dense = matrix.toarray() != 0
    dense |= dense.T
    np.fill_diagonal(dense, False)
    expected = [np.flatnonzero(row) for row in dense]
    assert starts[0] == 0
    for row, wanted in enumerate(expected):
        np.testing.assert_array_equal(neighbours[starts[row] : starts[row + 1]], wanted)


def test_values_do_not_matter_not_even_ones_that_cancel():
    pattern = random_pattern(40)
    skew = sp.csr_array((np.ones(pattern.nnz), pattern.indices, pattern.indptr), pattern.shape)
    skew = sp.csr_array(skew - skew.T)  # a plus its transpose is zero
    starts, neighbours = adjacency(skew)
    expected = adjacency(sp.csr_array(abs(skew)))
    np.testing.assert_array_equal(starts, expected[0])
    np.testing.assert_array_equal(neighbours, expected[1])


def cut_of(matrix, part, parts):
    permutation, offsets = order_by_part(part, parts)
    return quality(reorder(matrix, permutation), offsets)


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_metis_and_rcb_cut_a_grid_little_and_evenly(parts):
    n = 40
    matrix, points = grid(n)
    metis = cut_of(matrix, partition(matrix, parts), parts)
    boxes = cut_of(matrix, partition(matrix, parts, "rcb", points), parts)
    strips = cut_of(matrix, partition(matrix, parts, "contiguous"), parts)
    assert metis.row_balance < 1.05
    assert boxes.row_balance < 1.01
    # Straight cuts of the square are the measure: two parts need n, four need 2 n.
    assert metis.edge_cut <= 1.35 * boxes.edge_cut
    assert strips.edge_cut >= (parts - 1) * n
    if parts > 2:
        assert metis.edge_cut < 0.85 * strips.edge_cut
        assert boxes.edge_cut < 0.8 * strips.edge_cut


def test_metis_does_not_cut_where_it_need_not():
    matrix = sp.block_diag([grid(10)[0]] * 2, format="csr")
    shuffle = np.random.default_rng(0).permutation(200)
    part = partition(reorder(matrix, shuffle), 2)
    assert cut_of(reorder(matrix, shuffle), part, 2).edge_cut == 0


def test_metis_gives_the_same_parts_in_another_process():
    script = (
        "from hpc_sla import problems; from hpc_sla.partition import partition; import zlib;"
        "print(zlib.crc32(partition(problems.make('poisson2d:n=30').matrix(), 9).tobytes()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_rcb_cuts_across_the_longest_extent():
    points = np.random.default_rng(0).random((1000, 3)) * [1, 10, 3]
    part = rcb(points, 2)
    assert points[part == 0, 1].max() <= points[part == 1, 1].min()
    assert np.bincount(part).tolist() == [500, 500]


def test_rcb_parts_are_boxes():
    points = np.random.default_rng(0).random((999, 2))
    part = rcb(points, 7)
    lower = np.array([points[part == p].min(axis=0) for p in range(7)])
    upper = np.array([points[part == p].max(axis=0) for p in range(7)])
    for p in range(7):
        for q in range(p):
            overlap = np.minimum(upper[p], upper[q]) - np.maximum(lower[p], lower[q])
            assert (overlap < 0).any()


@pytest.mark.parametrize("kinds", [1, 3])
def test_rcb_tells_equal_points_apart_by_number(kinds):
    points = np.random.default_rng(0).integers(0, kinds, (1200, 1)).astype(float)
    part = rcb(points, 4)
    assert np.bincount(part).tolist() == [300] * 4
    for value in range(kinds):
        assert (np.diff(part[points[:, 0] == value]) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"parts": 0}, "--parts", ["is 0", "at least 1"]),
        ({"method": "metiss"}, "--method", ["'metiss'", "metis, rcb, contiguous"]),
        ({"method": "rcb", "coordinates": None}, "--coordinates", ["needs", "--coordinates"]),
        ({"method": "rcb", "coordinates": np.ones((3, 2))}, "coordinates", ["(3, 2)", "(4, d"]),
        ({"method": "rcb", "coordinates": np.ones(4)}, "coordinates", ["shape (4,)"]),
        ({"method": "rcb", "coordinates": np.full((4, 2), np.nan)}, "coordinates", ["NaN"]),
    ],
)
def test_bad_input(arguments, field, words):
    good = {"matrix": sp.csr_array(sp.eye_array(4)), "parts": 2}
    with pytest.raises(InputError) as caught:
        partition(**{**good, **arguments})
    assert caught.value.field == field
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)
