"""Several unknowns a node: no partition, order, split or file divides them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.errors import InputError
from hpc_sla.partition import METHODS, offsets_for, partition, reorder, stored_order
from hpc_sla.partition.blocks import node_pattern
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile


def whole_nodes(permutation, block_size):
    """Whether rows follow each other in whole nodes, each in order."""
    nodes = permutation.reshape(-1, block_size)
    return (nodes % block_size == np.arange(block_size)).all() and (
        nodes // block_size == nodes[:, :1] // block_size
    ).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 200])
def test_nodes_go_to_parts_whole(method, parts):
    problem = problems.make("elasticity3d:n=4")
    matrix, points = problem.matrix(), problem.coordinates(0, problem.n_rows)
    part = partition(matrix, parts, method, points, block_size=3)
    assert part.dtype == np.int32
    assert part.shape == (300,)
    np.testing.assert_array_equal(part.reshape(-1, 3), np.repeat(part[::3, None], 3, axis=1))
    sizes = np.bincount(part, minlength=parts)
    assert sizes.max() <= 1.25 * 300 / parts + 3
    nodes = sp.csr_array(abs(matrix.toarray().reshape(100, 3, 100, 3)).sum(axis=(1, 3)))
    np.testing.assert_array_equal(part[::3], partition(nodes, parts, method, points[::3]))


@pytest.mark.parametrize("scattered", [False, True])
def test_the_stored_order_keeps_nodes_together(scattered):
    """Also where reverse Cuthill-McKee undoes a scattered numbering."""
    matrix = problems.make("elasticity3d:n=6").matrix()
    nodes = matrix.shape[0] // 3
    if scattered:
        shuffled = np.random.default_rng(0).permutation(nodes)
        matrix = reorder(matrix, (3 * shuffled[:, None] + np.arange(3)).ravel())
    part = partition(matrix, 3, "metis", block_size=3)
    order = stored_order(matrix, part, 3, block_size=3)
    assert whole_nodes(order.permutation, 3)
    assert (order.part_offsets % 3 == 0).all()
    np.testing.assert_array_equal(np.diff(order.part_offsets), np.bincount(part))
    np.testing.assert_array_equal(np.sort(order.permutation), np.arange(3 * nodes))
    moved = (order.permutation != np.argsort(part, kind="stable")).any()
    assert moved == scattered


def test_the_node_pattern_is_that_of_dense_blocks():
    rng = np.random.default_rng(1)
    matrix = sp.csr_array(sp.random_array((12, 12), density=0.15, rng=rng))
    blocks = (abs(matrix.toarray()).reshape(6, 2, 6, 2).sum(axis=(1, 3))) > 0
    pattern = node_pattern(matrix, 2)
    np.testing.assert_array_equal(pattern.toarray(), blocks)
    assert pattern.has_canonical_format


@pytest.mark.parametrize("cuts", [[0, 3, 12, 15], [0, 0, 30], [0, 300], [0]])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 40])
def test_ranks_get_whole_nodes(cuts, ranks):
    cuts = np.array([*cuts, cuts[-1]])
    offsets = offsets_for(cuts, ranks, 3)
    assert (offsets % 3 == 0).all()
    assert len(offsets) == ranks + 1
    assert offsets[0] == 0 and offsets[-1] == cuts[-1]
    assert (np.diff(offsets) >= 0).all()
    if len(cuts) == 3 and ranks not in (1, 2):  # one full part and an empty one
        assert np.diff(offsets).max() - np.diff(offsets).min() <= 3


@pytest.mark.parametrize(
    ("shape", "block_size", "words"),
    [((7, 7), 2, "does not divide 7 rows"), ((6, 6), 0, "is 0"), ((6, 4), 2, "6 x 4")],
)
def test_blocks_that_do_not_fit(shape, block_size, words):
    with pytest.raises(InputError, match=words):
        partition(sp.csr_array(shape), 2, "contiguous", block_size=block_size)


def test_files_say_the_block_size_and_importing_them_keeps_it(tmp_path):
    path, again = tmp_path / "a.h5", tmp_path / "b.h5"
    source = load_source("elasticity3d:n=3")
    write_partitioned(source, path, 5, "metis")
    with MatrixFile(path) as file:
        assert file.block_size == 3
        assert file.attributes["block_size"] == 3
        assert whole_nodes(file.read_permutation(0, file.n_rows), 3)
        assert (file.part_offsets % 3 == 0).all()
        points = file.read_coordinates(0, file.n_rows)
        np.testing.assert_array_equal(points[0::3], points[2::3])
    assert (read_source(path).matrix != source.matrix).nnz == 0
    write_partitioned(load_source(str(path)), again, 2, "rcb")
    with MatrixFile(again) as file:
        assert file.block_size == 3
        assert whole_nodes(file.read_permutation(0, file.n_rows), 3)
    write_partitioned(load_source("poisson2d:n=4"), again, 2, "rcb")
    with MatrixFile(again) as file:
        assert file.block_size == 1
        assert file.says_block_size


@pytest.mark.parametrize(
    ("size", "words"), [(0, "is 0"), (2, "multiple of it"), ("x", "whole number")]
)
def test_a_wrong_block_size_in_a_file(tmp_path, size, words):
    import h5py

    path = tmp_path / "a.h5"
    write_partitioned(load_source("poisson2d:n=3"), path, 2, "contiguous")
    with h5py.File(path, "r+") as file:
        file.attrs["block_size"] = size
    with pytest.raises(InputError, match=words) as caught:
        MatrixFile(path)
    assert "block_size" in str(caught.value)
