"""DSparseMatrix: a sparse matrix whose rows are spread over ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla import product as products
from hpc_sla.errors import InputError
from hpc_sla.layout import RowLayout
from hpc_sla.ownership import Ownership
from hpc_sla.partition.offsets import offsets_for
from hpc_sla.pattern import DistributedPattern
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.world import World

if TYPE_CHECKING:
    import scipy.sparse as sp

_DTYPES = {torch.float64: np.float64, torch.float32: np.float32}


class DSparseMatrix:
    """A square sparse matrix, its rows spread over the ranks of a World.

    Make one with `from_hdf5`, `from_scipy` or `from_coo`. Every rank holds only its own rows
    as torch tensors on its own device, and knows the few values of other ranks (its halo) that
    a product needs.

    Attributes
    ----------
    layout : RowLayout
        Rows by rank. `layout.rows` gives the user's row of each owned row.
    values : torch.Tensor [nnz_owned]
        Per rank: the stored entries, those in owned columns first and those in halo columns
        after, each block by rows. May require grad. `entries()` says which is where.
    pattern : DistributedPattern
    shape : (int, int)
    """

    def __init__(self, pattern: DistributedPattern, values: torch.Tensor) -> None:
        self.pattern = pattern
        self.values = values
        self.layout = pattern.layout
        self.world = pattern.layout.world
        self.shape = (self.layout.n_global, self.layout.n_global)

    # Constructors

    @classmethod
    def from_hdf5(
        cls, path: str | os.PathLike[str], world: World, dtype: torch.dtype | None = None
    ) -> DSparseMatrix:
        """Read a partitioned matrix file, each rank its own slab of rows. **Collective.**

        Any rank count opens any file: its parts are merged or split to fit.

        Parameters
        ----------
        path : path
            A file made by `python -m hpc_sla partition`; the format is in partitions/README.md.
        world : World
        dtype : torch.float64 or torch.float32, optional
            Default: the file's.

        Raises
        ------
        InputError
            On every rank, naming the file, the dataset and the remedy.
        """
        with world.agree(), MatrixFile(path) as file:
            file.require_square()
            offsets = offsets_for(file.part_offsets, world.size)
            rows = slice(int(offsets[world.rank]), int(offsets[world.rank + 1]))
            indptr, columns, data = file.read_rows(rows.start, rows.stop)
            permutation = file.read_permutation(rows.start, rows.stop)
        layout = RowLayout(world, offsets, permutation)
        return cls._from_rows(layout, indptr, columns, _as_dtype(data, dtype))

    @classmethod
    def from_scipy(
        cls,
        matrix: Any,
        world: World,
        partition: str | np.ndarray = "metis",
        coordinates: np.ndarray | None = None,
    ) -> DSparseMatrix:
        """Spread a SciPy matrix that rank 0 holds. **Collective.**

        Parameters
        ----------
        matrix : scipy sparse matrix or array, or None
            Read on rank 0 only. float64 or float32; other real types become float64.
        world : World
        partition : {"metis", "rcb", "contiguous"} or int array [n]
            The method, or (on rank 0) the rank of each row.
        coordinates : array [n, d], optional
            For `rcb`; on rank 0.

        Raises
        ------
        InputError
            On every rank: not sparse, not square, not finite, complex.
        """
        from hpc_sla.spread import spread_rows

        layout, indptr, columns, data = spread_rows(matrix, world, partition, coordinates)
        return cls._from_rows(layout, indptr, columns, data)

    @classmethod
    def from_coo(
        cls,
        rows: torch.Tensor | np.ndarray,
        cols: torch.Tensor | np.ndarray,
        values: torch.Tensor | np.ndarray,
        shape: Sequence[int],
        world: World,
    ) -> DSparseMatrix:
        """Assemble from triplets, each rank bringing those of the rows it will own. **Collective.**

        Row and column numbers are the user's own; no order or contiguity is asked of them. A
        rank owns the rows it passes entries of, in ascending order; a row that nobody passes
        has no entries and goes to the rank whose even block of rows it lies in. Entries given
        twice are summed. Differentiable in `values`.

        Parameters
        ----------
        rows, cols : integer tensor or array [m]
            Per rank; 0-based.
        values : tensor or array [m]
            Per rank; float64 or float32, the same on every rank. May require grad (then on
            every rank).
        shape : (int, int)
            Replicated; square.
        world : World

        Raises
        ------
        InputError
            On every rank: lengths differ, an index out of range, a row passed by two ranks, a
            dtype that is not float32 or float64, a shape that is not square.
        """
        n = int(shape[0])
        with world.agree():
            rows, cols = _indices(rows, "rows"), _indices(cols, "cols")
            values = _values(values, world.device)
            _check_triplets(rows, cols, values, shape)
        values = _agree_on_kind(values, n, world)
        ownership = Ownership(world, np.unique(rows), n)
        layout = ownership.layout
        local = np.searchsorted(layout.rows, rows)
        columns = ownership.stored(cols)
        # Row-major order of the triplets, then one slot per distinct (row, column).
        order = np.lexsort((columns, local))
        local, columns = local[order], columns[order]
        new = np.ones(len(local), dtype=bool)
        new[1:] = (local[1:] != local[:-1]) | (columns[1:] != columns[:-1])
        counts = np.bincount(local[new], minlength=layout.n_owned)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # The pattern reorders entries; carry each slot's number along to place the values.
        slots = np.arange(int(new.sum()), dtype=np.int64)
        pattern, slots = DistributedPattern.from_rows(layout, indptr, columns[new], slots)
        place = np.empty(len(slots), dtype=np.int64)
        place[slots] = np.arange(len(slots))
        target = np.empty(len(order), dtype=np.int64)
        target[order] = place[np.cumsum(new) - 1]
        stored = values.new_zeros(pattern.nnz_owned).index_add(
            0, torch.from_numpy(target).to(values.device), values
        )
        return cls(pattern, stored)

    @classmethod
    def _from_rows(
        cls, layout: RowLayout, indptr: np.ndarray, columns: np.ndarray, data: np.ndarray
    ) -> DSparseMatrix:
        pattern, data = DistributedPattern.from_rows(layout, indptr, columns, data)
        return cls(pattern, torch.from_numpy(data).to(layout.world.device))

    def with_values(self, values: torch.Tensor) -> DSparseMatrix:
        """The same pattern and halo with other values. Local; differentiable.

        Parameters
        ----------
        values : torch.Tensor [nnz_owned]
            Per rank, in the order of `self.values`.
        """
        if values.shape != (self.pattern.nnz_owned,):
            raise ValueError(
                f"this rank stores {self.pattern.nnz_owned} entries; "
                f"got values of shape {tuple(values.shape)}"
            )
        return DSparseMatrix(self.pattern, values)

    # Products

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        """`A x` for x `[n_owned]` or `[n_owned, k]`. **Collective.** Differentiable in both."""
        self._check(x)
        return products.product(self.values, x, self.pattern)

    matvec = __matmul__

    def _check(self, x: torch.Tensor) -> None:
        self.layout._check(x)
        # Before anything is sent: a product that fails half way leaves messages behind.
        if x.dtype != self.dtype or x.device != self.device:
            raise TypeError(
                f"a vector of {x.dtype} on {x.device} does not go with a matrix of "
                f"{self.dtype} on {self.device}"
            )

    def rmatvec(self, x: torch.Tensor) -> torch.Tensor:
        """`A^T x`. **Collective.** Differentiable in both."""
        self._check(x)
        return products.rproduct(self.values, x, self.pattern)

    @property
    def T(self) -> TransposedMatrix:
        """The transpose, as a view. Local."""
        return TransposedMatrix(self)

    def halo(self, x: torch.Tensor) -> torch.Tensor:
        """The values of x that this rank's rows need from other ranks. **Collective.**

        Differentiable. [n_halo] or [n_halo, k], in ascending stored row.
        """
        self.layout._check(x)
        return self.pattern.plan.exchange(x)

    # What it is

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

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

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The user's row and column of each of `values`: two int64 [nnz_owned]. **Collective.**"""
        user = torch.from_numpy(np.ascontiguousarray(self.layout.rows)).to(self.device)
        columns = torch.cat([user, self.pattern.plan.exchange(user)])
        owned, halo = self.pattern.owned, self.pattern.halo
        local = torch.cat([owned.indices.long(), halo.indices.long() + self.layout.n_owned])
        rows = user.index_select(0, self.pattern.local_rows())
        return rows.cpu().numpy(), columns.index_select(0, local).cpu().numpy()

    def diagonal(self) -> torch.Tensor:
        """The diagonal of the owned rows, 0 where not stored: [n_owned]. Local; differentiable."""
        where = self.pattern.owned.diagonal
        if not self.pattern.owned.nnz:
            return self.values.new_zeros(self.layout.n_owned)
        found = self.values.index_select(0, where.clamp(min=0))
        return torch.where(where >= 0, found, 0.0)

    def local_csr(self) -> sp.csr_matrix:
        """This rank's rows with stored global columns, as SciPy [n_owned, n_global]. Local."""
        import scipy.sparse as sp  # slow to load, and a solve does without it

        rows = self.pattern.local_rows().cpu().numpy()
        columns = self.pattern.stored_columns().cpu().numpy()
        data = self.values.detach().cpu().numpy()
        shape = (self.layout.n_owned, self.layout.n_global)
        return sp.coo_matrix((data, (rows, columns)), shape=shape).tocsr()

    def __repr__(self) -> str:
        return (
            f"DSparseMatrix(shape={self.shape}, rank {self.world.rank} of {self.world.size}: "
            f"{self.layout.n_owned} rows, {self.nnz_owned} entries, {self.n_halo} halo, "
            f"{self.dtype}, {self.device})"
        )


class TransposedMatrix:
    """`A.T`: the same storage, multiplied the other way."""

    def __init__(self, matrix: DSparseMatrix) -> None:
        self.T = matrix
        self.layout = matrix.layout
        self.world = matrix.world
        self.shape = matrix.shape[::-1]

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        """`A^T x`. **Collective.** Differentiable in A's values and x."""
        return self.T.rmatvec(x)

    matvec = __matmul__

    def rmatvec(self, x: torch.Tensor) -> torch.Tensor:
        """`A x`. **Collective.**"""
        return self.T.matvec(x)


def read_rhs(
    path: str | os.PathLike[str],
    name: str,
    layout: RowLayout,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """A right-hand side of a matrix file, each rank its owned entries. **Collective.**

    Parameters
    ----------
    path : path
        The file the layout's matrix came from.
    name : str
        Which of `/rhs/*`.
    layout : RowLayout
    dtype : torch.dtype, optional
        Default: the file's.

    Raises
    ------
    InputError
        On every rank: no right-hand side by that name (the message lists those there are).
    """
    with layout.world.agree(), MatrixFile(path) as file:
        data = file.read_rhs(name, layout.start, layout.start + layout.n_owned)
    return torch.from_numpy(_as_dtype(data, dtype)).to(layout.world.device)


def _as_dtype(data: np.ndarray, dtype: torch.dtype | None) -> np.ndarray:
    return data if dtype is None else data.astype(_DTYPES[dtype], copy=False)


def _agree_on_kind(values: torch.Tensor, n: int, world: World) -> torch.Tensor:
    """One dtype, and a gradient wanted on all ranks or on none. **Collective.**

    Ranks with nothing to pass follow the others: `torch.tensor([])` is float32.
    """
    mine = (values.dtype, values.requires_grad, n)
    kinds = world.comm.allgather((mine, values.numel() > 0))
    said = {kind for kind, some in kinds if some} or {kinds[0][0]}
    if len(said) > 1 or len({kind[2] for kind, _ in kinds}) > 1:
        raise InputError(
            "ranks differ in the dtype of values, in whether it requires a gradient, or in shape",
            field="values",
            remedy="Pass the same dtype, requires_grad and shape on every rank",
        )
    ((dtype, wants_gradient, _),) = said
    if mine[:2] == (dtype, wants_gradient):
        return values
    return values.detach().to(dtype).requires_grad_(wants_gradient)


def _indices(indices: Any, field: str) -> np.ndarray:
    if isinstance(indices, torch.Tensor):
        indices = indices.detach().cpu().numpy()
    indices = np.asarray(indices)
    if indices.size and indices.dtype.kind not in "iu":
        raise InputError(f"indices of type {indices.dtype} are not integers", field=field)
    return indices.astype(np.int64, copy=False).ravel()


def _values(values: Any, device: torch.device) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        values = np.asarray(values)
    tensor = torch.as_tensor(values, device=device)
    if tensor.dtype not in _DTYPES:
        raise InputError(
            f"values of type {tensor.dtype} are not supported",
            field="values",
            remedy="Pass float64 or float32",
        )
    return tensor


def _check_triplets(
    rows: np.ndarray, cols: np.ndarray, values: torch.Tensor, shape: Sequence[int]
) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"the shape {tuple(shape)} is not square", field="shape")
    if not len(rows) == len(cols) == values.numel() or values.dim() != 1:
        raise InputError(
            f"{len(rows)} rows, {len(cols)} cols and values of shape {tuple(values.shape)} "
            "do not make triplets",
            field="values",
        )
    for indices, field in ((rows, "rows"), (cols, "cols")):
        outside = indices[(indices < 0) | (indices >= shape[0])]
        if len(outside):
            raise InputError(f"index {outside[0]} is outside 0 to {int(shape[0]) - 1}", field=field)
