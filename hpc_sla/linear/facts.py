"""What a matrix is: symmetry, diagonal, dominance, nullspace of constants, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.world import World
from hpc_sla.kernels.census import Asymmetry, Census, host, tally
from hpc_sla.sparse.components import good_components
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.symmetry import (
    SYMMETRIC,
    Arrivals,
    Parts,
    arrivals,
    own_asymmetry,
    parts_of,
    take_census,
    without_columns,
)

VANISHING = {torch.float64: 2e-13, torch.float32: 4e-6}
"""What rounding makes of a sum that is 0, beside the sum of the magnitudes."""


@dataclass(frozen=True)
class MatrixFacts:
    """What is known of a matrix from looking at every entry; replicated.

    The same at any number of ranks. What does not end as a whole number, or as one of the entries,
    is rounded to six digits.

    Rows with no nonzero but on the diagonal, and rows with none, are equations of their own. What
    is said of the *rest* is said of the matrix without these rows and their columns. Of a
    rectangular matrix there is no diagonal, and nothing symmetric.

    Attributes
    ----------
    rows, columns, entries : int
        Stored entries.
    dtype : torch.dtype
    symmetric : bool
        a_ij = a_ji to rounding, for all pairs; zeros may be stored or not.
    pattern_symmetric : bool
        a_ij and a_ji are 0 together.
    asymmetry : float
        The largest |a_ij - a_ji| beside the larger of |a_ij| + |a_ji| and the geometric mean of
        the largest entries of rows i and j: from 0 to 1, and the same for D A D with any diagonal
        D. Not beside the two alone, of which rounding may have left nothing: a sum that cancels.
    decoupled : int
        Rows whose only nonzero is on the diagonal.
    symmetric_rest : bool
        Whether the rest is symmetric.
    positive, negative, zero : int
        Diagonal entries of the rest; one that is not stored is a zero.
    diagonal_spread : float
        The largest of their magnitudes over the smallest that is not 0; 1 without any.
    dominance : float
        The largest sum of |a_ij| beside the diagonal over |a_ii|, of the rest's rows; infinity
        where a_ii is 0.
    weakly_dominant : int
        Rows of the rest where it is at most 1.
    column_dominance : float
        As `dominance`, by columns.
    wrong_sign : float
        The share of the entries beside the diagonal that have its sign, from 0 (as in an
        M-matrix) to 1, to six decimals: by magnitude beside their row's largest, in rows of the
        rest whose diagonal is not 0.
    zero_row_sums, zero_column_sums : bool
        Whether all of the rest's vanish to rounding: constants are in the nullspace, or in that of
        the transpose.
    null_components : int or None
        Connected parts of the rest in which all row sums vanish: each has constants of its own in
        the nullspace. None of a rectangular matrix.
    null_multipliers : bool
        Whether constants on the rows of the rest whose diagonal is 0, and 0 elsewhere, are in the
        nullspace: the pressure of a closed flow.
    empty_rows, empty_columns : int
        Without a nonzero.
    largest_row : int
        Stored entries of the longest.
    largest_abs, smallest_abs : float
        Of the entries' magnitudes, the smallest that is not 0; 0 without any. The first is
        infinity where an entry is not finite.
    """

    rows: int
    columns: int
    entries: int
    dtype: torch.dtype
    symmetric: bool
    pattern_symmetric: bool
    asymmetry: float
    decoupled: int
    symmetric_rest: bool
    positive: int
    negative: int
    zero: int
    diagonal_spread: float
    dominance: float
    weakly_dominant: int
    column_dominance: float
    wrong_sign: float
    zero_row_sums: bool
    zero_column_sums: bool
    null_components: int | None
    null_multipliers: bool
    empty_rows: int
    empty_columns: int
    largest_row: int
    largest_abs: float
    smallest_abs: float

    @property
    def square(self) -> bool:
        return self.rows == self.columns

    @property
    def rest(self) -> int:
        """Rows that are not equations of their own."""
        return self.rows - self.decoupled - self.empty_rows

    def describe(self) -> list[str]:
        """What is worth telling of it, a short line each."""
        size = f"{self.rows} x {self.columns}, {_many(self.entries, 'entry', 'entries')}"
        kind = str(self.dtype).removeprefix("torch.")
        lines = [f"{size}, at most {self.largest_row} in a row, {kind}"]
        if self.square and self.rows:
            lines.append(self._symmetry())
            lines += self._diagonal()
        if self.empty_rows:
            lines.append(f"{_many(self.empty_rows, 'row')} without a nonzero: singular")
        if self.empty_columns:
            lines.append(f"{_many(self.empty_columns, 'column')} without a nonzero: singular")
        which = "of the other rows " if self.square and self.rest < self.rows else ""
        if self.zero_row_sums:
            lines.append(f"row sums {which}are zero: constants are in the nullspace")
        elif self.null_components:
            parts = _many(self.null_components, "connected part")
            lines.append(f"row sums are zero in all of {parts}: singular")
        if self.zero_row_sums and (self.null_components or 0) > 1:
            lines.append(f"{self.null_components} connected parts, each with its own constants")
        if self.null_multipliers:
            lines.append("constants on the rows with a zero diagonal are in the nullspace")
        if self.zero_column_sums and not self.zero_row_sums:
            lines.append(f"column sums {which}are zero: it can only be solved where b sums to zero")
        return lines

    def _symmetry(self) -> str:
        if self.symmetric:
            return f"symmetric, {'to rounding' if self.asymmetry else 'to the last bit'}"
        if self.symmetric_rest:
            return "symmetric but for the columns of rows with nothing but a diagonal entry"
        pattern = f"its pattern is{'' if self.pattern_symmetric else ' not, either'}"
        return f"not symmetric (differences to {self.asymmetry:.1e}), {pattern}"

    def _diagonal(self) -> list[str]:
        """What to tell of the rest."""
        if not self.rest:
            return ["diagonal"] if self.decoupled else []
        lines = []
        if self.decoupled:
            lines.append(f"{_many(self.decoupled, 'row')} with nothing but a diagonal entry")
        signs = {"positive": self.positive, "negative": self.negative, "zero": self.zero}
        counts = [f"{count} {sign}" for sign, count in signs.items() if count]
        one = len(counts) == 1
        lines.append(
            f"{counts[0].split()[1]} diagonal" if one else f"diagonal: {', '.join(counts)}"
        )
        if self.diagonal_spread > 1e4:
            lines[-1] += f", its magnitudes {self.diagonal_spread:.1e} apart"
        if self.weakly_dominant == self.rest:
            lines.append("diagonally dominant")
        if not self.wrong_sign and not self.zero:
            lines.append("no entry beside the diagonal has its sign: like an M-matrix")
        return lines


@torch.no_grad()
@np.errstate(all="ignore")  # of entries that are not finite
def look(A: DSparseMatrix) -> MatrixFacts:
    """Look at every entry of A. **Collective**; the same on every rank.

    It costs some twenty products with A (ten milliseconds for a hundred thousand rows), and keeps
    nothing.
    """
    pattern, values, square = A.pattern, parts_of(A), A.columns is A.layout
    whole = take_census(A, values)
    diagonal = np.zeros(A.layout.n_owned)
    if square:
        diagonal = host(A.diagonal()).astype(np.float64)
    largest = np.maximum(whole.largest, np.abs(diagonal))
    scale = np.sqrt(largest)
    came = arrivals(A, values[1], scale)
    by_column = _column_sums(whole, came)
    beside, below = whole.positive + whole.negative != 0, by_column[0] + by_column[1] != 0
    no_row, no_column = ~beside & (largest == 0), ~below
    rest, rest_values, keep, keep_columns, pairs = whole, values, ~no_row, below, Asymmetry()
    if square:
        no_column &= diagonal == 0
        keep = keep_columns = beside
        pairs = own_asymmetry(A, values, scale, ~keep, came)
        rest_values = without_columns(A, values, ~keep)
        if rest_values is not values:
            rest = take_census(A, rest_values)
    small = VANISHING[A.dtype]
    rows, null = tally(keep, diagonal, rest.positive, rest.negative, largest, small)
    columns = tally(
        keep_columns,
        diagonal if square else np.zeros(A.columns.n_owned),
        *by_column,
        largest if square else np.ones(A.columns.n_owned),
        small,
    )[0]
    lengths = np.diff(host(pattern.owned.at_hand().indptr))
    lengths[host(pattern.boundary)] += np.diff(host(pattern.halo.indptr))
    most = float(largest.max(initial=0))
    if np.isnan(whole.negative.sum()) or not math.isfinite(most):
        most, pairs = math.inf, Asymmetry(math.inf, math.inf)
    sums, extremes = _together(
        A.world,
        {
            "rows": rows.lines,
            "positive": rows.plus,
            "negative": rows.minus,
            "decoupled": np.count_nonzero(~beside & ~no_row) if square else 0,
            "empty_rows": np.count_nonzero(no_row),
            "empty_columns": np.count_nonzero(no_column),
            "weakly_dominant": rows.dominant,
            "null_rows": rows.null,
            "columns": columns.lines,
            "null_columns": columns.null,
            "unmatched": pairs.unmatched,
            "wrong": rows.wrong,
            "beside": rows.beside,
        },
        {
            "asymmetry": pairs.worst,
            "asymmetry_rest": pairs.worst_rest,
            "diagonal": rows.high,
            "small_diagonal": -rows.low,
            "dominance": rows.dominance,
            "column_dominance": columns.dominance,
            "row": lengths.max(initial=0),
            "entry": most,
            "small_entry": -whole.smallest[0],
        },
    )
    null_components = 0 if square else None
    if square and sums["null_rows"]:
        null_components = good_components(A, rest_values, keep, null)
    zeros = sums["rows"] - sums["positive"] - sums["negative"]
    null_multipliers = bool(square and zeros) and _null_multipliers(A, rest_values, diagonal)
    return _facts(A, sums, extremes, null_components, null_multipliers)


def _facts(
    A: DSparseMatrix,
    sums: Mapping[str, float],
    extremes: Mapping[str, float],
    null_components: int | None,
    null_multipliers: bool,
) -> MatrixFacts:
    square, small = A.columns is A.layout, SYMMETRIC[A.dtype]
    spread = -extremes["diagonal"] / extremes["small_diagonal"] if extremes["diagonal"] else 1.0
    return MatrixFacts(
        rows=A.shape[0],
        columns=A.shape[1],
        entries=A.nnz_global,
        dtype=A.dtype,
        symmetric=square and extremes["asymmetry"] <= small,
        pattern_symmetric=square and not sums["unmatched"],
        asymmetry=extremes["asymmetry"] if square else 1.0,
        decoupled=int(sums["decoupled"]),
        symmetric_rest=square and extremes["asymmetry_rest"] <= small,
        positive=int(sums["positive"]),
        negative=int(sums["negative"]),
        zero=int(sums["rows"] - sums["positive"] - sums["negative"]) if square else 0,
        diagonal_spread=spread,
        dominance=_rounded(extremes["dominance"]),
        weakly_dominant=int(sums["weakly_dominant"]),
        column_dominance=_rounded(extremes["column_dominance"]),
        wrong_sign=_rounded(sums["wrong"] / sums["beside"], 1e6) if sums["beside"] else 0.0,
        zero_row_sums=0 < sums["rows"] == sums["null_rows"],
        zero_column_sums=0 < sums["columns"] == sums["null_columns"],
        null_components=null_components,
        null_multipliers=null_multipliers,
        empty_rows=int(sums["empty_rows"]),
        empty_columns=int(sums["empty_columns"]),
        largest_row=int(extremes["row"]),
        largest_abs=extremes["entry"],
        smallest_abs=-extremes["small_entry"] if extremes["entry"] else 0.0,
    )


def _null_multipliers(A: DSparseMatrix, values: Parts, diagonal: np.ndarray) -> bool:
    """Whether row sums vanish over the columns whose diagonal is 0. **Collective.**

    Beside the largest entry there, too: where a whole row is what rounding left of zeros, its own
    magnitudes say nothing.
    """
    found = take_census(A, without_columns(A, values, diagonal != 0))
    largest = A.world.max(float(found.largest.max(initial=0)))
    size = np.maximum(found.positive + found.negative, largest)
    vanish = np.abs(found.positive - found.negative) <= VANISHING[A.dtype] * size
    return not A.world.max(float(not vanish.all()))


def _column_sums(own: Census, came: Arrivals) -> tuple[np.ndarray, np.ndarray]:
    """Sums of positive and of negative entries beside the diagonal, of all ranks."""
    if not len(came.columns):
        return own.column_positive, own.column_negative
    n = len(own.column_positive)
    return (
        own.column_positive + np.bincount(came.columns, np.maximum(came.values, 0), n),
        own.column_negative + np.bincount(came.columns, np.maximum(-came.values, 0), n),
    )


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def _together(
    world: World, sums: Mapping[str, Any], largest: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Numbers of all ranks: sums of some, the largest of others. **Collective.**"""
    mine = np.array([*sums.values(), *largest.values()], dtype=np.float64)
    sums_of, largest_of = world.sums(mine[: len(sums)]), world.largest(mine[len(sums) :])
    return (
        dict(zip(sums, sums_of.tolist(), strict=True)),
        dict(zip(largest, largest_of.tolist(), strict=True)),
    )


def _rounded(number: float, unit: float | None = None) -> float:
    """To six digits, or a whole number of `unit`-ths: sums depend on their order, and so on the
    number of ranks, in their last few digits.

    Not to the nearest, for what is counted in matrices often lies halfway between two.
    """
    if not 0 < number < math.inf:
        return number
    unit = unit or 10.0 ** (5 - math.floor(math.log10(number)))
    return math.floor(number * unit + 0.618) / unit
