"""Where a process is on its node."""

from __future__ import annotations

import os

import pytest

from hpc_sla.distributed.launcher import sleep_where_crowded

HEAVY = "MPIR_CVAR_ENABLE_HEAVY_YIELD"


@pytest.mark.parametrize(
    ("ranks", "given", "expected"),
    [("5", None, "1"), ("4", None, None), ("5", "0", "0"), (None, None, None)],
)
def test_ranks_sleep_where_they_outnumber_the_cores(monkeypatch, ranks, given, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    environment = {"MPI_LOCALNRANKS": ranks, HEAVY: given}
    monkeypatch.setattr(os, "environ", {k: v for k, v in environment.items() if v is not None})
    sleep_where_crowded()
    assert os.environ.get(HEAVY) == expected
