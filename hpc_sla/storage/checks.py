"""What stored numbers must satisfy, checked in place with little transient memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.hashing import GOLDEN, mix

# Rows looked at together: the temporaries stay a few hundred kilobytes for sparse rows.
_ROWS = 1 << 16


def check_indptr(indptr: np.ndarray, nnz: int, file: str, first_row: int = 0) -> None:
    """Row pointers must stay within ``[0, nnz]`` and never decrease."""
    for start in range(0, len(indptr), _ROWS):
        block = indptr[start : start + _ROWS + 1]
        steps_down = np.flatnonzero(block[1:] < block[:-1])
        if len(steps_down):
            row = first_row + start + int(steps_down[0])
            raise InputError(
                f"is not monotone: it decreases after row {row}",
                file=file,
                field="/indptr",
                remedy="Row r's entries are indptr[r]:indptr[r+1], so it must never decrease.",
            )
    low, high = int(indptr[0]), int(indptr[-1])
    if low < 0 or high > nnz:
        raise InputError(
            f"points outside the {nnz} stored entries: {low if low < 0 else high}",
            file=file,
            field="/indptr",
            remedy="Its first value is 0 and its last the length of /data.",
        )


def check_columns(
    indices: np.ndarray, indptr: np.ndarray, n_cols: int, file: str, first_row: int = 0
) -> None:
    """Columns must lie in ``[0, n_cols)`` and ascend strictly inside each row.

    `indptr` is rebased to 0: it points into `indices`.
    """
    check_range(indices, n_cols, file, "/indices", "Columns count from 0.")
    for start in range(0, len(indptr) - 1, _ROWS):
        rows = indptr[start : start + _ROWS + 1]
        begin, end = int(rows[0]), int(rows[-1])
        columns = indices[begin:end]
        if len(columns) < 2:
            continue
        ascends = columns[1:] > columns[:-1]
        # From one row's last entry to the next row's first the columns may go down.
        starts = rows[1:-1] - begin
        ascends[starts[(starts > 0) & (starts < len(columns))] - 1] = True
        if not ascends.all():
            place = begin + int(np.argmin(ascends)) + 1
            row = first_row + int(np.searchsorted(indptr, place, side="right")) - 1
            raise InputError(
                f"columns of stored row {row} do not ascend strictly",
                file=file,
                field="/indices",
                remedy="Sort the columns of each row and add up duplicates.",
            )


def check_range(values: np.ndarray, bound: int, file: str, field: str, remedy: str) -> None:
    """Integers must lie in ``[0, bound)``."""
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= bound:
        raise InputError(
            f"value {low if low < 0 else high} is out of range: 0 to {bound - 1} is allowed",
            file=file,
            field=field,
            remedy=remedy,
        )


def native(array: Any) -> np.ndarray:
    """An array as torch takes it: of this machine's byte order, strides positive, writable.

    The same memory where it is all that.
    """
    found = np.asarray(array)
    found = np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("="))
    return found if found.flags.writeable else found.copy()


def complex_values(file: str, field: str = "values", dtype: object = "complex") -> InputError:
    """The error about a file whose numbers are not real ones."""
    return InputError(
        f"holds {dtype} values",
        file=file,
        field=field,
        remedy="Only real numbers are handled: split real and imaginary parts.",
    )


def check_finite(values: np.ndarray, file: str | None, field: str, before: int = 0) -> None:
    """Stored values must be neither NaN nor infinite. So many come before them, on other ranks."""
    # The extremes tell without a temporary: NaN passes through both of them.
    if not values.size or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return
    place = int(np.argmin(np.isfinite(values.reshape(-1))))
    raise InputError(
        f"holds {values.reshape(-1)[place]} at position {before + place} of what was read",
        file=file,
        field=field,
        remedy="Every stored value must be finite.",
    )


def fingerprint(numbers: np.ndarray) -> int:
    """The sum, modulo 2**64, of a hash of each number: runs of numbers with the same are the same.

    Whatever their order, and however they are divided among ranks, whose sums add up. Numbers
    that differ have the same with a probability of about 2**-64 (Wegman and Carter, New hash
    functions and their use in authentication and set equality, 1981).

    Parameters
    ----------
    numbers : int64 array [m]
    """
    total = 0
    for start in range(0, len(numbers), _ROWS):
        z = mix(numbers[start : start + _ROWS].astype(np.uint64) + GOLDEN)
        total += int(z.sum(dtype=np.uint64))
    return total % 2**64


def check_part_offsets(
    offsets: np.ndarray, n: int, file: str, field: str = "/part_offsets", what: str = "rows"
) -> None:
    """Part offsets start at 0, never decrease and end at `n`."""
    if (
        len(offsets) < 2
        or offsets[0] != 0
        or offsets[-1] != n
        or (offsets[1:] < offsets[:-1]).any()
    ):
        raise InputError(
            f"does not divide {n} {what} into parts",
            file=file,
            field=field,
            remedy=f"It starts at 0, never decreases and ends at the number of {what}.",
        )


def check_column_parts(columns: int, rows: int, file: str) -> None:
    """There must be as many parts of columns as of rows."""
    if columns != rows:
        raise InputError(
            f"has {columns} parts where /part_offsets has {rows}",
            file=file,
            field="/column_part_offsets",
            remedy="A part is some rows and some columns, either of which may be none.",
        )


def check_columns_there(shape: tuple[int, ...], file: str, field: str) -> None:
    """Raise InputError for what has no column: points of no dimension, no vector."""
    if not shape[1]:
        raise InputError(
            f"has shape {tuple(shape)}: no column",
            file=file,
            field=field,
            remedy="Give one or more, or leave it out.",
        )
