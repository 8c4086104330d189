"""Two result files: how far their vectors are apart, and which attributes differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.storage.result_vectors import ResultVectors


def of_circumstances(name: str) -> bool:
    """Whether an attribute differs between any two runs."""
    return name in ("date", "command", "config") or name.startswith("seconds_")


@dataclass(frozen=True)
class Difference:
    """How one vector differs between two results a and b.

    Attributes
    ----------
    name : str
    problem : str
        Why they cannot be compared; empty where they can.
    relative : float
        ||a - b||_2 / ||a||_2, over all columns; 0 for equal ones, infinite where only a is zero.
    largest : float
        max |a - b|.
    """

    name: str
    problem: str = ""
    relative: float = math.inf
    largest: float = math.inf


def compare_vectors(a: ResultVectors, b: ResultVectors) -> list[Difference]:
    """Every vector of either. A NaN equals a NaN in the same place, and nothing else.

    Eigenvectors (`modes`) are compared column by column, up to their signs.
    """
    ours, theirs = a.summary.shapes, b.summary.shapes
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            problem = f"only in {a.path if name in ours else b.path}"
        elif ours[name] != theirs[name]:
            problem = f"shapes {_shape(ours[name])} and {_shape(theirs[name])}"
        else:
            found.append(_difference(a, b, name))
            continue
        found.append(Difference(name, problem))
    return found


def compare_attributes(a: ResultVectors, b: ResultVectors) -> list[tuple[str, Any, Any]]:
    """Name and both values (None where there is none) of each attribute that differs."""
    ours, theirs = a.summary.attributes, b.summary.attributes
    return [
        (name, ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _difference(a: ResultVectors, b: ResultVectors, name: str) -> Difference:
    columns = int(np.prod(a.summary.shapes[name][1:], dtype=np.int64))
    signs = (1.0, -1.0) if name == "modes" else (1.0,)
    squares = np.zeros((len(signs), columns))
    largest = np.zeros((len(signs), columns))
    norms = np.zeros(columns)
    for start, block in a.blocks(name):
        other = b.rows(name, start, start + len(block))  # its dtype, and so its blocks, may differ
        x, y = (rows.reshape(len(rows), columns).astype(np.float64) for rows in (block, other))
        norms += (x * x).sum(axis=0)
        for k, sign in enumerate(signs):
            with np.errstate(invalid="ignore"):  # infinity less infinity
                apart = np.abs(x - sign * y)
            apart[(x == sign * y) | (np.isnan(x) & np.isnan(y))] = 0
            apart[np.isnan(apart)] = np.inf
            squares[k] += (apart * apart).sum(axis=0)
            largest[k] = np.maximum(largest[k], apart.max(axis=0, initial=0))
    best = squares.argmin(axis=0)
    chosen = (best, np.arange(columns))
    distance, norm = math.sqrt(squares[chosen].sum()), math.sqrt(norms.sum())
    relative = 0.0 if distance == 0 else distance / norm if norm else math.inf
    if math.isnan(relative):  # both infinite, or NaN among the values that agree
        relative = math.inf
    return Difference(name, "", relative, float(largest[chosen].max(initial=0)))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
