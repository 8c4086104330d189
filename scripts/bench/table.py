"""The table of a corpus and the figures that stand below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from systems import SMALL

PEERS = ("petsc", "petsc_true", "gamg", "superlu")
"""What they are: scripts/bench/runs.py."""
LIMIT = 1e-8 * 1.01
"""A system is solved where the true residual, relative to b, is at most this."""
FALSE = "*** FALSE converged ***"

Run = dict[str, Any]
Runs = dict[tuple[str, str, int], Run]


def key(line: Run) -> tuple:
    """What tells a run from another."""
    named = line.get("named") or {}
    return line["system"], line["who"], line["ranks"], named.get("method"), named.get("precond")


def solved(run: Run | None) -> bool:
    return run is not None and run.get("residual", math.inf) <= LIMIT


def _nearly(run: Run) -> bool:
    """A peer's that stopped by another norm than that of b - A x, not far from the limit."""
    near = run.get("converged", False) and run.get("residual", math.inf) <= 1e-6
    return run["who"] != "ours" and near and not solved(run)


def false_converged(run: Run) -> bool:
    return run["who"] == "ours" and run.get("converged", False) and not solved(run)


def _systems(runs: Runs) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in runs))


def _time(run: Run | None, clock: str) -> float:
    if run is None or not solved(run):
        return math.inf
    return run["seconds" if clock == "wall" else "cpu"]


def _best(runs: Runs, name: str, clock: str, peers: tuple[str, ...] = PEERS) -> float:
    return min(_time(runs.get((name, peer, 1)), clock) for peer in peers)


def _ratio(runs: Runs, name: str, clock: str, peers: tuple[str, ...] = PEERS) -> float | None:
    """Ours over the best of the peers that solve it, on one rank; None where one side does not."""
    ours, best = _time(runs.get((name, "ours", 1)), clock), _best(runs, name, clock, peers)
    return ours / best if math.isfinite(ours) and math.isfinite(best) else None


def _cell(run: Run | None, clock: str) -> str:
    if run is None:
        return "-"
    if run.get("error"):
        return "time" if "no end" in run["error"] else "error"
    seconds = run["seconds" if clock == "wall" else "cpu"]
    return f"{seconds:.2f}" if solved(run) else f"({run['residual']:.0e})"


def table(runs: Runs, clock: str) -> str:
    """A row for each system: seconds where it is solved, (the true residual) where not."""
    heads = ["system", "rows", "entries", "chosen", "its", "residual", "ours", "ours@4",
             "petsc", "petsc@4", "petsc_true", "gamg", "superlu", "ratio"]  # fmt: skip
    rows = [heads]
    for name in _systems(runs):
        ours, any_run = (
            runs.get((name, "ours", 1)),
            next(run for (system, _, _), run in runs.items() if system == name),
        )
        answered = ours is not None and not ours.get("error")
        ratio = _ratio(runs, name, clock)
        rows.append(
            [
                name,
                str(any_run["rows"]),
                str(any_run["entries"]),
                f"{ours['method']} + {ours['precond']}" if answered else "",
                str(ours["iterations"]) if answered else "",
                f"{ours['residual']:.1e}" if answered else "",
                *(_cell(runs.get((name, "ours", ranks)), clock) for ranks in (1, 4)),
                *(_cell(runs.get((name, "petsc", ranks)), clock) for ranks in (1, 4)),
                *(_cell(runs.get((name, peer, 1)), clock) for peer in PEERS[1:]),
                "" if ratio is None else f"{ratio:.2f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    left = {0, 3}
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _share(names: list[str], hit: Callable[[str], bool]) -> str:
    count = sum(map(hit, names))
    return f"{count} of {len(names)} ({100 * count / max(len(names), 1):.1f} %)"


def figures(runs: Runs, clock: str) -> str:
    """Shares solved, false `converged`, ratios of time, agreement of 1 and 4 ranks."""
    names = _systems(runs)
    lines = [""]
    for who, ranks in sorted({run[1:] for run in runs}):
        ran = [name for name in names if (name, who, ranks) in runs]
        if ran:
            share = _share(ran, lambda name, w=who, r=ranks: solved(runs[name, w, r]))
            near = sum(_nearly(runs[name, who, ranks]) for name in ran)
            lines.append(
                f"solved by {who} on {ranks} rank(s): {share}"
                + (f"; {near} more to 1e-6, converged by its own norm" if near else "")
            )
    by_peers = [name for name in names if math.isfinite(_best(runs, name, clock))]
    lines.append(f"solved by any peer on 1 rank: {_share(names, set(by_peers).__contains__)}")
    for ranks in (1, 4):
        ran = [name for name in names if (name, "ours", ranks) in runs]
        if not ran:
            continue
        mine = {name for name in ran if solved(runs[name, "ours", ranks])}
        theirs = [name for name in ran if name in set(by_peers)]
        lines.append(
            f"of what any peer solves, solved by ours on {ranks} rank(s): "
            f"{_share(theirs, mine.__contains__)}; solved by ours and by no peer: "
            f"{len(mine.difference(by_peers))}"
        )
        for peer in PEERS[:2]:
            both = [name for name in ran if (name, peer, ranks) in runs]
            if both:
                petsc = sum(solved(runs[name, peer, ranks]) for name in both)
                points = 100 * (len(mine.intersection(both)) - petsc) / len(both)
                lines.append(f"points above {peer} on {ranks} rank(s): {points:+.1f}")
    for what, small, peers in (
        (f"{SMALL} rows or more, over the best peer that solves", False, PEERS),
        (f"less than {SMALL} rows, over SuperLU", True, ("superlu",)),
    ):
        found = [
            ratio
            for name in names
            if name.endswith("-s") == small
            and (ratio := _ratio(runs, name, clock, peers)) is not None
        ]
        if found:
            lines.append(f"time, {what}: median {median(found):.2f} of {len(found)} systems")
    pairs = [
        (a, b)
        for name in names
        if (a := runs.get((name, "ours", 1))) and (b := runs.get((name, "ours", 4)))
        if not a.get("error") and not b.get("error")
    ]
    if pairs:
        same = sum(all(a[k] == b[k] for k in ("method", "precond")) for a, b in pairs)
        lines.append(f"same choice on 1 and 4 ranks: {same} of {len(pairs)}")
    lines += [
        f"not solved by ours on {run['ranks']} rank(s), though by a peer: {name} "
        f"({run.get('error') or run['status']})"
        for (name, who, _), run in runs.items()
        if who == "ours" and not solved(run) and name in by_peers
    ]
    false = [run for run in runs.values() if false_converged(run)]
    lines.append(f"false converged: {len(false)}")
    lines += [
        f"  {FALSE} {run['system']} on {run['ranks']} rank(s): {run['residual']:.2e} by "
        f"{run['method']} + {run['precond']}"
        for run in false
    ]
    return "\n".join(lines)
