"""Plain tables on a terminal or in a log, and the words and units in them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from hpc_sla.errors import printable

Rows = Iterable[tuple[str, str]]


def print_facts(title: str, facts: Rows, file: IO[str] | None = None) -> None:
    """Print a two-column table: what, and its value.

    Parameters
    ----------
    title : str
        One line above the table.
    facts : iterable of (str, str)
        Name and value of each row.
    file : text stream, default ``sys.stdout``
    """
    print_table(title, ("", ""), [tuple(fact) for fact in facts], file=file)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
    file: IO[str] | None = None,
) -> None:
    """Print a table of plain ASCII, the same on a terminal and in a log.

    Parameters
    ----------
    title : str
        One line above the table.
    header : sequence of str
        Column names; no header line when all are empty.
    rows : iterable of sequences of str
    right : sequence of int
        Columns to align to the right.
    file : text stream, default ``sys.stdout``
    """
    # Slow to load, and most of what imports this module prints nothing.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = file or sys.stdout
    # Lines are never wrapped to a guessed width: a path broken in two cannot be copied. Colours
    # are off because a rank's terminal is not known to it, and logs should stay plain.
    console = Console(
        file=out, width=10_000, color_system=None, highlight=False, markup=False, emoji=False
    )
    table = Table(box=box.ASCII2, show_header=any(header), pad_edge=True)
    for column, name in enumerate(header):
        table.add_column(
            name, justify="right" if column in right else "left", no_wrap=True, overflow="crop"
        )
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    print(printable(title), file=out)
    console.print(table)


def seconds(value: float) -> str:
    """A duration, three digits at most: ``0.012 s``, ``3.21 s``, ``75.0 s``."""
    if value < 1:
        return f"{value:.3f} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def size(n_bytes: float) -> str:
    """A size in binary units: ``312.4 MiB``."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def dimensions(shape: tuple[int, int]) -> str:
    """``1 000 rows`` of a square matrix, ``1 000 x 200`` of a rectangular one."""
    rows, columns = shape
    return f"{count(rows)} rows" if rows == columns else f"{count(rows)} x {count(columns)}"


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it (NaN, infinity)."""
    return value if math.isfinite(value) else None


def count(value: int) -> str:
    """A whole number with its thousands apart: ``1 234 567``."""
    return f"{value:,}".replace(",", " ")


def spread(values: Iterable[Any]) -> str:
    """Smallest to largest of one figure over the ranks or parts: ``508 to 516``."""
    whole = [int(value) for value in values]
    low, high = min(whole, default=0), max(whole, default=0)
    return count(low) if low == high else f"{count(low)} to {count(high)}"
