"""What docs/gpu.md says of memory is what is counted, and within its limits."""

from __future__ import annotations

import re

import pytest
import torch

from tests.docs import gpu_memory
from tests.launch import REPOSITORY
from tests.linear.emulated_device import Allocated

MOST = {"jacobi": 100, "amg": 180}
"""Bytes a row."""

REMEDY = "run python -m tests.docs.gpu_memory, and put what it prints into docs/gpu.md"


@pytest.fixture(scope="module")
def counts():
    return {name: gpu_memory.counted(name) for name in gpu_memory.PRECONDS}


def test_the_table_is_what_is_counted(counts):
    """But for what Python has not yet collected."""
    page = (REPOSITORY / "docs" / "gpu.md").read_text()
    for name, found in counts.items():
        (row,) = re.findall(rf"^\| `cg` \+ `{name}` \|(.*)\|$", page, re.MULTILINE)
        told = [float(number) for number in row.split("|")]
        assert told == pytest.approx(list(vars(found).values()), rel=0.05, abs=1), REMEDY


@pytest.mark.parametrize("precond", gpu_memory.PRECONDS)
def test_no_more_is_held_at_a_time(counts, precond):
    found = counts[precond]
    print(found)
    assert max(found.made, found.set_up, found.solved) <= MOST[precond]
    assert found.matrix < 22  # where values, columns and row pointers are 64


def test_what_is_freed_is_not_counted():
    with Allocated() as found:
        first = torch.zeros(1000)
        second = first[:10] + 1
        both = found.now
        del first
        assert both - found.now == 4000 and found.peak == both
    assert second.numel() == 10
