"""The JSON as a short table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from judge import card_of, triad_of

Found = dict[str, Any]


def lines(found: Found) -> Iterator[str]:
    """What goes to the terminal."""
    parts = found["parts"]
    machine = next((p["facts"] for p in parts if p["part"] == "machine"), {})
    name = card_of(parts) or "no card: on the CPU"
    software = f"driver {machine.get('driver')}, CUDA {machine.get('cuda')}"
    yield f"{name}, {software}, commit {found['commit']}"
    triad = triad_of(parts)
    if triad:
        yield f"triad {triad:.3g} TB/s on each of {machine.get('ranks')} rank(s)"
    yield from _checks(parts)
    yield from _table1(parts, triad)
    yield from _table2(parts)
    yield from _peers(parts)
    for one in found["ratios"]:
        yield (
            f"{one['table']}, {one['rows']} rows on {one['ranks']}, cg + {one['precond']}: "
            f"{one['ours_over_published']:.3g} of the published time"
        )
    for goal in found["goals"]:
        value = "-" if goal["value"] is None else f"{goal['value']:.3g}"
        judged = f"{goal['status']} {goal['reason']}"
        yield f"goal {goal['name']}: {value} (goal {goal['goal']:g}): {judged}"
    for failure in found["failures"]:
        yield f"FAIL {failure}"
    yield f"{found['verdict']} after {found['seconds']:.0f} s"


def _checks(parts: list[Found]) -> Iterator[str]:
    for part in parts:
        if part["checks"]:
            good = sum(check["status"] == "PASS" for check in part["checks"])
            of = f"{good} of {len(part['checks'])} hold"
            transport = part["facts"].get("transport")
            yield f"{part['part']} on {part['ranks']} rank(s), {transport}: {of}"


def _table1(parts: list[Found], triad: float | None) -> Iterator[str]:
    rows = [row for part in parts if part["part"] == "table1" for row in part["rows"]]
    if rows:
        columns = (
            "total s",
            "set-up s",
            "its",
            "residual",
            "us/it",
            "TB/s",
            "share",
            "B/row",
            "published s",
        )
        yield f"\n{'Table 1':24}" + "".join(f"{column:>12}" for column in columns)
    for row in rows:
        speed = row.get("tb_per_second")
        cells = [
            _cell(row.get("total_seconds")), _cell(row.get("setup_seconds")),
            _cell(row.get("iterations"), "d"), _cell(row.get("residual"), ".1e"),
            _cell(_micro(row.get("seconds_per_iteration"))), _cell(speed),
            _cell(speed / triad if speed and triad else None, ".2f"),
            _cell(row.get("peak_bytes_per_row"), ".0f"), _cell(row.get("published_seconds")),
        ]  # fmt: skip
        yield _line(row, cells)


def _table2(parts: list[Found]) -> Iterator[str]:
    tables = [part for part in parts if part["part"] == "table2"]
    if any(part["rows"] for part in tables):
        columns = (
            "ranks",
            "total s",
            "set-up s",
            "its",
            "us/it",
            "halo us",
            "sum us",
            "published s",
        )
        yield f"\n{'Table 2':24}" + "".join(f"{column:>12}" for column in columns)
    for part in tables:
        for row in part["rows"]:
            cells = [
                _cell(part["ranks"], "d"), _cell(row.get("total_seconds")),
                _cell(row.get("setup_seconds")), _cell(row.get("iterations"), "d"),
                _cell(_micro(row.get("seconds_per_iteration"))),
                _cell(_micro(row.get("halo_seconds"))),
                _cell(_micro(row.get("reduction_seconds"))), _cell(row.get("published_seconds")),
            ]  # fmt: skip
            yield _line(row, cells)


def _peers(parts: list[Found]) -> Iterator[str]:
    rows = [row for part in parts if part["part"] == "peers" for row in part["rows"]]
    if rows:
        yield f"\n{'Others':36}" + "".join(f"{c:>12}" for c in ("total s", "its", "residual"))
    for row in rows:
        cells = [
            _cell(row.get("total_seconds")), _cell(row.get("iterations"), "d"),
            _cell(row.get("residual"), ".1e"),
        ]  # fmt: skip
        yield _line(row, cells, 36)
    if rows:
        yield ""


def _line(row: Found, cells: list[str], width: int = 24) -> str:
    reason = f"  {row['status']}: {row.get('reason', '')}" if row["status"] != "PASS" else ""
    return f"{row['name']:{width}}" + "".join(f"{cell:>12}" for cell in cells) + reason[:100]


def _cell(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else f"{value:{form}}"


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6
