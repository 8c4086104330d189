"""Pictures of runs, on matplotlib Axes of yours. ``python -m hpc_sla plot`` puts them into files.

Each function draws plain numbers (of `hpc_sla.report.drawn`, or your own) on the Axes that it is
given, and returns them. All are local, and want matplotlib only through the Axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpc_sla.errors import printable

Numbers = Sequence[float] | np.ndarray
_SHOWN = 30_000  # points, of which more would only hide one another


def convergence(ax: Any, runs: Mapping[str, tuple[Numbers, Numbers]]) -> Any:
    """Relative residuals over iterations, a line a run.

    Parameters
    ----------
    ax : matplotlib Axes
    runs : dict of label to (iterations, relative residuals)
        Residuals that are zero or not finite are left out.
    """
    for label, (iterations, residuals) in runs.items():
        steps, values = np.asarray(iterations), np.asarray(residuals, dtype=float)
        kept = np.isfinite(values) & (values > 0)
        ax.semilogy(
            steps[kept], values[kept], label=_label(label), marker="." if kept.sum() < 40 else ""
        )
    ax.set(xlabel="iteration", ylabel="residual / first residual")
    ax.grid(alpha=0.3)
    return _legend(ax, len(runs))


def spectrum(ax: Any, runs: Mapping[str, Numbers]) -> Any:
    """Eigenvalues by their number, a line a run.

    Parameters
    ----------
    ax : matplotlib Axes
    runs : dict of label to eigenvalues
    """
    for label, values in runs.items():
        ax.plot(np.arange(1, len(values) + 1), values, "o", label=_label(label), fillstyle="none")
    ax.set(xlabel="number", ylabel="eigenvalue")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3)
    return _legend(ax, len(runs))


def partition(ax: Any, points: np.ndarray, parts: np.ndarray) -> Any:
    """Points by the part that they are in.

    Parameters
    ----------
    ax : matplotlib Axes
        Of ``projection="3d"`` for points in space.
    points : float array [n, 1, 2 or 3]
    parts : int array [n]
    """
    count = int(parts.max(initial=0)) + 1
    kept = _sample(len(points))
    # Neighbours have numbers near each other: their colours are to be far apart.
    colours = (np.arange(count) * 0.61803398875) % 1.0
    _scatter(ax, points[kept], c=colours[parts[kept]], cmap="hsv", vmin=0, vmax=1)
    ax.set_title(f"{len(points):,} points in {count} part{'s' * (count > 1)}")
    return ax


def halo(ax: Any, points: np.ndarray, owned: np.ndarray, near: np.ndarray, part: int) -> Any:
    """What one rank owns, and which values of others it needs.

    Parameters
    ----------
    ax : matplotlib Axes
    points : float array [n, 1, 2 or 3]
    owned, near : int array
        Points of the part, and those of its halo.
    part : int
    """
    rest = np.setdiff1d(_sample(len(points)), np.concatenate([owned, near]), assume_unique=False)
    _scatter(ax, points[rest], color="0.88", label="others")
    _scatter(ax, points[owned], color="tab:blue", label=f"owned by part {part}: {len(owned):,}")
    _scatter(ax, points[near], color="tab:red", label=f"halo: {len(near):,}", larger=2)
    ax.legend(loc="upper right", fontsize="small")
    return ax


def spy(
    ax: Any,
    filled: np.ndarray,
    shape: tuple[int, int],
    offsets: Sequence[int] | np.ndarray | None = None,
) -> Any:
    """Where a matrix has entries.

    Parameters
    ----------
    ax : matplotlib Axes
    filled : array [h, w]
        Entries in each of h x w equal blocks.
    shape : (int, int)
        Of the matrix.
    offsets : sequence of int, optional
        First rows of the parts, which lines then separate.
    """
    m, n = shape
    shown = np.ma.masked_equal(filled, 0)
    ax.imshow(
        # Single entries are to be seen, too: not in the palest colour.
        np.ma.log10(shown), vmin=-1,
        extent=(-0.5, n - 0.5, m - 0.5, -0.5), aspect="auto" if m != n else "equal",
        cmap="Blues", interpolation="nearest",
    )  # fmt: skip
    for first in () if offsets is None else tuple(offsets)[1:-1]:
        ax.axhline(first - 0.5, color="tab:red", linewidth=0.6)
        if m == n:
            ax.axvline(first - 0.5, color="tab:red", linewidth=0.6)
    ax.set(xlabel="column", ylabel="row")
    return ax


def hierarchy(ax: Any, levels: Sequence[Mapping[str, float]]) -> Any:
    """Rows and entries of multigrid's levels, and on how many ranks each is.

    Parameters
    ----------
    ax : matplotlib Axes
    levels : sequence of dict
        ``rows``, ``nonzeros`` and ``ranks`` of each, the finest first.
    """
    depth = np.arange(len(levels))
    for name, side, colour in (("nonzeros", -0.2, "tab:blue"), ("rows", 0.2, "tab:orange")):
        counts = [level[name] for level in levels]
        label = "entries" if name == "nonzeros" else name
        ax.barh(depth + side, counts, height=0.4, color=colour, label=label)
    for at, level in zip(depth, levels, strict=True):
        ax.annotate(
            f" {level['nonzeros'] / max(1, level['rows']):.1f} a row, {level['ranks']:.0f} rank(s)",
            (level["nonzeros"], at), va="center", fontsize="small",
        )  # fmt: skip
    finest = max(1, levels[0]["nonzeros"])
    total = sum(level["nonzeros"] for level in levels) / finest
    ax.set(xscale="log", ylabel="level", title=f"operator complexity {total:.2f}")
    ax.set_yticks(depth)
    ax.invert_yaxis()
    ax.set_xlim(right=20 * finest)
    return _legend(ax, 2)


def profile(ax: Any, by_rank: Mapping[str, Sequence[float]], total: float) -> Any:
    """What each rank's time went to.

    Parameters
    ----------
    ax : matplotlib Axes
    by_rank : dict of event to seconds of each rank
        The most expensive first.
    total : float
        Seconds of all.
    """
    names = list(by_rank)
    ranks = len(by_rank[names[0]]) if names else 0
    shown, below = names[:9], np.zeros(ranks)
    bars = [(name, np.asarray(by_rank[name], dtype=float)) for name in shown]
    if names[9:]:
        bars.append(("others", np.sum([by_rank[name] for name in names[9:]], axis=0)))
    bars.append(("not in an event", np.maximum(0.0, total - sum(one for _, one in bars))))
    for place, (name, seconds) in enumerate(bars):
        last = place == len(bars) - 1
        colour = "0.9" if last else f"C{place}"
        ax.bar(np.arange(ranks), seconds, bottom=below, width=0.9, label=name, color=colour)
        below = below + seconds
    ax.set(xlabel="rank", ylabel="seconds")
    ax.xaxis.get_major_locator().set_params(integer=True)
    # In the order of the bars, from the top.
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1], labels[::-1], fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return ax


def scaling(ax: Any, ranks: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Any:
    """Seconds over ranks, beside what perfect scaling of the last of them would be.

    Parameters
    ----------
    ax : matplotlib Axes
    ranks : sequence of int
        Ascending.
    seconds : dict of stage to seconds, one each
    """
    for marker, (name, spent) in zip("so^vD", seconds.items(), strict=False):
        ax.loglog(ranks, spent, f"{marker}-", label=name)
    name, spent = list(seconds.items())[-1]
    ideal = [spent[0] * ranks[0] / count for count in ranks]
    ax.loglog(ranks, ideal, "k:", label=f"{name}, ideal")
    ax.set_xticks(ranks, [f"{count:g}" for count in ranks], minor=False)
    ax.minorticks_off()
    ax.set(xlabel="ranks", ylabel="seconds")
    return _legend(ax, 2)


def _legend(ax: Any, entries: int) -> Any:
    if entries > 1:
        for text in ax.legend(fontsize="small").get_texts():
            text.set_parse_math(False)  # a dollar in a file's name is one
    return ax


def _label(name: str) -> str:
    """Any name as matplotlib draws it: it leaves out those that begin with an underscore."""
    shown = printable(name)
    return f" {shown}" if shown.startswith("_") else shown


def _sample(count: int) -> np.ndarray:
    """All points, or some, evenly."""
    return np.linspace(0, count - 1, min(count, _SHOWN)).astype(np.int64)


def _scatter(ax: Any, points: np.ndarray, larger: float = 1, **options: Any) -> None:
    """Points of any dimension, as large as their number leaves room for."""
    size = (
        larger
        * float(np.clip(4e4 / max(1, len(points)), 0.5, 60))
        * (0.3 if len(points) > 2e3 else 1)
    )
    columns = [points[:, axis] for axis in range(points.shape[1])]
    if len(columns) == 1:
        columns.append(np.zeros(len(points)))
    ax.scatter(*columns, s=size, linewidths=0, **options)
    if len(columns) == 2:
        ax.set_aspect("equal", adjustable="datalim")
