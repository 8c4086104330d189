"""The tables after eigsh."""

from __future__ import annotations

from typing import Any

from hpc_sla.linear.info import MEANINGS
from hpc_sla.report.tables import count, dimensions, print_facts, seconds, size


def print_modes(summary: dict[str, Any], problem: str, how: str) -> None:
    """Print what was found, how well, how long it took, and where the result is.

    Parameters
    ----------
    summary : dict
        What ``eigsh --json`` prints.
    problem, how : str
        The input, and the method with its preconditioner.
    """
    spent, status = summary["seconds"], summary["status"]
    ended = f"{status} in {count(summary['iterations'])} iterations"
    if status != "converged":
        done = summary["statuses"].count("converged")
        ended += f", {done} of {len(summary['statuses'])} pairs converged: {MEANINGS[status]}"
    shape = (summary["rows"], summary["rows"])
    facts = [
        ("problem", problem),
        ("matrix", f"{dimensions(shape)}, {count(summary['nnz'])} entries"),
        ("ran on", f"{summary['ranks']} rank(s), {summary['device']}, {summary['transport']}"),
        ("method", how),
        ("status", ended),
    ]
    rows = zip(summary["eigenvalues"], summary["residual_norms"], summary["statuses"], strict=True)
    for i, (value, norm, one) in enumerate(rows, start=1):
        note = "" if one == "converged" else f", {one}"
        facts.append(
            (f"pair {i}", f"{_number(value, '.12g')}   residual {_number(norm, '.1e')}{note}")
        )
    facts += [
        ("time", ", ".join(f"{stage} {seconds(value)}" for stage, value in spent.items())),
        ("peak memory", f"{size(summary['peak_rss_bytes_max'])} on the largest rank"),
        ("result", summary["result"]),
    ]
    print_facts("eigsh", facts)


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
