"""The tables of docs/gpu.md are what is counted."""

from __future__ import annotations

import pytest

from tests.docs import gpu_counts
from tests.launch import REPOSITORY

PAGE = REPOSITORY / "docs" / "gpu.md"
REMEDY = "run python -m tests.docs.gpu_counts, and put what it prints into docs/gpu.md"


@pytest.fixture(scope="module")
def counts():
    pytest.importorskip("triton")
    return gpu_counts.counted()


def test_the_tables_are_what_is_counted(counts):
    page = PAGE.read_text()
    assert gpu_counts.counts_table(counts) in page, REMEDY
    assert gpu_counts.predicted_table(counts) in page, REMEDY


def test_steps_launch_no_more_than_their_data_needs(counts):
    """A product with its inner products, and what lies between two reductions: see docs/gpu.md."""
    most = {"`cg`": 3, "`bicgstab`": 5, "`minres`": 3, "`pipelined_cg`": 3}
    for name, launches in most.items():
        found, plain = counts[name]
        assert found.launches <= launches < plain.launches
        assert found.bytes < plain.bytes and found.vectors == 0


def test_bytes_are_those_of_the_vectors():
    """CG's by hand: the matrix (12 bytes an entry, 4 a row), x and y of the product, which sums
    p . q on its way, then r twice, q and the inverse; x and p twice, r and the inverse."""
    found = gpu_counts.step_counts("cg", triton=True)
    by_hand = 12 * gpu_counts.ENTRIES_A_ROW + 4 + 8 * (2 + 4 + 6)
    assert found.bytes / gpu_counts.ROWS == pytest.approx(
        by_hand, rel=3e-3
    )  # and the sums of programs
