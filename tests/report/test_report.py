"""Tables, the live line, memory figures."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from hpc_sla.observe import memory
from hpc_sla.report import progress, tables, terminal


def test_facts_are_plain_ascii_and_never_wrapped() -> None:
    out = io.StringIO()
    path = "/".join(["a-long-folder-name"] * 8)
    tables.print_facts("title", [("result", path), ("[bold]", ":smile: 1 | 2")], file=out)
    text = out.getvalue()
    assert text.isascii()
    assert text.startswith("title\n")
    assert path in text
    assert "[bold]" in text
    assert ":smile:" in text
    assert "\x1b" not in text


def test_columns_to_the_right() -> None:
    out = io.StringIO()
    tables.print_table("t", ("what", "n"), [["a", "1"], ["b", "100"]], right=(1,), file=out)
    assert "|   1 |" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (tables.count(1234567), "1 234 567"),
        (tables.dimensions((1234, 1234)), "1 234 rows"),
        (tables.dimensions((1234, 12)), "1 234 x 12"),
        (tables.spread(np.array([3, 1000, 20])), "3 to 1 000"),
        (tables.spread([5, 5]), "5"),
        (tables.spread([]), "0"),
        (tables.seconds(0.0123), "0.012 s"),
        (tables.seconds(3.456), "3.46 s"),
        (tables.seconds(75.04), "75.0 s"),
        (tables.size(512), "512 B"),
        (tables.size(1536), "1.5 KiB"),
        (tables.size(3 * 2**30), "3.00 GiB"),
    ],
)
def test_numbers(text: str, wanted: str) -> None:
    assert text == wanted


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_line_is_redrawn_at_most_ten_times_a_second(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.LiveLine(0, scale=2.0, target=1e-8, enabled=True) as line:
        assert line.callback is line
        for iteration in range(1000):
            clock.now = iteration * 0.001
            line(iteration, 2e-3)
    drawn = capsys.readouterr().err.split("\r\x1b[2K")
    assert 9 <= len([piece for piece in drawn if "iteration" in piece]) <= 10
    assert drawn[-1] == ""  # erased at the end
    assert "relative residual 1.00e-03 (to 1e-08)" in drawn[1]
    assert max(map(len, drawn)) < 80


@pytest.mark.parametrize(("rank", "enabled"), [(0, False), (1, True), (1, None)])
def test_nothing_in_a_log_nor_on_other_ranks(
    capsys: pytest.CaptureFixture[str], rank: int, enabled: bool | None
) -> None:
    with progress.LiveLine(rank, scale=1.0, target=1e-8, enabled=enabled) as line:
        assert line.callback is None
    assert capsys.readouterr().err == ""


def test_the_person_at_the_terminal_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, seen in (("1", True), ("0", False)):
        monkeypatch.setenv("HPC_SLA_PROGRESS", said)
        assert terminal.stderr_reaches_terminal() is seen
    monkeypatch.delenv("HPC_SLA_PROGRESS")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal.stderr_reaches_terminal() is False


def test_peak_memory_counts_what_is_gone_again() -> None:
    assert memory.peak_rss_bytes() > 1_000_000
    if (why := memory.reset_peak()) is not None:
        pytest.skip(why)
    memory.release_free_memory()
    memory.reset_peak()
    before = memory.rss_bytes()
    assert before is not None
    size = 64_000_000
    block = np.ones(size // 8)
    del block
    memory.release_free_memory()
    after = memory.rss_bytes()
    assert after is not None
    assert after - before < size / 4
    assert 0.9 * size < memory.peak_rss_bytes() - before < 1.3 * size
