"""Rows on many ranks get the same parts as on one: even ones, that cut as little as METIS's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.errors import InputError
from hpc_sla.messages.alone import Alone
from hpc_sla.partition import order_by_part, partition, quality, reorder
from hpc_sla.partition.blocks import node_pattern
from hpc_sla.partition.parallel import METHODS, multilevel, partition_quality, partition_rows
from tests.collective import everywhere

pytestmark = pytest.mark.mpi


@pytest.fixture(autouse=True)
def _coarsened(monkeypatch):
    """Small graphs are coarsened, too, as large ones are."""
    monkeypatch.setattr(multilevel, "SMALL", 40)
    monkeypatch.setattr(multilevel, "EACH", 8)


def meshed(n, d, seed):
    """Delaunay's triangles of points that crowd in a corner, in no order."""
    from scipy.spatial import Delaunay

    points = np.random.default_rng(seed).random((n, d)) ** 2.5
    simplices = Delaunay(points).simplices
    pairs = [simplices[:, [a, b]] for a in range(d + 1) for b in range(d + 1)]
    rows, columns = np.concatenate(pairs).T
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))


def generated(spec):
    return sp.csr_array(problems.make(spec).matrix())


def star(n):
    one = np.ones((n, 1))
    return sp.csr_array(sp.block_array([[sp.eye_array(1), one.T], [None, sp.eye_array(n)]]))


def one_way(n):
    return sp.csr_array(sp.random_array((n, n), density=3 / n, rng=np.random.default_rng(0)))


def in_pieces():
    pieces = [generated("poisson2d:n=9")] * 3 + [sp.csr_array((50, 50))]
    return sp.csr_array(sp.block_diag(pieces, format="csr"))


MATRICES = {
    "grid": (lambda: generated("poisson2d:n=16"), 1),
    "mesh": (lambda: meshed(300, 2, 0), 1),
    "pieces": (in_pieces, 1),
    "star": (lambda: star(200), 1),
    "one way": (lambda: one_way(250), 1),
    "nodes": (lambda: generated("elasticity3d:n=3"), 3),
    "nothing stored": (lambda: sp.csr_array((90, 90)), 1),
    "one row": (lambda: sp.csr_array(np.ones((1, 1))), 1),
    "no rows": (lambda: sp.csr_array((0, 0)), 1),
}


def points_of(n, b):
    """Of rows, many of them alike."""
    nodes = np.random.default_rng(1).integers(0, 9, (n // b, 2)).astype(float)
    return nodes.repeat(b, axis=0)


def uneven(n, size, seed):
    """Who has which rows: anything, empty ranks and parts of nodes included."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, n + 1, size - 1))
    return np.concatenate([[0], cuts, [n]])


def on_ranks(comm, offsets, matrix, parts, method, block_size=1, weights=None, shares=None):
    """The parts of all rows, on every rank."""
    first, last = offsets[comm.rank], offsets[comm.rank + 1]
    mine = matrix[first:last]
    points = points_of(matrix.shape[0], block_size)[first:last]
    cost = None if weights is None else weights[first:last]
    arrays = mine.indptr, mine.indices.astype(np.int64)
    about = points, block_size, cost, shares
    part = partition_rows(comm, offsets, *arrays, parts, method, *about)
    assert part.dtype == np.int32
    return part if comm.size == 1 else np.concatenate(comm.allgather(part))


def whole(matrix, *arguments):
    return on_ranks(Alone(), np.array([0, matrix.shape[0]]), matrix, *arguments)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [3, 8, 300])
@pytest.mark.parametrize("name", MATRICES)
def test_parts_do_not_depend_on_who_has_which_rows(name, parts, method, world):
    make, b = MATRICES[name]
    matrix = make()
    n = matrix.shape[0]
    offsets = uneven(n, world.size, seed=parts)
    part = on_ranks(world.comm, offsets, matrix, parts, method, b)
    alone = whole(matrix, parts, method, b)
    assert everywhere(world, np.array_equal(part, alone))
    nodes = part.reshape(-1, b)
    assert (nodes == nodes[:, :1]).all()
    sizes = np.bincount(part, minlength=parts)
    assert len(sizes) == parts
    count, most = n // b, sizes.max(initial=0) // b
    if method == "multilevel":
        assert most <= max(1.03 * count / parts, -(-count // parts))
    else:
        assert most <= -(-count // parts)
    if method in ("rcb", "contiguous"):
        serial = partition(matrix, parts, method, points_of(n, b), b)
        np.testing.assert_array_equal(part, serial)


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_shares(method, world):
    matrix = meshed(400, 2, 3)
    rng = np.random.default_rng(0)
    offsets = uneven(400, world.size, 5)
    for weights in (rng.integers(1, 5, 400), rng.random(400) + 0.5):
        for shares in (None, [1, 2, 0, 3.5]):
            part = on_ranks(world.comm, offsets, matrix, 4, method, 1, weights, shares)
            assert everywhere(
                world, np.array_equal(part, whole(matrix, 4, method, 1, weights, shares))
            )
            loads = np.bincount(part, weights, 4)
            even = weights.sum() * np.array(shares or [1] * 4) / np.sum(shares or [1] * 4)
            slack = 1.03 * even if method == "multilevel" else even
            assert (loads <= slack + weights.max() * (even > 0)).all()


def cut_of(matrix, part, parts):
    permutation, offsets = order_by_part(part, parts)
    return quality(reorder(matrix, permutation), offsets).edge_cut


CUT = {
    "poisson2d": lambda: (generated("poisson2d:n=40"), 1),
    "poisson3d": lambda: (generated("poisson3d:n=12"), 1),
    "unstructured3d": lambda: (generated("unstructured3d:n=8"), 1),
    "elasticity3d": lambda: (generated("elasticity3d:n=7"), 3),
    "airfoil": lambda: (meshed(1500, 2, 1), 1),
}


@pytest.mark.parametrize("parts", [2, 4, 7, 16])
@pytest.mark.parametrize("name", CUT)
def test_multilevel_cuts_as_little_as_metis(name, parts, world, monkeypatch):
    monkeypatch.setattr(multilevel, "SMALL", 400)
    monkeypatch.setattr(multilevel, "EACH", 32)
    matrix, b = CUT[name]()
    offsets = uneven(matrix.shape[0], world.size, parts)
    part = on_ranks(world.comm, offsets, matrix, parts, "multilevel", b)[::b]
    nodes = node_pattern(matrix, b) if b > 1 else matrix
    metis = partition(matrix, parts, "metis", None, b)[::b]
    assert cut_of(nodes, part, parts) <= 1.15 * cut_of(nodes, metis, parts)


GROWING = {
    "a path": lambda: (sp.diags_array([np.ones(799)] * 2, offsets=[-1, 1]), np.arange(1, 801)),
    "a grid": lambda: (generated("poisson2d:n=110"), 1 + np.arange(110**2) % 110),
    "steeply": lambda: (generated("poisson2d:n=110"), 2.0 ** (np.arange(110**2) % 110 / 9)),
    "a star": lambda: (star(800), np.concatenate([[800], np.ones(800)])),
}


@pytest.mark.parametrize("name", GROWING)
def test_no_rank_is_given_a_graph_that_was_hardly_made_smaller(name, world, monkeypatch):
    """Where costs grow along the graph, hardly any two vertices prefer each other."""
    cut_on_rank_0 = []
    cut = multilevel._cut

    def noted(graph, *arguments, **named):
        cut_on_rank_0.append(graph.n_global)
        return cut(graph, *arguments, **named)

    monkeypatch.setattr(multilevel, "_cut", noted)
    matrix, costs = GROWING[name]()
    matrix = sp.csr_array(matrix)
    offsets = uneven(matrix.shape[0], world.size, 1)
    part = on_ranks(world.comm, offsets, matrix, 3, "multilevel", 1, costs)
    assert len(cut_on_rank_0) == 1
    assert cut_on_rank_0[0] <= 2 * multilevel.SMALL
    loads = np.bincount(part, costs, 3)
    assert loads.max() <= 1.03 * costs.sum() / 3 + costs.max()


def test_what_need_not_be_cut_is_not(world):
    matrix = sp.csr_array(sp.block_diag([generated("poisson2d:n=10")] * 4, format="csr"))
    shuffle = np.random.default_rng(0).permutation(400)
    matrix = reorder(matrix, shuffle)
    part = on_ranks(world.comm, uneven(400, world.size, 1), matrix, 2, "multilevel")
    assert cut_of(matrix, part, 2) == 0


@pytest.mark.parametrize("parts", [1, 3, 20])
@pytest.mark.parametrize("name", MATRICES)
def test_quality(name, parts, world):
    matrix = MATRICES[name][0]()
    n = matrix.shape[0]
    part = np.random.default_rng(0).integers(0, parts, n)
    permutation, part_offsets = order_by_part(part, parts)
    expected = quality(reorder(matrix, permutation), part_offsets)
    offsets = uneven(n, world.size, parts)
    first, last = offsets[world.rank], offsets[world.rank + 1]
    mine = matrix[first:last]
    arrays = mine.indptr, mine.indices, part[first:last]
    found = partition_quality(world.comm, offsets, *arrays, parts)
    assert found.edge_cut == expected.edge_cut
    for which in ("rows", "columns", "nnz", "halo", "neighbours"):
        np.testing.assert_array_equal(getattr(found, which), getattr(expected, which))


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"parts": 0}, "--parts", ["is 0", "at least 1"]),
        ({"method": "metis"}, "--method", ["'metis'", "multilevel, sfc, rcb, contiguous"]),
        ({"method": "sfc", "coordinates": None}, "--coordinates", ["needs", "multilevel"]),
        ({"method": "rcb", "coordinates": np.ones(4)}, "coordinates", ["shape (4,)"]),
        ({"method": "rcb", "coordinates": np.full((4, 2), np.nan)}, "coordinates", ["NaN"]),
        ({"indices": np.array([0, 1, 2, 99])}, "indices", ["columns 0 to 99", "without mpiexec"]),
        ({"block_size": 5}, "block_size", ["does not divide"]),
        ({"weights": np.full(4, -1.0)}, "weights", ["negative"]),
        ({"weights": np.ones(3)}, "weights", ["shape (3,)"]),
        ({"shares": [1, 2, 3]}, "shares", ["(3,)", "(2,)"]),
        ({"shares": [0, 0]}, "shares", ["all 0"]),
    ],
)
def test_bad_input_of_one_rank_is_refused_on_all(arguments, field, words, world):
    good = {"indptr": np.arange(5), "indices": np.arange(4), "parts": 2, "method": "contiguous"}
    if world.rank == world.size - 1:
        good.update(arguments)
    with pytest.raises(InputError) as caught:
        partition_rows(world.comm, 4 * np.arange(world.size + 1), **good)
    assert caught.value.field == field
    for word in words:
        assert word in str(caught.value)


def test_ranks_that_differ_are_told(world):
    if world.size == 1:
        pytest.skip("one rank agrees with itself")
    with pytest.raises(InputError, match="ranks differ"):
        partition_rows(
            world.comm,
            4 * np.arange(world.size + 1),
            np.arange(5),
            np.arange(4),
            2 + (world.rank == 1),
            "contiguous",
        )
