"""Rows that are equations of their own, as Dirichlet conditions leave them: solved first, exactly.

With D the diagonal of these rows and K the rest, A is [D 0; C K], and C is 0 where a condition's
columns were eliminated with its rows. What a preconditioner makes of K must not know the scale of
D, which is 1 beside a stiffness of 1e11 as often as not: it gets K alone, and
M^-1 = [D^-1 0; -M_K^-1 C D^-1, M_K^-1].
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.entries import beside, plain
from hpc_sla.kernels.modes import transformed
from hpc_sla.kernels.packed import Packed
from hpc_sla.precond.jacobi import inverse_diagonal
from hpc_sla.precond.workspace import Workspace, scale
from hpc_sla.sparse.matrix import DSparseMatrix


class DecoupledRows:
    """The rows of A without a nonzero beside the diagonal, and what they mean to the others.

    **Collective.** Made by `decoupled_rows`.

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    mask : bool tensor [n_owned]
        Which rows they are, some on some rank.

    Attributes
    ----------
    mask : bool tensor [n_owned]
    """

    def __init__(self, A: DSparseMatrix, mask: torch.Tensor) -> None:
        pattern, values = A.pattern, A.held.plain
        self.mask = mask
        self._rows = mask.nonzero().squeeze(1)
        diagonal = A.diagonal().detach().index_select(0, self._rows)
        self._inverse = inverse_diagonal(diagonal)
        self._values = torch.where(diagonal == 0, 0.0, self._inverse)
        there = pattern.plan.exchange(mask.to(values.dtype)) != 0
        column = torch.cat(
            [
                mask.index_select(0, pattern.owned.at_hand().indices),
                there.index_select(0, pattern.halo.indices),
            ]
        )
        self._entries = column.nonzero().squeeze(1)
        row = pattern.local_rows().index_select(0, self._entries)
        beside = ~mask.index_select(0, row)
        self._diagonal = self._entries[~beside]  # a row of its own has no other entry than that
        self._diagonal_rows = row[~beside]
        entries, row = self._entries[beside], row[beside]
        found = values.index_select(0, entries)
        self._coupling: DSparseMatrix | None = None
        if A.world.sum(int((found != 0).sum())):
            self._coupling = _matrix(A, row, entries, found)
        self._work = Workspace(1, A.layout.n_owned)

    @property
    def coupled(self) -> bool:
        """Whether other rows refer to these: their columns were not eliminated with them."""
        return self._coupling is not None

    @property
    def alone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows they are, int64 [m], and the inverse of D, [m]."""
        return self._rows, self._inverse

    def rest(self, A: DSparseMatrix, block_size: int = 1) -> DSparseMatrix:
        """K on A's pattern: no entry in a decoupled row or column but a diagonal. **Collective.**

        The diagonal is the largest of the same node's other rows, or else of all: of no other
        scale and sign than what is beside it.
        """
        diagonal = A.diagonal().detach().masked_fill(self.mask, 0)
        nothing = diagonal.new_zeros(1)
        ends = torch.cat([diagonal, nothing]).aminmax()
        low, high = -A.world.max(-float(ends.min)), A.world.max(float(ends.max))
        usual = (high if high >= -low else low) or 1.0
        low_here, high_here = diagonal.view(-1, block_size).aminmax(dim=1)
        of_node = torch.where(high_here >= -low_here, high_here, low_here)
        of_node = torch.where(of_node == 0, usual, of_node).repeat_interleave(block_size)
        values = A.held.plain.index_fill(0, self._entries, 0)
        values[self._diagonal] = of_node[self._diagonal_rows]
        return A.with_values(values)

    def eliminate(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`out = r - C D^-1 r`, 0 in the decoupled rows. **Collective.**

        r and out `[n_owned]` or `[n_owned, k]`.
        """
        if self._coupling is None:
            out.copy_(r)
        else:
            (solved,) = self._work.like(r)
            self.solve(r, solved.zero_())
            self._coupling.pattern.matmul(self._coupling.values, solved, out)
            torch.sub(r, out, out=out)
        return self.clear(out)

    def clear(self, r: torch.Tensor) -> torch.Tensor:
        """Set r to 0 in the decoupled rows, in place. Local."""
        return r.index_fill_(0, self._rows, 0)

    def solve(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`D^-1 r` into the decoupled rows of `out`. Local."""
        mine = r.index_select(0, self._rows)
        return out.index_copy_(0, self._rows, scale(mine, self._inverse, mine))

    def start(self, b: torch.Tensor) -> torch.Tensor:
        """A new vector with `D^-1 b` in the decoupled rows, 0 in others and where D is 0. Local."""
        mine = b.index_select(0, self._rows)
        return torch.zeros_like(b).index_copy_(0, self._rows, scale(mine, self._values, mine))

    def solve_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`D^-1 (r - C^T out)` into the decoupled rows of `out`. **Collective.**"""
        if self._coupling is None:
            return self.solve(r, out)
        (above,) = self._work.like(r)
        self._coupling.pattern.rmatmul(self._coupling.values, out, above)
        return self.solve(torch.sub(r, above, out=above), out)


def any_decoupled(A: DSparseMatrix) -> bool:
    """Whether this rank has rows that are equations of their own. Local."""
    return bool(_mask(A).any())


def decoupled_rows(A: DSparseMatrix) -> DecoupledRows | None:
    """The rows of A that are equations of their own, None where no rank has any. **Collective.**"""
    mask = _mask(A)
    return DecoupledRows(A, mask) if A.world.sum(int(mask.sum())) else None


def given_rows(A: DSparseMatrix) -> DecoupledRows | None:
    """The same, where they give their unknowns to other rows: None if their columns were eliminated
    with them. **Collective.**

    From x = D^-1 b there, the residual is 0 in these rows and stays so, whatever the method: on
    what is left A is K, which conjugate gradients may take for symmetric if it is. From 0 it is
    not, and the residual rises at first by the scale of C, a stiffness.
    """
    found = decoupled_rows(A)
    return found if found is not None and found.coupled else None


def for_spectrum(A: DSparseMatrix) -> tuple[DSparseMatrix, torch.Tensor]:
    """A matrix with the eigenvalues of Jacobi-scaled A but for 1, and its inverse diagonal.

    **Collective.** A itself, unless rows are decoupled: what others have in their columns moves no
    eigenvalue, and outweighs all that does where they are identity rows beside a stiffness. The
    inverse is 0 in these rows.
    """
    found = decoupled_rows(A)
    if found is None:
        return A, inverse_diagonal(A.diagonal().detach())
    rest = found.rest(A)
    return rest, inverse_diagonal(rest.diagonal()).masked_fill_(found.mask, 0)


def _mask(A: DSparseMatrix) -> torch.Tensor:
    """Which owned rows have no nonzero beside the diagonal: bool [n_owned]. Local."""
    pattern = A.pattern
    packed, sliced = A.held.packed is not None, A.held.sliced
    if sliced is not None:
        beyond = pattern.boundary.long().index_select(0, pattern.halo.rows())
        nonzero = (A.held.halo != 0).nonzero().squeeze(1)
        return (~sliced.beside()).index_fill_(0, beyond.index_select(0, nonzero), False)
    if packed or (native.can_take(A.held.plain) and not transformed()):
        own, away = A.held.parts(pattern.owned.nnz)
        found = ~beside(own if isinstance(own, Packed) else plain(pattern.owned, own))
        if not pattern.halo.nnz:
            return found
        rows = pattern.boundary.long().index_select(0, pattern.halo.rows())
        return found.index_fill_(0, rows[torch.from_numpy(away != 0)], False)
    nonzero = A.held.plain != 0
    stored = bool(nonzero.all())  # then the pattern says it, and the entries need no counting
    owned, halo = (
        _per_row(block.indptr, None if stored else part)
        for block, part in (
            (pattern.owned, pattern.owned_values(nonzero)),
            (pattern.halo, pattern.halo_values(nonzero)),
        )
    )
    counts = owned.index_add(0, pattern.boundary, halo)
    where = pattern.owned.diagonal
    present = where >= 0
    if not stored and pattern.owned.nnz:
        present = present & nonzero.index_select(0, where.clamp(min=0))
    return counts == present.to(counts.dtype)


def _per_row(indptr: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """How many entries each row has, of all or of those chosen. Local."""
    if chosen is None:
        return indptr.diff().long()
    ends = torch.cat([chosen.new_zeros(1, dtype=torch.int64), chosen.cumsum(0)])
    return ends.index_select(0, indptr).diff()


def _matrix(
    A: DSparseMatrix, row: torch.Tensor, entries: torch.Tensor, values: torch.Tensor
) -> DSparseMatrix:
    """Some of A's entries as a matrix of their own. **Collective.**"""
    column = A.pattern.stored_columns().index_select(0, entries)
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=A.layout.n_owned)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    ends, columns, data = (t.cpu().numpy() for t in (indptr, column[order], values[order]))
    return DSparseMatrix._from_rows(A.layout, A.layout, ends, columns, data)
