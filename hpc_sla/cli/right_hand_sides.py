"""Which right-hand sides a matrix file gets, whether one process makes it or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hpc_sla.cli.files import MANUFACTURED, ONES
from hpc_sla.errors import InputError

Vectors = dict[str, np.ndarray]


def choose_rhs(
    asked: Sequence[str],
    rhs: Mapping[str, np.ndarray],
    solutions: Mapping[str, np.ndarray],
    ones: Callable[[], np.ndarray],
    exact: Callable[[], np.ndarray],
    times: Callable[[np.ndarray], np.ndarray],
    read: Callable[[str], np.ndarray],
) -> tuple[Vectors, Vectors]:
    """What was asked for, in place of what came along; without, what came along, or else ones.

    **Collective** where the functions are.

    Parameters
    ----------
    asked : sequence of str
        Each one a vector file, `ONES` or `MANUFACTURED`. Replicated.
    rhs, solutions : dict of name to array
        What came along.
    ones, exact : callable() -> array
        Of a right-hand side, and of the known solution of a matrix of which nothing else is known.
    times : callable(x) -> array
        The matrix times a vector.
    read : callable(path) -> array

    Returns
    -------
    rhs, solutions : dict of name to array

    Raises
    ------
    InputError
        Two of a name.
    """
    if not asked:
        return dict(rhs) or {ONES: ones()}, dict(solutions)
    names = [choice if choice in (ONES, MANUFACTURED) else name_of_file(choice) for choice in asked]
    found: Vectors = {}
    known: Vectors = {}
    for name, choice in zip(names, asked, strict=True):
        if choice == ONES:
            found[name] = ones()
        elif choice == MANUFACTURED:
            known[name] = solutions[name] if name in solutions else exact()
            found[name] = times(known[name])
        else:
            found[name] = read(choice)
    _check_distinct(names)  # of files that are right, each by itself
    return found, known


def name_of_file(path: str) -> str:
    """What the right-hand side out of a file is called."""
    # HDF5's names are UTF-8, which a file's need not be.
    return Path(path).name.partition(".")[0].encode("utf-8", "backslashreplace").decode()


def _check_distinct(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two right-hand sides would be called {name!r}",
                field="--rhs",
                remedy="The name is that of the file without its suffix: rename one.",
            )
