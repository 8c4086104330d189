"""The attributes of many result files as one table, a row a file.

Two passes over the files, neither of which holds more than a thousand rows: the first finds the
columns and their types, the second writes.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from hpc_sla.errors import InputError, MissingDependencyError, printable
from hpc_sla.storage.atomic import replacing
from hpc_sla.storage.attributes import (
    RESULT_FORMAT,
    attribute,
    attributes,
    check_format,
    integer_attribute,
)
from hpc_sla.storage.hdf5 import HOW_TO_SOLVE, open_read

_FIRST = (
    "file",
    "status",
    "iterations",
    "relative_residual",
    "n_rows",
    "ranks",
    "method",
    "precond",
    "rtol",
)
_BATCH = 1000
Row = dict[str, Any]


def collect(
    results: Sequence[str], output: str | None, on_error: Callable[[InputError], None]
) -> None:
    """Write the table of `results` to `output`, or as CSV to standard output.

    Parameters
    ----------
    results : sequence of str
        Result files, and folders of which every result file is taken.
    output : str or None
        A .csv or .parquet file.
    on_error : callable
        Is told of each file that cannot be read, which is then left out.
    """
    suffix = ".csv" if output is None else Path(output).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(
            f"a table cannot be written to a file ending in {suffix!r}",
            file=output,
            field="--output",
            remedy="Choose .csv or .parquet.",
        )
    parquet = _pyarrow(output) if suffix == ".parquet" else None
    bad: set[str] = set()
    types: dict[str, type] = {"file": str}

    def rows() -> Iterator[Row]:
        for path in _files(results):
            if path in bad:
                continue
            try:
                yield _row(path)
            except InputError as error:
                bad.add(path)
                on_error(error)

    for row in rows():
        for name, value in row.items():
            types[name] = _common(types.get(name), type(value))
    columns = {name: types.pop(name) for name in _FIRST if name in types}
    columns |= dict(sorted(types.items()))
    if parquet is not None and output is not None:
        with replacing(output) as temporary:
            _write_parquet(parquet, temporary, columns, rows())
        return
    with ExitStack() as stack:
        stream: Any = sys.stdout
        if output is not None:
            temporary = stack.enter_context(replacing(output))
            stream = stack.enter_context(open(temporary, "w", encoding="utf-8", newline=""))
        _write_csv(stream, columns, rows())


def _files(results: Iterable[str]) -> Iterator[str]:
    for path in results:
        if not os.path.isdir(path):
            yield path
            continue
        for name in sorted(os.listdir(path)):
            inside = os.path.join(path, name)
            if name.endswith((".h5", ".hdf5")) and not name.startswith(".") and _is_result(inside):
                yield inside


def _is_result(path: str) -> bool:
    """Whether a file in a folder is a result, and not a matrix, a checkpoint or an export."""
    try:
        with open_read(path, HOW_TO_SOLVE) as file:
            return bool(attribute(file, "format") == RESULT_FORMAT)
    except InputError:
        return True  # to be told of, as if it had been named


def _row(path: str) -> Row:
    # A name need not be UTF-8, which tables are.
    name = path.encode("utf-8", "backslashreplace").decode()
    with open_read(path, HOW_TO_SOLVE) as file:
        check_format(file, RESULT_FORMAT)
        found = attributes(file, leave_out=("format", "version", "n_rows", "config"))
        # The file's own name for the column of the same name is not a run's to set.
        # What a terminal would obey, and what no file of text can hold, is shown as escapes.
        shown = {
            printable(name): printable(value) if isinstance(value, str) else _fits(value)
            for name, value in found.items()
        }
        return {**shown, "n_rows": integer_attribute(file, "n_rows"), "file": name}


def _fits(value: Any) -> Any:
    """A number as it is, unless Parquet's integers have no room for it."""
    return float(value) if type(value) is int and abs(value) >= 2**63 else value


def _common(first: type | None, second: type) -> type:
    """The type of a column that has values of both."""
    if first is None or first is second:
        return second
    return float if {first, second} == {int, float} else str


def _write_csv(stream: io.TextIOBase, columns: Mapping[str, type], rows: Iterator[Row]) -> None:
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def _pyarrow(output: str | None) -> Any:
    try:
        # Optional.
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "cannot be written without the package pyarrow",
            file=output,
            remedy="Install it with `pip install pyarrow`, or choose .csv.",
        ) from error
    return pyarrow


def _write_parquet(
    pyarrow: Any, path: Path, columns: Mapping[str, type], rows: Iterator[Row]
) -> None:
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema(
        [(name, kinds.get(kind, pyarrow.string())) for name, kind in columns.items()]
    )

    def shaped(row: Row) -> Row:
        return {
            name: None if row.get(name) is None else (kind if kind in kinds else str)(row[name])
            for name, kind in columns.items()
        }

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := [shaped(row) for row in islice(rows, _BATCH)]:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
