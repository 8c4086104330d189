"""SparseTensors that are often wanted, and other forms: torch's sparse tensors, a picture."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.errors import InputError, InputTypeError, MissingDependencyError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse.from_torch import triplets_of
from hpc_sla.sparse_tensor.matrices import SparseMatrices, as_floats

if TYPE_CHECKING:
    from typing_extensions import Self


class SparseForms(SparseMatrices):
    """What `SparseTensor` inherits: constructors, torch's sparse tensors, `spy`."""

    @classmethod
    @entry
    def eye(
        cls,
        n: int,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The identity [n, n]."""
        return cls.diag(torch.ones(_count(n), dtype=dtype, device=device))

    @classmethod
    @entry
    def diag(cls, values: Any, offset: int = 0) -> Self:
        """Values [*batch, n] on a diagonal, `offset` above the main one. Differentiable.

        Of shape [n + |offset|, n + |offset|], as `torch.diag`.
        """
        values = as_floats(values, "values")
        n, k = values.shape[-1], int(offset)
        i = torch.arange(n, device=values.device)
        size = n + abs(k)
        return cls(values, i + max(-k, 0), i + max(k, 0), (size, size))

    @classmethod
    @entry
    def tridiagonal(cls, lower: Any, main: Any, upper: Any, n: int | None = None) -> Self:
        """Three diagonals, of [*batch, n - 1], [*batch, n] and [*batch, n - 1]. Differentiable.

        Or of three numbers, with `n`, in float64: ``tridiagonal(-1.0, 2.0, -1.0, n=100)``.

        Raises
        ------
        InputError
            Lengths that do not make a square matrix, numbers without n.
        """
        parts = [
            torch.tensor(float(part), dtype=torch.float64)
            if isinstance(part, numbers.Real)
            else as_floats(part, "diagonals")
            for part in (lower, main, upper)
        ]
        if all(part.dim() == 0 for part in parts):
            if n is None:
                raise InputError("three numbers do not say how many rows", field="n")
            lengths = (_count(n) - 1, n, n - 1)
            parts = [part.expand(max(m, 0)) for part, m in zip(parts, lengths, strict=True)]
        if any(part.dim() == 0 for part in parts):
            raise InputError("numbers and diagonals are mixed", field="diagonals")
        size = parts[1].shape[-1]
        given = tuple(part.shape[-1] for part in parts)
        if given != (max(size - 1, 0), size, max(size - 1, 0)):
            raise InputError(
                f"of lengths {given} make no matrix",
                field="diagonals",
                remedy=f"Pass {max(size - 1, 0)}, {size} and {max(size - 1, 0)} values",
            )
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        values = torch.cat([part.expand(*batch, -1) for part in parts], dim=-1)
        i, j = (torch.arange(m, device=values.device) for m in (size, max(size - 1, 0)))
        return cls(values, torch.cat([j + 1, i, j]), torch.cat([j, i, j + 1]), (size, size))

    @classmethod
    @entry
    def from_torch(cls, matrix: torch.Tensor) -> Self:
        """From a torch sparse COO, CSR or CSC tensor [m, n]. Differentiable in its values.

        Raises
        ------
        InputError
            Not sparse, not a matrix, another dtype.
        """
        rows, columns, values = triplets_of(matrix)
        return cls(values, rows, columns, matrix.shape)

    @entry
    def to_torch(self, layout: torch.layout = torch.sparse_csr) -> torch.Tensor:
        """One matrix as a torch sparse tensor. Differentiable.

        Parameters
        ----------
        layout : torch.sparse_csr, torch.sparse_coo or torch.sparse_csc
        """
        self._require_one("to_torch")
        if layout not in (torch.sparse_csr, torch.sparse_coo, torch.sparse_csc):
            raise InputTypeError(
                f"{layout} is not a layout of sparse matrices",
                field="layout",
                remedy="Choose torch.sparse_csr, torch.sparse_coo or torch.sparse_csc",
            )
        pair = torch.stack([self.row, self.col])
        coo = torch.sparse_coo_tensor(
            pair, self.values, self.shape, is_coalesced=True, check_invariants=False
        )
        return coo if layout == torch.sparse_coo else coo.to_sparse(layout=layout)

    @entry
    def spy(self, ax: Any = None, values: bool = False, **options: Any) -> Any:
        """Draw where one matrix has entries. With matplotlib, which is optional.

        A large matrix is drawn by how full its blocks are.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: the current one.
        values : bool
            Whether colours are the values (of blocks, the largest modulus), by their logarithm.
        **options
            Of `Axes.imshow`.

        Returns
        -------
        matplotlib Axes
        """
        self._require_one("spy")
        try:
            import matplotlib.pyplot as plt  # optional
        except ImportError as error:
            raise MissingDependencyError(
                "matplotlib is not installed", remedy="pip install 'hpc_sla[plot]'"
            ) from error
        axes = plt.gca() if ax is None else ax
        m, n = self.shape
        height, width = min(max(m, 1), _PIXELS), min(max(n, 1), _PIXELS)
        picture = np.zeros((height, width))
        row = (self.row.cpu().numpy() * height) // max(m, 1)
        col = (self.col.cpu().numpy() * width) // max(n, 1)
        size = self.values.detach().abs().double().cpu().numpy()
        if values:
            np.maximum.at(picture, (row, col), size)
            positive = picture[picture > 0]
            shown = np.ma.masked_less_equal(picture, 0)
            picture = np.ma.log10(shown) if len(positive) else shown
        else:
            np.add.at(picture, (row, col), 1.0)
            picture = np.ma.masked_equal(picture, 0)
        given: dict[str, Any] = {
            "extent": (-0.5, n - 0.5, m - 0.5, -0.5),
            "interpolation": "nearest",
        }
        if not values:
            given |= {"cmap": "binary", "vmin": 0}
        image = axes.imshow(picture, **(given | options))
        if values:
            axes.figure.colorbar(image, ax=axes, label="log10 |a_ij|")
        axes.set_xlabel(f"{self.nnz} entries")
        axes.xaxis.tick_top()
        return axes


_PIXELS = 800
"""More rows than that are drawn in blocks."""


def _count(n: Any) -> int:
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 0:
        raise InputError(f"{n!r} is not a number of rows", field="n")
    return int(n)
