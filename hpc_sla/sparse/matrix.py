"""DSparseMatrix: a sparse matrix whose rows are spread over ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.shared import refuse_pickling
from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.entries import diagonal, plain
from hpc_sla.kernels.modes import entry, untracked
from hpc_sla.sparse.algebra import Algebra
from hpc_sla.sparse.constructors import Constructors
from hpc_sla.sparse.convert import Conversions
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.product import used
from hpc_sla.sparse.stored import TransposedMatrix
from hpc_sla.sparse.to_hdf5 import Writable
from hpc_sla.sparse.unknowns import Unknowns
from hpc_sla.sparse.values import Values

if TYPE_CHECKING:
    import scipy.sparse as sp

_DTYPES = (torch.float64, torch.float32)


class DSparseMatrix(Constructors, Conversions, Algebra, Writable):
    """A sparse matrix, its rows spread over the ranks of a World.

    Make one with `from_hdf5`, `from_scipy` or `from_coo`. Every rank holds only its own rows
    as torch tensors on its own device, and knows the few values of other ranks (its halo) that
    a product needs.

    Attributes
    ----------
    layout : RowLayout
        Rows by rank: A @ x lives there. `layout.rows` gives the user's row of each owned row.
    columns : RowLayout
        Columns by rank: x of A @ x, and A.T @ y, live there. Of a square matrix, `layout` itself.
    values : torch.Tensor [nnz_owned]
        Per rank: the stored entries, those in owned columns first and those in halo columns
        after, each block by rows. May require grad. `entries()` says which is where.
    pattern : DistributedPattern
    shape : (int, int)
    block_size : int
        Unknowns of a node, 1 unless said or found. Replicated.
    coordinates, near_nullspace : float64 tensor [n_owned, k] or None
        Per rank: the point of each row; vectors that the matrix hardly changes. Multigrid takes the
        three unasked. They can be set, and stay with `with_values`.
    """

    def __init__(self, pattern: DistributedPattern, values: torch.Tensor | Values) -> None:
        super().__init__(pattern.layout, pattern.columns)
        self.pattern = pattern
        self.held = values if isinstance(values, Values) else Values(values)
        self.world.forgotten.own(values)

    @entry
    def with_values(self, values: torch.Tensor) -> DSparseMatrix:
        """The same pattern and halo with other values. Local; differentiable.

        Parameters
        ----------
        values : torch.Tensor or array [nnz_owned]
            Per rank, in the order of `self.values`; float64 or float32.

        Raises
        ------
        InputError
            Of this rank alone: another length, dtype or device.
        """
        values = tensor_of(values, "values", self.dtype, self.device)
        if values.shape != (self.pattern.nnz_owned,):
            raise InputError(
                f"this rank stores {self.pattern.nnz_owned} entries; "
                f"got values of shape {tuple(values.shape)}",
                field="values",
            )
        if values.dtype not in _DTYPES or values.device != self.device:
            raise InputTypeError(
                f"values of {values.dtype} on {values.device}: pass float64 or float32 on "
                f"{self.device}",
                field="values",
            )
        # Compiled loops run along them.
        return DSparseMatrix(self.pattern, values.contiguous())._knowing(self.unknowns)

    @entry
    def repartition(
        self,
        method: str = "multilevel",
        weights: str | torch.Tensor | np.ndarray = "entries",
        coordinates: torch.Tensor | np.ndarray | None = None,
        shares: Sequence[float] | None = None,
    ) -> DSparseMatrix:
        """The same matrix with its rows spread otherwise over the ranks. **Collective.**

        Found in parallel: no rank sees more than its share. The user's order stays, and what is
        known of the rows goes with them. Vectors follow by ``A.layout.move(x, B.layout)``.
        Differentiable: the new values are a function of `A.values`.

        Parameters
        ----------
        method : {"multilevel", "sfc", "rcb", "contiguous"}
            As in `hpc_sla.partition.parallel.partition_rows`; "contiguous" is of the rows as they
            are stored now.
        weights : {"entries", "rows"}, or tensor or array [n_owned]
            What is to be even: stored entries, rows, or, per rank, what each owned row costs.
        coordinates : tensor or array [n_owned, d], optional
            Per rank, for "sfc" and "rcb". Default: the matrix's own.
        shares : sequence of `size` numbers, optional
            Replicated: how much each rank gets, relatively; its speed, say. Default: equal.

        Returns
        -------
        DSparseMatrix
            On the same World.

        Raises
        ------
        InputError
            On every rank: a rectangular matrix, a method without its coordinates, weights or
            shares that are negative or of another length.
        """
        # Loads SciPy's sparse matrices, which takes a while and a solve does without.
        from hpc_sla.sparse.repartition import moved, new_ranks, redistributed

        old, known = self.layout, self.unknowns
        part = new_ranks(old, self.local_csr(), known, method, weights, coordinates, shares)
        rows, columns = self.entries()
        local = self.pattern.local_rows().cpu().numpy()
        values = self.values if self.held.packed is None else self.held.plain
        layout, pattern, found = redistributed(old, rows, columns, local, values, part)
        return DSparseMatrix(pattern, found)._knowing(moved(known, old, layout))

    def as_it_is(self) -> DSparseMatrix:
        """The same, whose values stay packed if they are, whatever becomes of this one's. Local."""
        return DSparseMatrix(self.pattern, self.held.as_they_are())._knowing(self.unknowns)

    def rescaled(self, factor: float) -> DSparseMatrix:
        """It times a number, held as it is, for set-up. Local; not differentiable."""
        return DSparseMatrix(self.pattern, self.held.scaled(factor))._knowing(self.unknowns)

    def _knowing(self, unknowns: Unknowns) -> DSparseMatrix:
        self.unknowns = unknowns
        return self

    def __copy__(self) -> DSparseMatrix:
        return DSparseMatrix(self.pattern, self.held)._knowing(self.unknowns)

    def __deepcopy__(self, memo: dict[int, Any]) -> DSparseMatrix:
        """Values of its own, on the same pattern and World. Local."""
        values, unknowns = copy.deepcopy((self.held, self.unknowns), memo)
        return DSparseMatrix(self.pattern, values)._knowing(unknowns)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.world.size > 1 or not isinstance(self.world.comm, SerialComm):
            refuse_pickling(self)
        owned, held = self.pattern.owned.at_hand(), self.held
        arrays = (owned.indptr.cpu().numpy(), owned.indices.cpu().numpy())
        columns = self.columns if self.columns is not self.layout else None
        values = held.tensor if held.written else held.plain
        return _unpickled, (self.layout, columns, *arrays, values, self.unknowns)

    @property
    def stored(self) -> DSparseMatrix:
        """The matrix itself."""
        return self

    @property
    def T(self) -> TransposedMatrix:
        """The transpose, as a view. Local."""
        return TransposedMatrix(self)

    @entry
    def halo(self, x: torch.Tensor) -> torch.Tensor:
        """The values of x that this rank's rows need from other ranks. **Collective.**

        Differentiable. [n_halo] or [n_halo, k], in ascending stored column.
        """
        x = self.columns._checked(x)
        used(self.pattern)
        return self.pattern.plan.exchange(x)

    @entry
    def with_halo(self, x: torch.Tensor) -> torch.Tensor:
        """Owned values and behind them `halo(x)`. **Collective.** Differentiable.

        [n_owned + n_halo] or [n_owned + n_halo, k]. Where second derivatives are taken by hand,
        this rather than `torch.cat([x, A.halo(x)])`, from which they do not find back to the
        exchange on a rank with an empty halo.
        """
        x = self.columns._checked(x)
        used(self.pattern)
        return self.pattern.plan.extend(x)

    # What it is

    @property
    def nnz_owned(self) -> int:
        """This rank's stored entries."""
        return self.pattern.nnz_owned

    @property
    def nnz_global(self) -> int:
        """Stored entries over all ranks."""
        return self.pattern.nnz_global

    @property
    def n_halo(self) -> int:
        """Values this rank needs from others for a product."""
        return self.pattern.plan.n_halo

    @entry
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The user's row and column of each of `values`: two int64 [nnz_owned]. **Collective.**"""
        mine = torch.from_numpy(np.ascontiguousarray(self.columns.rows)).to(self.device)
        columns = torch.cat([mine, self.pattern.plan.exchange(mine)])
        local = self.pattern.local_columns()
        user = torch.from_numpy(np.ascontiguousarray(self.layout.rows)).to(self.device)
        rows = user.index_select(0, self.pattern.local_rows())
        return rows.cpu().numpy(), columns.index_select(0, local).cpu().numpy()

    @entry
    def diagonal(self) -> torch.Tensor:
        """The diagonal of the owned rows, 0 where not stored: [n_owned]. Local; differentiable.

        Raises
        ------
        InputError
            On every rank, where the matrix is rectangular.
        """
        if self.columns is not self.layout:
            raise InputError(
                f"a {self.shape[0]} x {self.shape[1]} matrix has no diagonal that belongs to its "
                "rows",
                field="matrix",
                remedy="Choose what works without one, such as precond='none'",
            )
        owned = self.pattern.owned
        if self.held.packed is not None:
            return diagonal(self.held.packed)
        if self.held.sliced is not None:
            return self.held.sliced.diagonal()
        if untracked(self.values) and owned.compiled(self.values):
            return diagonal(plain(owned, self.pattern.owned_values(self.values).detach().numpy()))
        where = self.pattern.owned.diagonal
        if not self.pattern.owned.nnz:
            # In the graph of the values all the same: other ranks go back through theirs.
            nothing = self.pattern.owned_values(self.values).sum()
            return nothing.expand(self.layout.n_owned)
        found = self.values.index_select(0, where.clamp(min=0))
        return torch.where(where >= 0, found, 0.0)

    @entry
    def local_csr(self) -> sp.csr_matrix:
        """This rank's rows with stored column numbers, as SciPy [n_owned, n]. Local."""
        import scipy.sparse as sp  # slow to load, and a solve does without it

        rows = self.pattern.local_rows().cpu().numpy()
        columns = self.pattern.stored_columns().cpu().numpy()
        data = self.held.plain.cpu().numpy()
        shape = (self.layout.n_owned, self.columns.n_global)
        return sp.coo_matrix((data, (rows, columns)), shape=shape).tocsr()

    def __repr__(self) -> str:
        return (
            f"DSparseMatrix(shape={self.shape}, rank {self.world.rank} of {self.world.size}: "
            f"{self.layout.n_owned} rows, {self.nnz_owned} entries, {self.n_halo} halo, "
            f"{self.dtype}, {self.device})"
        )


def _unpickled(
    layout: RowLayout,
    columns: RowLayout | None,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: torch.Tensor,
    unknowns: Unknowns,
) -> DSparseMatrix:
    """A matrix of one process."""
    order = np.arange(len(indices))
    pattern, _ = DistributedPattern.from_rows(
        layout, indptr.astype(np.int64), indices.copy(), order, columns
    )
    return DSparseMatrix(pattern, values)._knowing(unknowns)
