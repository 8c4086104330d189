"""Any rank count opens any file."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_sla.partition.offsets import column_offsets_for, even_offsets, offsets_for

PARTS = {
    "even": [0, 25, 50, 75, 100],
    "uneven": [0, 10, 40, 45, 100],
    "empty": [0, 0, 30, 30, 60],
    "one": [0, 37],
    "no rows": [0, 0, 0],
    "one row": [0, 0, 1],
    "many": np.arange(0, 1001, 10),
}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 16, 64, 150])
@pytest.mark.parametrize("name", PARTS)
def test_every_row_has_one_rank(name, ranks):
    parts = np.array(PARTS[name])
    offsets = offsets_for(parts, ranks)
    assert offsets.dtype == np.int64
    assert len(offsets) == ranks + 1
    assert offsets[0] == 0
    assert offsets[-1] == parts[-1]
    assert (np.diff(offsets) >= 0).all()


@pytest.mark.parametrize("name", PARTS)
def test_as_many_ranks_as_parts_are_the_parts(name):
    parts = np.array(PARTS[name])
    np.testing.assert_array_equal(offsets_for(parts, len(parts) - 1), parts)


def test_a_divisor_merges_whole_neighbours():
    assert offsets_for(PARTS["uneven"], 2).tolist() == [0, 40, 100]
    assert offsets_for(PARTS["uneven"], 1).tolist() == [0, 100]
    assert offsets_for(PARTS["many"], 20).tolist() == list(range(0, 1001, 50))


def test_whole_parts_where_that_is_nearly_even():
    offsets = offsets_for(PARTS["many"], 7)
    assert set(offsets) <= set(PARTS["many"])
    assert np.diff(offsets).max() <= 1.1 * 1000 / 7


def test_else_equal_runs():
    assert offsets_for(PARTS["even"], 3).tolist() == [0, 33, 66, 100]


@pytest.mark.parametrize("ranks", [5, 6, 7, 8, 9, 16, 23, 100])
@pytest.mark.parametrize("name", ["even", "uneven", "one", "empty"])
def test_more_ranks_split_parts_and_straddle_none(name, ranks):
    parts = np.array(PARTS[name])
    offsets = offsets_for(parts, ranks)
    assert set(parts) <= set(offsets)
    for start, stop in zip(parts[:-1], parts[1:], strict=True):
        inside = np.diff(offsets[(offsets >= start) & (offsets <= stop)])
        inside = inside[inside > 0]
        if len(inside):
            assert inside.max() - inside.min() <= 1
    fair = parts[-1] / ranks
    assert np.diff(offsets).max() <= max(np.ceil(2 * fair), 1)


def test_more_ranks_than_rows_leaves_some_empty():
    offsets = offsets_for([0, 1, 2], 5)
    assert sorted(np.diff(offsets)) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("n", "ranks"), [(0, 3), (1, 4), (10, 3), (100, 7), (10**13, 9)])
def test_even_offsets(n, ranks):
    offsets = even_offsets(n, ranks)
    sizes = np.diff(offsets)
    assert offsets.dtype == np.int64
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_no_ranks_is_a_mistake():
    for function in (even_offsets, offsets_for):
        with pytest.raises(ValueError, match="0 ranks"):
            function([0, 1] if function is offsets_for else 1, 0)


COLUMNS = {
    name: np.random.default_rng(len(name)).integers(0, 40, len(PARTS[name])) for name in PARTS
}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 16, 64, 150])
@pytest.mark.parametrize("name", PARTS)
def test_every_column_has_one_rank_and_stays_with_its_part(name, ranks):
    parts = np.array(PARTS[name])
    columns = np.cumsum(COLUMNS[name]) - COLUMNS[name][0]
    rows_at = offsets_for(parts, ranks)
    found = column_offsets_for(parts, columns, rows_at)
    assert found.dtype == np.int64
    assert (found[0], found[-1], len(found)) == (0, columns[-1], ranks + 1)
    assert (np.diff(found) >= 0).all()
    for p, row in enumerate(parts):
        # Where ranks are divided at the edge of a part, so are its columns.
        (edges,) = np.nonzero(rows_at[1:-1] == row)
        if len(edges) and np.count_nonzero(parts == row) == 1:
            assert columns[p] in found[1:-1][edges]


@pytest.mark.parametrize("name", PARTS)
def test_as_many_ranks_as_parts_have_the_parts_columns(name):
    parts = np.array(PARTS[name])
    columns = np.cumsum(COLUMNS[name]) - COLUMNS[name][0]
    found = column_offsets_for(parts, columns, offsets_for(parts, len(parts) - 1))
    np.testing.assert_array_equal(found, columns)


def test_a_split_part_shares_out_its_columns():
    rows = np.array([0, 30, 60])
    assert column_offsets_for(
        rows, np.array([0, 9, 30]), np.array([0, 10, 20, 30, 60])
    ).tolist() == [
        0,
        3,
        6,
        9,
        30,
    ]
