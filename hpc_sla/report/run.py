"""The table after a solve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hpc_sla.linear.info import MEANINGS
from hpc_sla.report.ranks import RankShare
from hpc_sla.report.tables import count, dimensions, print_facts, seconds, size, spread


def print_run(
    summary: dict[str, Any],
    shape: tuple[int, int],
    shares: Sequence[RankShare],
    problem: str,
    partition: str,
    how: str,
    status: str,
    known_error: float | None,
    advice: Sequence[str] = (),
) -> None:
    """Print what was solved, how, how well, how long it took, and where the result is.

    Parameters
    ----------
    summary : dict
        What ``solve --json`` prints.
    shape : (int, int)
        Of the matrix.
    shares : sequence of RankShare
        One per rank.
    problem, partition, how : str
        The input, the method it was partitioned with, the solver and preconditioner.
    status : str
        The solver's status, explained in words when it is not ``converged``.
    known_error : float or None
        Relative error to the solution that the file knows.
    advice : sequence of str
        What to try where it did not converge, or hides something.
    """
    spent = summary["seconds"]
    backward = summary.get("backward_error")
    residual, normal = summary["relative_residual"], summary.get("normal_residual")
    ended = f"{status} in {count(summary['iterations'])} iterations"
    if status != "converged":
        ended += f": {MEANINGS[status]}"  # type: ignore[index]
    facts = [
        ("problem", problem),
        ("matrix", f"{dimensions(shape)}, {count(summary['nnz'])} entries"),
        ("partition", _partition(partition, shares)),
        ("exchange", _exchange(shares, shape[0] == shape[1])),
        ("ran on", f"{summary['ranks']} rank(s), {summary['device']}, {summary['transport']}"),
        ("solver", how),
        ("status", ended),
        *[("" if i else "try", one) for i, one in enumerate(advice)],
        ("true residual", "not finite" if residual is None else f"{residual:.3e} (relative)"),
        *([("backward error", f"{backward:.3e} (of a row, relative)")] if backward else []),
        *([("normal residual", f"{normal:.3e} (relative)")] if normal is not None else []),
    ]
    if "statuses" in summary:
        facts.append(("columns", _columns(summary)))
    if known_error is not None:
        facts.append(("error", f"{known_error:.3e} (relative, to the known solution)"))
    facts += [
        ("time", ", ".join(f"{stage} {seconds(value)}" for stage, value in spent.items())),
        ("peak memory", f"{size(summary['peak_rss_bytes_max'])} on the largest rank"),
        ("result", summary["result"]),
    ]
    print_facts("solve", facts)


def _columns(summary: dict[str, Any]) -> str:
    """How all of several right-hand sides ended; the other lines are about the worst."""
    statuses, norms = summary["statuses"], summary["relative_residuals"]
    least = min((norm for norm in norms if norm is not None), default=math.nan)
    return (
        f"{statuses.count('converged')} of {len(statuses)} converged, "
        f"{spread(summary['column_iterations'])} iterations, residuals from {least:.3e}"
    )


def _partition(method: str, shares: Sequence[RankShare]) -> str:
    rows = [share.rows for share in shares]
    nnz = [share.nnz for share in shares]
    balance = max(nnz) * len(nnz) / max(sum(nnz), 1)
    text = f"{spread(rows)} rows a rank, balance {balance:.3f}"
    return f"{method}, {text}" if method else text


def _exchange(shares: Sequence[RankShare], square: bool) -> str:
    cut = sum(share.cut for share in shares)
    if square:
        cut //= 2  # an entry and its mirror image are one edge of the graph
    return (
        f"edge cut {count(cut)}, halo {spread([s.halo for s in shares])}, "
        f"neighbours {spread([s.neighbours for s in shares])}"
    )
