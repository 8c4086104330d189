"""Figures 2 to 4: time and memory over size, and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from backends import BACKENDS
from case import SOLVED
from published import TABLE1, TABLE1_BYTES, TABLE1_DIRECT, TABLE2, TABLE2_RANKS

from hpc_sla.report.plots import scaling

Found = dict[str, Any]
Cell = dict[str, Any]
Of = Callable[[Cell], float | None]

COLOURS = dict(
    zip(
        BACKENDS,
        (
            "tab:gray", "tab:olive", "tab:brown", "black", "tab:pink", "tab:cyan", "tab:blue",
            "tab:orange", "tab:red", "tab:purple", "tab:green",
        ),
        strict=True,
    )
)  # fmt: skip
MARKERS = dict(zip(BACKENDS, "svDPX*o^<>d", strict=True))

NEVER = "matplotlib is not installed (pip install 'hpc_sla[plot]')"


def draw(found: Found, folder: Path) -> dict[str, str]:
    """Draw what there are cells for; the figures' titles by file name, or why there are none."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {"": NEVER}
    drawn = {}
    for name, title, width, fill in (
        ("figure2.png", "Figure 2: time of a solve, one process", 8.0, _times),
        ("figure3.png", "Figure 3: time of a solve on several ranks", 11.0, _ranks),
        ("figure4.png", "Figure 4: memory, one process", 8.0, _memory),
    ):
        figure = Figure(figsize=(width, 5.0), layout="constrained")
        if fill(figure, found):
            figure.suptitle(title)
            figure.savefig(folder / name, dpi=110)
            drawn[name] = title
    return drawn


def _times(figure: Any, found: Found) -> bool:
    ax = figure.subplots()
    some = _over_rows(ax, _solved(found, 1), lambda cell: cell["seconds"])
    direct = ((f"{name}, published (H200)", t) for name, t in TABLE1_DIRECT.items())
    _published(ax, [size.n**2 for size in TABLE1], direct)
    cg = ("PyTorch CG, published (H200)", [size.seconds for size in TABLE1])
    _published(ax, [size.n**2 for size in TABLE1], [cg])
    return some and _finish(ax, "seconds, set-up included")


def _memory(figure: Any, found: Found) -> bool:
    ax = figure.subplots()

    def held(cell: Cell) -> float | None:
        return cell["bytes_per_rank"]

    some = _over_rows(ax, _solved(found, 1), held)
    _published(ax, [s.n**2 for s in TABLE1], [("PyTorch CG, published (H200)", TABLE1_BYTES)])
    return some and _finish(ax, "bytes, peak above the baseline")


def _ranks(figure: Any, found: Found) -> bool:
    cells = _solved(found, 2)
    if not cells:
        return False
    most = max(cell["ranks"] for cell in cells)
    left, right = figure.subplots(1, 2)
    _over_rows(left, [c for c in cells if c["ranks"] == most], lambda cell: cell["seconds"])
    seconds = [size.seconds for size in TABLE2]
    label = f"CG on {TABLE2_RANKS} GPUs, published (H200)"
    _published(left, [size.n**2 for size in TABLE2], [(label, seconds)])
    left.set_title(f"{most} rank(s)", fontsize="medium")
    _finish(left, "seconds, set-up included")
    rows = max(cell["rows"] for cell in cells)
    over = {}
    counts = sorted({cell["ranks"] for cell in cells})
    # Ours last: beside the last one `scaling` draws the ideal.
    for name in sorted(BACKENDS, key=lambda name: BACKENDS[name].ours):
        line = [c for c in cells if (c["backend"], c["rows"]) == (name, rows)]
        spent = {c["ranks"]: c["seconds"] for c in line}
        if set(spent) == set(counts):
            over[name] = [spent[count] for count in counts]
    if over:
        right.set_prop_cycle(color=[COLOURS[name] for name in over])
        scaling(right, counts, {BACKENDS[name].label: spent for name, spent in over.items()})
    right.set_title(f"{rows:,} rows", fontsize="medium")
    return True


def _solved(found: Found, table: int) -> list[Cell]:
    return [c for c in found["cells"] if c["table"] == table and c["status"] == SOLVED]


def _over_rows(ax: Any, cells: list[Cell], of: Of) -> bool:
    """A line for each solver; whether there is any."""
    for name, backend in BACKENDS.items():
        points = [(c["rows"], of(c)) for c in cells if c["backend"] == name]
        points = [(rows, value) for rows, value in points if value]
        if points:
            ax.plot(
                *zip(*points, strict=True), MARKERS[name], color=COLOURS[name],
                linestyle="--" if backend.theirs else "-", label=backend.label,
                linewidth=2.2 if backend.ours else 1.2,
            )  # fmt: skip
    return bool(cells)


def _published(ax: Any, rows: list[int], lines: Iterable[tuple[str, Any]]) -> None:
    for label, values in lines:
        points = [(n, v) for n, v in zip(rows, values, strict=True) if v is not None]
        style = ":" if "CG" in label else "-." if "cuDSS" in label else (0, (6, 2))
        ax.plot(*zip(*points, strict=True), linestyle=style, color="0.55", label=label)


def _finish(ax: Any, label: str) -> bool:
    ax.set(xscale="log", yscale="log", xlabel="rows", ylabel=label)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize="x-small")
    return True
