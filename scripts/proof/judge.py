"""What the findings come to: ratios to what is published, goals, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from published import GOAL_CARD, GOAL_SHARE, GOAL_SHARE_FROM, GOALS, TABLE2_RANKS
from record import FAIL, PASS

NOT_JUDGED = "NOT JUDGED"

Found = list[dict[str, Any]]


def card_of(parts: Found) -> str | None:
    """The name of rank 0's card; None where there is none, or nobody looked."""
    cards = [part["facts"].get("card") for part in parts if part["part"] == "machine"]
    return next(filter(None, cards), None)


def triad_of(parts: Found) -> float | None:
    """TB/s."""
    rows = [row for part in parts if part["part"] == "machine" for row in part["rows"]]
    return next((row.get("triad_tb_per_second") for row in rows), None)


def _lines(parts: Found, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rank counts and rows."""
    for part in parts:
        if part["part"] == table:
            for row in part["rows"]:
                yield part["ranks"], row


def ratios(parts: Found) -> Found:
    """Ours over published: below 1 is faster. Of rows that were solved, on whatever machine."""
    found = []
    for table in ("table1", "table2"):
        for ranks, row in _lines(parts, table):
            comparable = table == "table1" or ranks == TABLE2_RANKS
            if row["status"] == PASS and row.get("published_seconds") and comparable:
                found.append(
                    {
                        "table": table,
                        "rows": row["rows"],
                        "ranks": ranks,
                        "precond": row["precond"],
                        "seconds": row["total_seconds"],
                        "published_seconds": row["published_seconds"],
                        "ours_over_published": row["total_seconds"] / row["published_seconds"],
                    }
                )
    return found


def efficiencies(parts: Found) -> Found:
    """Of Table 2, beside one rank: seconds there over ranks times seconds, or over seconds."""
    seconds = {
        (
            row["scaling"],
            row["precond"],
            ranks,
            row["n"] if row["scaling"] == "strong" else None,
        ): row
        for ranks, row in _lines(parts, "table2")
        if row["status"] == PASS
    }
    found = []
    for (scaling, precond, ranks, n), row in seconds.items():
        alone = seconds.get((scaling, precond, 1, n))
        if ranks > 1 and alone is not None:
            share = alone["total_seconds"] / row["total_seconds"]
            share /= ranks if scaling == "strong" else 1
            line = {"scaling": scaling, "precond": precond, "ranks": ranks, "rows": row["rows"]}
            found.append({**line, "efficiency": share})
    return found


def goals(parts: Found, small: bool) -> Found:
    """The project's own, judged on the card that they are for."""
    card, triad = card_of(parts), triad_of(parts)
    judged = not small and card is not None and GOAL_CARD in card
    rows = {(row["n"], row.get("precond")): row for _, row in _lines(parts, "table1")}

    def line(
        name: str, goal: float, value: float | None, reached: bool, why: str
    ) -> dict[str, Any]:
        status = (PASS if reached else FAIL) if judged and value is not None else NOT_JUDGED
        reason = why if value is None else "" if judged else f"goals are for an NVIDIA {GOAL_CARD}"
        return {"name": name, "goal": goal, "value": value, "status": status, "reason": reason}

    found = []
    for n, goal in GOALS.items():
        row = rows.get((n, "amg"), {})
        value = row.get("total_seconds") if row.get("status") == PASS else None
        why = row.get("reason", "it was not run")
        found.append(
            line(f"{n * n} rows, cg + amg, seconds", goal, value, (value or 0) <= goal, why)
        )
    for (n, precond), row in rows.items():
        if precond == "jacobi" and n * n >= GOAL_SHARE_FROM:
            speed = row.get("tb_per_second")
            share = speed / triad if speed and triad else None
            why = row.get("reason", "the part machine did not run")
            name = f"{n * n} rows, cg + jacobi, an iteration's share of the triad's speed"
            found.append(line(name, GOAL_SHARE, share, (share or 0) >= GOAL_SHARE, why))
    return found


def failures(parts: Found, reached: Found) -> list[str]:
    """What failed, a line each."""
    found = []
    for part in parts:
        where = f"{part['part']} on {part['ranks']}"
        if part["status"] == FAIL:
            found.append(f"{where}: {part['reason']}")
        for one in [*part["checks"], *part["rows"]]:
            if one["status"] == FAIL and one.get("ours", True):
                found.append(f"{where}: {one['name']}: {one.get('reason') or _figures(one)}")
    missed = [g for g in reached if g["status"] == FAIL]
    return found + [f"goal: {g['name']}: {g['value']:.3g}, not {g['goal']}" for g in missed]


def _figures(one: dict[str, Any]) -> str:
    """What was wrong about it, from its figures."""
    told = ("status_told", "iterations", "residual", "residual_allowed", "error", "error_allowed")
    told += ("from_scipy_rhs", "from_scipy_values", "from_differences", "entries_that_differ")
    said = [f"{key} {one[key]}" for key in (*told, "rtol", "notices") if key in one]
    return ", ".join(said) or "wrong"


def verdict(parts: Found, reached: Found) -> str:
    """PASS where something passed and nothing failed."""
    passed = any(one["status"] == PASS for p in parts for one in [*p["checks"], *p["rows"]])
    return PASS if passed and not failures(parts, reached) else FAIL
