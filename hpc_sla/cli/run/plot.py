"""Draw matrices, results and logs. Serial, and without torch."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpc_sla.cli import exits
from hpc_sla.cli.asked import PlotOptions
from hpc_sla.cli.settle import settle
from hpc_sla.errors import InputError, MissingDependencyError, printable
from hpc_sla.report import plots
from hpc_sla.report.drawn import (
    Log,
    filled_blocks,
    halo_nodes,
    points_and_parts,
    relative_history,
)
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.attributes import kind_of
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import ResultSummary, describe

_FORMATS = (".png", ".svg", ".pdf")
_OF = {
    "result": ("convergence", "spectrum", "scaling"),
    "matrix": ("partition", "halo", "spy"),
    "log": ("convergence", "profile", "hierarchy"),
}


def run(asked: PlotOptions) -> int:
    """Do what ``plot`` does; the exit code. Local."""
    suffix = Path(asked.output).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"a picture cannot be written to a file ending in {suffix!r}",
            file=asked.output,
            field="--output",
            remedy=f"Choose one of {', '.join(_FORMATS)}.",
        )
    figure = _figure()
    settle()
    what, kind = _what_and_kind(asked)
    _DRAWN[what](figure, asked, kind)
    if asked.title is not None:
        figure.axes[0].set_title(printable(asked.title), parse_math=False)
    with replacing(asked.output) as temporary:
        figure.savefig(temporary, dpi=150, format=suffix[1:])
    return exits.OK


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure  # optional
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed", remedy="pip install 'hpc_sla[plot]'"
        ) from error
    return Figure(figsize=(6.4, 4.8), layout="constrained")


def _what_and_kind(asked: PlotOptions) -> tuple[str, str]:
    """What the files are, all alike, and how to draw them."""
    each = ["log" if _is_log(path) else kind_of(path) for path in asked.files]
    what = each[0]
    odd = next((path for path, one in zip(asked.files, each, strict=True) if one != what), None)
    if odd is not None:
        raise InputError(
            f"is no {what}, which {asked.files[0]} is",
            file=odd,
            remedy="Draw files of one kind together.",
        )
    kind = asked.kind or _default_kind(what, asked.files[0])
    if kind not in _OF[what]:
        raise InputError(
            f"cannot be drawn of a {what}: {kind}",
            file=asked.files[0],
            field="--kind",
            remedy=f"Choose one of {', '.join(_OF[what])}.",
        )
    if len(asked.files) > 1 and kind not in ("convergence", "spectrum", "scaling"):
        raise InputError(
            f"{len(asked.files)} files are one too many for a picture of a {kind}",
            file=asked.files[1],
            remedy="Give one.",
        )
    return what, kind


def _is_log(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error


def _default_kind(what: str, path: str) -> str:
    if what == "matrix":
        with MatrixFile(path) as file:
            return "partition" if file.has_coordinates else "spy"
    if what == "result" and "modes" in describe(path).shapes:
        return "spectrum"
    return "convergence"


def _draw_results(figure: Any, asked: PlotOptions, kind: str) -> None:
    runs = {label: describe(path) for label, path in _labels(asked.files).items()}
    ax = figure.subplots()
    if kind == "convergence":
        plots.convergence(ax, {label: relative_history(one) for label, one in runs.items()})
    elif kind == "spectrum":
        plots.spectrum(ax, {label: _eigenvalues(label, one) for label, one in runs.items()})
    else:
        _draw_scaling(ax, list(runs.values()), asked.files)


def _eigenvalues(path: str, run: ResultSummary) -> Sequence[float]:
    if run.eigenvalues is None:
        raise InputError("has no eigenvalues", file=path, remedy="Give a result of eigsh.")
    return [float(one) for one in run.eigenvalues]


def _draw_scaling(ax: Any, runs: Sequence[ResultSummary], files: Sequence[str]) -> None:
    """Medians over runs on the same number of ranks; those that did not converge are left out."""
    by_ranks: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        about = dict(run.attributes)
        if about.get("status") == "converged" and "seconds_solve" in about:
            by_ranks.setdefault(int(about["ranks"]), []).append(about)
    if not by_ranks:
        raise InputError(
            "has no converged run with its seconds",
            file=files[0],
            remedy="Give results of solve, of several rank counts.",
        )
    ranks = sorted(by_ranks)
    seconds = {
        stage: [
            statistics.median(float(one.get(f"seconds_{stage}", 0.0)) for one in by_ranks[count])
            for count in ranks
        ]
        for stage in ("setup", "solve")
    }
    plots.scaling(ax, ranks, {"set-up": seconds["setup"], "solve": seconds["solve"]})


def _draw_matrix(figure: Any, asked: PlotOptions, kind: str) -> None:
    with MatrixFile(asked.files[0]) as file:
        if kind == "spy":
            offsets = file.part_offsets if file.parts <= 64 else None
            plots.spy(figure.subplots(), filled_blocks(file), (file.n_rows, file.n_cols), offsets)
            return
        if not file.has_coordinates:
            raise InputError(
                "has no coordinates to draw rows at",
                file=file.path,
                field="--kind",
                remedy="Partition it with --coordinates C.npy, or draw it with --kind spy.",
            )
        points, parts = points_and_parts(file)
        space = {"projection": "3d"} if points.shape[1] == 3 else {}
        ax = figure.subplots(subplot_kw=space)
        if kind == "partition":
            plots.partition(ax, points, parts)
        else:
            plots.halo(ax, points, *halo_nodes(file, asked.part), asked.part)


def _draw_log(figure: Any, asked: PlotOptions, kind: str) -> None:
    logs = {label: Log(path) for label, path in _labels(asked.files).items()}
    ax = figure.subplots()
    if kind == "convergence":
        plots.convergence(ax, {label: log.history() for label, log in logs.items()})
        return
    (log,) = logs.values()
    if kind == "profile":
        found = log.last("profile", "Run it with --profile.")["profile"]
        plots.profile(ax, found["by_rank"], found["seconds"])
    else:
        plots.hierarchy(ax, log.last("hierarchy", "Run solve with --precond amg.")["levels"])


def _labels(files: Sequence[str]) -> dict[str, str]:
    """A name for each file, as short as tells them apart."""
    names = [os.path.basename(path) for path in files]
    return {
        name if names.count(name) == 1 else path: path
        for name, path in zip(names, files, strict=True)
    }


_DRAWN: dict[str, Callable[[Any, PlotOptions, str], None]] = {
    "result": _draw_results,
    "matrix": _draw_matrix,
    "log": _draw_log,
}
