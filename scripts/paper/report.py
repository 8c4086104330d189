"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from backends import BACKENDS
from campaign import MISSING
from case import SOLVED, WRONG
from published import (
    TABLE1,
    TABLE1_BYTES,
    TABLE1_DIRECT,
    TABLE2,
    TABLE2_BYTES,
    TABLE2_RANKS,
    TABLE3,
    Published,
)

Found = dict[str, Any]
Cell = dict[str, Any]
Show = Callable[[Cell], str]

PUBLISHED = "*published, H200: {}*"


def failures(found: Found) -> list[str]:
    """What of our own went wrong, a line each; running out of time or memory is none of it."""
    wrong = []
    for cell in found["cells"]:
        ours = cell["library"] == "hpc_sla" if cell["table"] == 3 else _backend(cell).ours
        lines = cell.get("operations", [cell]) if ours else []
        wrong += [
            f"table {cell['table']}, {cell.get('backend') or line.get('operation', '')}, "
            f"{cell['rows']:,} rows: {line['status']} {line.get('reason', '')}".rstrip()
            for line in lines
            if line["status"] in (WRONG, "failed")
        ]
    return wrong


def markdown(found: Found) -> str:
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Found) -> Iterator[str]:
    yield "# The torch-sla paper's tables and figures on this machine\n"
    yield from _about(found)
    yield from _table1(found)
    yield from _table2(found)
    yield from _table3(found)
    for file, title in found["figures"].items():
        yield f"\n## {title}\n\n![{title}]({file})" if file else f"\nNo figures: {title}."


def _about(found: Found) -> Iterator[str]:
    machine, options = found["machine"], found["options"]
    changed = ", with changes that are not committed" if found["modified"] else ""
    packages = ", ".join(f"{name} {v}" for name, v in found["packages"].items() if v)
    missing = ", ".join(name for name, v in found["packages"].items() if not v)
    gpu = machine["gpu"] or "no GPU"
    yield f"- Command: `{found['command']}`"
    yield f"- Begun {found['begun']}, took {found['seconds']:.0f} s"
    yield f"- Commit {found['commit']}{changed}"
    yield (
        f"- Machine: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.1f} GiB, {gpu}; {machine['system']}; "
        f"load {machine['load']:.1f} at the beginning"
    )
    yield f"- Python {found['python']}, {packages}; not installed: {missing or 'nothing'}"
    yield f"- {found.get('torch_sla', 'torch-sla was not asked for')}"
    yield (
        f"- Limits of one cell: {options['limit_seconds']:g} s, Python's start included, and "
        f"{options['memory_bytes'] / 1e9:.1f} GB; {options['threads']} thread(s)"
    )
    if options["quick"]:
        yield "- `--quick`: whether all works, not how fast it is"
    yield (
        "\nThe 5-point Laplacian, float64, right-hand side of ones; iterations are asked for the "
        "residual that the paper has at that size. Times are of set-up and solve, the least of "
        "three where they take less than a second. Memory is the peak of the process above what "
        "it held before the system was built; the system counts, building it does not; below "
        "10^5 rows it is mostly noise. Residuals are ||b - A x|| / ||b||, computed from x without "
        "the matrix. Published numbers are of an NVIDIA H200 and stand beside for their order of "
        "magnitude: this is another machine."
    )


def _table1(found: Found) -> Iterator[str]:
    cells = [cell for cell in found["cells"] if cell["table"] == 1]
    if not cells:
        return
    rows = sorted({cell["rows"] for cell in cells})
    sizes = {size.n**2: i for i, size in enumerate(TABLE1)}
    at = [sizes[count] for count in rows]
    direct = [
        (name, [_seconds(t[i]) if t[i] else "out of memory" for i in at])
        for name, t in TABLE1_DIRECT.items()
    ]
    yield "\n## Table 1: one process\n\n### Time\n"
    cg = ("PyTorch CG", [_seconds(TABLE1[i].seconds) for i in at])
    yield from _grid(rows, [*direct, cg], _series(cells), lambda cell: _seconds(cell["seconds"]))
    yield "\n### Memory, bytes a row\n"
    held = ("PyTorch CG", [f"{TABLE1_BYTES[i] / TABLE1[i].n ** 2:,.0f}" for i in at])
    yield from _grid(rows, [held], _series(cells), lambda c: _count(c["bytes_per_row"]))
    yield "\n### True relative residual\n"
    yield from _grid(rows, [_residuals(TABLE1, at, "PyTorch CG")], _series(cells), _residual)
    yield from _reasons(cells)


def _table2(found: Found) -> Iterator[str]:
    cells = [cell for cell in found["cells"] if cell["table"] == 2]
    if not cells:
        return
    rows = sorted({cell["rows"] for cell in cells})
    sizes = {size.n**2: i for i, size in enumerate(TABLE2)}
    at = [sizes[count] for count in rows]
    name = f"{TABLE2_RANKS} GPUs, CG"
    yield "\n## Table 2: several ranks\n"
    yield (
        "Even blocks of rows. Ours under mpiexec; torch-sla's `solve_distributed_shard` under "
        "torchrun, on CPUs with gloo; it wants the whole matrix on each rank while it is split up, "
        "which is not counted as memory.\n\n### Time\n"
    )
    time = (name, [_seconds(TABLE2[i].seconds) for i in at])
    yield from _grid(rows, [time], _series(cells), lambda cell: _seconds(cell["seconds"]))
    yield "\n### Memory of the largest rank, MB\n"
    held = (name, [f"{TABLE2_BYTES[i] / 1e6:,.0f}" for i in at])
    yield from _grid(rows, [held], _series(cells), lambda c: _count(c["bytes_per_rank"], 1e6))
    yield "\n### True relative residual\n"
    yield from _grid(rows, [_residuals(TABLE2, at, name)], _series(cells), _residual)
    yield from _reasons(cells)


def _table3(found: Found) -> Iterator[str]:
    cells = [cell for cell in found["cells"] if cell["table"] == 3]
    if not cells:
        return
    yield "\n## Table 3: gradients\n"
    yield (
        f"{cells[0]['rows']:,} rows, one thread of the CPU. Relative errors: beside central "
        "differences of the library's own solves, along a drawn direction of the matrix's values "
        "and b together (the best of six steps; mostly the differences' own error), and beside "
        "torch's gradients through dense LAPACK, the largest of all entries.\n"
    )
    yield "| operation | library | differences | dense, values | dense, b | forward | backward |"
    yield "|---|---|---|---|---|---|---|"
    for operation, (error, solves) in TABLE3.items():
        yield f"| {operation} | *published* | {error} | | | {solves} | |"
        for cell in cells:
            same = [one for one in cell.get("operations", []) if one["operation"] == operation]
            for one in same:
                b = "" if one["from_dense_b"] is None else f"{one['from_dense_b']:.1e}"
                wrong = " (wrong)" if one["status"] == WRONG else ""
                yield (
                    f"| | {cell['library']}: {one['way']} | {one['from_differences']:.1e}{wrong} | "
                    f"{one['from_dense_values']:.1e} | {b} | {_solves(one['forward'])} | "
                    f"{_solves(one['backward'])} |"
                )
            if not same:
                yield f"| | {cell['library']} | {cell['status']} | | | | |"
    yield from _reasons(cells)


def _grid(
    rows: list[int],
    published: list[tuple[str, list[str]]],
    series: dict[str, dict[int, Cell]],
    show: Show,
) -> Iterator[str]:
    """Solvers down, sizes across."""
    yield "| rows | " + " | ".join(f"{count:,}" for count in rows) + " |"
    yield "|---|" + "---:|" * len(rows)
    for name, values in published:
        yield f"| {PUBLISHED.format(name)} | " + " | ".join(values) + " |"
    for label, of in series.items():
        cells = [of.get(count) for count in rows]
        shown = ["" if cell is None else _cell(cell, show) for cell in cells]
        yield f"| {label} | " + " | ".join(shown) + " |"


def _cell(cell: Cell, show: Show) -> str:
    if cell["status"] == SOLVED:
        return show(cell)
    return f"{show(cell)} (wrong)" if cell["status"] == WRONG else cell["status"]


def _series(cells: list[Cell]) -> dict[str, dict[int, Cell]]:
    """By label, then by rows."""
    found: dict[str, dict[int, Cell]] = {}
    for cell in sorted(cells, key=lambda c: (c["ranks"], list(BACKENDS).index(c["backend"]))):
        found.setdefault(_label(cell), {})[cell["rows"]] = cell
    return found


def _reasons(cells: list[Cell]) -> Iterator[str]:
    """Why cells have no numbers, or wrong ones: each solver's and reason's once."""
    said = {}
    for cell in cells:
        if cell.get("reason"):
            where = "" if cell["status"] == MISSING else f" at {cell['rows']:,} rows"
            said.setdefault((_label(cell), cell["status"], cell["reason"]), where)
    if said:
        yield ""
    for (label, status, reason), where in said.items():
        yield f"- {label}: {status}{where}: {reason}"


def _label(cell: Cell) -> str:
    if cell["table"] == 3:
        return str(cell["library"])
    on = f", {cell['ranks']} rank{'s' * (cell['ranks'] > 1)}" if cell["ranks"] else ""
    return _backend(cell).label + on


def _backend(cell: Cell) -> Any:
    return BACKENDS[cell["backend"]]


def _residuals(table: tuple[Published, ...], at: list[int], name: str) -> tuple[str, list[str]]:
    return name, [f"{table[i].residual:.1e}" for i in at]


def _residual(cell: Cell) -> str:
    return f"{cell['residual']:.1e}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _count(value: float | None, unit: float = 1.0) -> str:
    if value is None:
        return "not told"
    return f"{value / unit:,.0f}" if value >= 10 * unit else f"{value / unit:.2g}"


def _solves(counts: dict[str, int]) -> str:
    return " + ".join(f"{count} x {name}" for name, count in counts.items()) or "none"
