"""Sparse matrices of small dense tiles: how multigrid holds a prolongator and its transpose.

Unknowns of one node have their entries in the same columns, those of the node's neighbours: a tile
for each pair of nodes has one index where single entries would have a dozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import CSR, TILED, Matrix
from hpc_sla.kernels.packing import compressed

_ROWS = 256
"""`REACH` of transfer.c."""

_FEWEST = 2048
"""With fewer rows, compressing them costs more than it saves."""


@dataclass(frozen=True)
class Tiles:
    """A rank-local matrix of dense tiles, by rows of tiles, on the host.

    Attributes
    ----------
    indptr : int32 array [rows of tiles + 1]
    indices : int32 array [tiles]
        Ascending in each row.
    values : array [tiles, high, wide]
        Single entries are tiles of 1 x 1.
    columns : int
        Of tiles.
    flipped : bool
        Whether this is the transpose of what the tiles, as they lie, make up: its tiles have
        `wide` rows and `high` columns.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    columns: int
    flipped: bool = False

    @classmethod
    def of(cls, matrix: sp.csr_matrix, wide: int = 1) -> Tiles:
        """A matrix whose rows have whole runs of `wide` columns: tiles of one row. Local."""
        indices = matrix.indices if wide == 1 else matrix.indices[::wide] // np.int32(wide)
        indptr = matrix.indptr // np.int32(wide)
        values = matrix.data.reshape(-1, 1, wide)
        return cls(indptr, indices, values, matrix.shape[1] // wide)

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return len(self.indptr) - 1

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a tile as it lies."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def bytes(self) -> int:
        """What is held."""
        return self.indptr.nbytes + self.indices.nbytes + self.values.nbytes

    def csr(self) -> sp.csr_matrix:
        """By single entries. Local."""
        (high, wide), values = self.size, self.values
        if self.flipped:
            high, wide, values = wide, high, values.transpose(0, 2, 1)
        shape = self.rows * high, self.columns * wide
        if high == wide == 1:
            return sp.csr_matrix((values.ravel(), self.indices, self.indptr), shape, copy=False)
        return sp.bsr_matrix((values, self.indices, self.indptr), shape).tocsr()

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        """Some rows of single entries, of one that is not flipped. Local."""
        high, wide = self.size
        node = rows // high
        counts = np.diff(self.indptr)[node]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        entry = np.repeat(self.indptr[node] - indptr[:-1], counts) + np.arange(indptr[-1])
        values = self.values[entry, np.repeat(rows - node * high, counts)]
        columns = self.indices[entry][:, None] * np.int32(wide) + np.arange(wide, dtype=np.int32)
        arrays = values.ravel(), columns.ravel(), (indptr * wide).astype(np.int32)
        return sp.csr_matrix(arrays, shape=(len(rows), self.columns * wide), copy=False)

    def between(self, begin: int, end: int) -> Tiles:
        """Rows of tiles, from `begin` to `end`; the entries are shared. Local."""
        first, last = self.indptr[begin], self.indptr[end]
        indptr = self.indptr[begin : end + 1] - first
        inside = slice(first, last)
        return Tiles(indptr, self.indices[inside], self.values[inside], self.columns, self.flipped)

    def transposed(self) -> Tiles:
        """The transpose; the tiles are moved and not changed. Local."""
        single = self.values.shape[1:] == (1, 1)
        data = self.values.ravel() if single else np.arange(len(self.indices), dtype=np.int32)
        shape = self.rows, self.columns
        turned = sp.csr_matrix((data, self.indices, self.indptr), shape, copy=False).T.tocsr()
        values = turned.data.reshape(-1, 1, 1) if single else self.values[turned.data]
        indptr, indices = (a.astype(np.int32, copy=False) for a in (turned.indptr, turned.indices))
        return Tiles(indptr, indices, values, self.rows, not self.flipped)

    def matrix(self) -> Matrix:
        """As compiled loops take it. Local."""
        high, wide = self.size
        if self.flipped:
            high, wide = wide, high
        parts = [torch.from_numpy(a) for a in (self.indptr, self.indices, self.values)]
        sizes = self.rows * high, self.columns * wide, self.values.size
        if high == wide == 1:
            return Matrix(CSR, *sizes, parts)
        return Matrix(TILED, *sizes, [*parts, torch.tensor(self.size, device="cpu")])

    def transfer(self) -> Matrix:
        """As transfer.c takes it: of single entries and many rows, in fewer bytes. Local."""
        matrix = self.matrix()
        if matrix.form == CSR and self.rows >= _FEWEST:
            indptr, indices, values = matrix.tensors
            matrix = compressed(CsrPattern(indptr, indices, self.columns), values.view(-1))
        matrix.reach = torch.from_numpy(self._reach())
        matrix.parts[8] = matrix.reach.data_ptr()
        return matrix

    def _reach(self) -> np.ndarray:
        """The first and last columns of so many rows: int32 [., 2]; 0 and -1 without any."""
        found = np.tile(np.array([0, -1], dtype=np.int32), (-(-self.rows // _ROWS), 1))
        rows = np.flatnonzero(np.diff(self.indptr))
        if len(rows):
            blocks = rows // _ROWS
            starts = np.flatnonzero(np.diff(blocks, prepend=-1))
            blocks = blocks[starts]
            found[blocks, 0] = np.minimum.reduceat(self.indices[self.indptr[rows]], starts)
            found[blocks, 1] = np.maximum.reduceat(self.indices[self.indptr[rows + 1] - 1], starts)
        return found
