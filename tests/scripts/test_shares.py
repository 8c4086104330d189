"""The shares of the serial tests that scripts/test.sh runs beside each other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.launch import REPOSITORY
from tests.shares import SECONDS, shared


def _item(file, number, collective=False):
    return SimpleNamespace(
        nodeid=f"{file}::test_{number}", get_closest_marker=lambda name: collective or None
    )


@pytest.mark.parametrize("shares", [1, 2, 3])
def test_each_test_is_in_one_share(shares):
    files = [*SECONDS, "tests/a.py", "tests/b.py", "tests/c.py"]
    items = [_item(file, number) for file in files for number in range(3)]
    collective = [_item("tests/d.py", number, collective=True) for number in range(2)]
    found = [shared(items + collective, f"{i + 1}/{shares}") for i in range(shares)]
    assert all(found)
    told = sorted(item.nodeid for share in found for item in share)
    assert told == sorted(item.nodeid for item in items)
    homes = [{item.nodeid.partition("::")[0] for item in share} for share in found]
    assert sum(map(len, homes)) == len(files), "a module's fixtures are made in one process"


def test_the_files_that_are_named_are_there():
    assert not [file for file in SECONDS if not (REPOSITORY / file).is_file()]
