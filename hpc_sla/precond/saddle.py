"""The blocks of a saddle point [A B; C -D], found by the signs of its diagonal."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.precond.amg.blocks import Blocks, Columns, csr
from hpc_sla.precond.amg.remote import fetch_rows
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.submatrix import Part, submatrix

_FILLED = 0.7
"""The part of the entries between nodes that is there: others, numbered at will, have up to 0.5."""

_LOOKED_AT = 5000
"""Nodes, or up to twice as many."""


class SaddlePoint:
    """`[A B; C -D]`: its second rows have no diagonal, or one against the sign of the rest.

    **Collective.**

    Parameters
    ----------
    matrix : DSparseMatrix
        Square.

    Attributes
    ----------
    first, second : Part
        The rows of A, and the constraints.
    A, B, C, corner : DSparseMatrix
        The last is -D.
    sign : float
        Of A's diagonal: 1 or -1. Replicated.
    penalised : bool
        Whether D has an entry that is no zero. Replicated.

    Raises
    ------
    InputError
        On every rank: all rows are of one kind, or the two have nothing to do with each other.
    """

    def __init__(self, matrix: DSparseMatrix) -> None:
        world = matrix.world
        signs = _signs(matrix)
        plus, minus = (int(world.sum(int((signs == s).sum()))) for s in (1, -1))
        self.sign = 1.0 if plus >= minus else -1.0
        constraints = signs != self.sign
        count = int(world.sum(int(constraints.sum())))
        with world.agree():
            if not 0 < count < matrix.shape[0]:
                what = "each row has a diagonal, all of one sign"
                if count:
                    what = "no row has a diagonal"
                raise _none(what)
        self.first, self.second = (
            Part(matrix.layout, ~constraints),
            Part(matrix.layout, constraints),
        )
        parts = self.first, self.second
        self.A, self.B, self.C, self.corner = (
            submatrix(matrix, rows, columns) for rows in parts for columns in parts
        )
        nonzeros = [
            int(world.sum(int((part.values != 0).sum()))) for part in (self.B, self.C, self.corner)
        ]
        with world.agree():
            if not (nonzeros[0] and nonzeros[1]):
                raise _none(f"{count} rows without a diagonal of its sign have no others to bind")
        self.penalised = nonzeros[2] > 0

    def lumped(self, inverse: torch.Tensor) -> DSparseMatrix:
        """`C diag(inverse) B + D`, for inverse `[n_first_owned]`. **Collective.**"""
        rows = self.B.pattern.local_rows()
        scaled = self.B.with_values(self.B.values * inverse.index_select(0, rows))
        return product_less(self.C, scaled, self.corner)


def product_less(C: DSparseMatrix, B: DSparseMatrix, D: DSparseMatrix) -> DSparseMatrix:
    """`C B - D`, each entry that either has stored. **Collective.**"""
    columns = Columns(B.columns)
    columns.away = np.asarray(B.pattern.plan.halo, dtype=np.int64)
    mine = _joined(B)
    there = fetch_rows(C.pattern.plan, mine, columns)
    less = D.local_csr()
    local = columns.local(less.indices)
    less = csr(-less.data, local, less.indptr, C.layout.n_owned, len(columns))
    for part in (mine, there):
        part.resize(part.shape[0], len(columns))
    found = _joined(C) @ sp.vstack([mine, there], format="csr") + less
    found = sp.csr_matrix(found)
    indices = columns.stored(found.indices)
    data = found.data.astype(D.values.cpu().numpy().dtype, copy=False)
    return DSparseMatrix._from_rows(
        C.layout, B.columns, found.indptr.astype(np.int64), indices, data
    )


def translations(A: DSparseMatrix) -> np.ndarray | None:
    """Constants for each unknown of a node, [n_owned, 3 or 2]; None for one a node. **Collective.**

    By the pattern: the unknowns of a node follow one another in the user's order, or come in as
    many equal runs, and where a node couples with another, most of their unknowns do.
    """
    n, own = A.shape[0], A.layout.rows
    rows, columns = A.entries()
    stored = (A.values.detach() != 0).cpu().numpy()
    local = A.pattern.local_rows().cpu().numpy()
    beside = np.bincount(local[stored & (rows != columns)], minlength=A.layout.n_owned) > 0
    for size in (3, 2):
        # Rows of their own are of no node, and of many nodes some will do.
        apart = n // (size * _LOOKED_AT) + 1
        # np.divmod gives the node and the unknown, in runs the unknown and the node.
        for divisor, which in ((size, 0), (n // size, 1)):
            if which and n % size:
                continue
            kept = stored & (beside & (np.divmod(own, divisor)[which] % apart == 0))[local]
            row, column = (np.divmod(part[kept], divisor)[which] for part in (rows, columns))
            blocks = _distinct(A.world, row * n + column, row)
            if A.world.sum(len(row)) > _FILLED * size**2 * blocks:
                return np.eye(size)[np.divmod(own, divisor)[1 - which]]
    return None


def _distinct(world: World, keys: np.ndarray, spread: np.ndarray) -> int:
    """How many different keys all ranks have. **Collective.** Equal ones have equal `spread`."""
    keys, first = np.unique(keys, return_index=True)
    to = spread[first] % world.size
    messages = {rank: keys[to == rank] for rank in np.unique(to).tolist()}
    mine = messages.pop(world.rank, keys[:0])
    arrived = world.sparse_exchange(messages).values()
    return int(world.sum(len(np.unique(np.concatenate([mine, *arrived])))))


def _signs(matrix: DSparseMatrix) -> torch.Tensor:
    """Those of the diagonal, 0 for one that is rounding beside its row: [n_owned]. Local."""
    diagonal, values = matrix.diagonal().detach(), matrix.values.detach()
    largest = torch.zeros_like(diagonal)
    largest.scatter_reduce_(0, matrix.pattern.local_rows(), values.abs(), "amax")
    negligible = diagonal.abs() <= torch.finfo(values.dtype).eps * largest
    return torch.sign(diagonal).masked_fill(negligible, 0)


def _joined(matrix: DSparseMatrix) -> sp.csr_matrix:
    """Its owned rows in owned columns and those of the halo, in double precision. Local."""
    blocks = Blocks.of(matrix)
    parts = [blocks.owned, blocks.spread(blocks.halo)]
    return sp.hstack(parts, format="csr").astype(np.float64)


def _none(what: str) -> InputError:
    return InputError(
        f"the matrix is no saddle point: {what}",
        field="precond",
        remedy="Choose another preconditioner, such as amg or additive_schwarz",
    )
