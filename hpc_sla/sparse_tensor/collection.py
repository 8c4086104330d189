"""Several sparse matrices whose patterns differ, which no batch can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry
from hpc_sla.observe.monitors import named_once
from hpc_sla.sparse_tensor.sparsity import Sparsity
from hpc_sla.sparse_tensor.tensor import SparseTensor


class SparseTensorList(Sequence[SparseTensor]):
    """A list of SparseTensors, each of one matrix, of any shapes and patterns.

    Parameters
    ----------
    matrices : iterable of SparseTensor
        Of one dtype and device.

    Raises
    ------
    InputError
        Something else in it, a batch, dtypes or devices that differ.

    Examples
    --------
    >>> import hpc_sla as hs, torch
    >>> both = hs.SparseTensorList([hs.SparseTensor.eye(2), 2 * hs.SparseTensor.eye(3)])
    >>> [x.tolist() for x in both.solve([torch.ones(n, dtype=torch.float64) for n in (2, 3)])]
    [[1.0, 1.0], [0.5, 0.5, 0.5]]
    """

    def __init__(self, matrices: Iterable[SparseTensor]) -> None:
        self._each = list(matrices)
        for i, one in enumerate(self._each):
            if not isinstance(one, SparseTensor):
                raise InputTypeError(
                    f"member {i}, a {type(one).__name__}, is not a SparseTensor", field="matrices"
                )
            if one.batch_size is not None:
                raise InputError(
                    f"member {i} is a batch of {one.batch_size}",
                    field="matrices",
                    remedy="Pass its members: [*batch]",
                )
            first = self._each[0]
            if (one.dtype, one.device) != (first.dtype, first.device):
                raise InputError(
                    f"member {i} is of {one.dtype} on {one.device}, the first of {first.dtype} on "
                    f"{first.device}",
                    field="matrices",
                    remedy="Bring them together with S.to(...)",
                )

    def __len__(self) -> int:
        return len(self._each)

    def __iter__(self) -> Iterator[SparseTensor]:
        return iter(self._each)

    def __getitem__(self, index: Any) -> Any:
        found = self._each[index]
        return SparseTensorList(found) if isinstance(index, slice) else found

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [one.shape for one in self._each]

    def to(self, *args: Any, **kwargs: Any) -> SparseTensorList:
        """Another device, dtype or both. Differentiable."""
        return SparseTensorList(one.to(*args, **kwargs) for one in self._each)

    @entry
    def __matmul__(self, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each one's product with its own x. Differentiable."""
        return [one @ x for one, x in zip(self._each, self._checked(xs, "xs"), strict=True)]

    @entry
    def solve(
        self, bs: Sequence[torch.Tensor], together: bool = False, **options: Any
    ) -> list[torch.Tensor]:
        """Each one's solution for its own b. Differentiable.

        Parameters
        ----------
        bs : sequence of tensors [m_i] or [m_i, k]
        together : bool
            Whether as one block diagonal system: one factorisation, or one iteration, whose
            tolerance is then relative to the norm of all b together. For many small ones. Each by
            itself otherwise.
        **options
            Of `SparseTensor.solve`.

        Returns
        -------
        list of torch.Tensor

        Raises
        ------
        InputError
            Another number of them, shapes that do not fit; and as `SparseTensor.solve`.
        """
        bs = self._checked(bs, "bs")
        if not together or not self._each:
            if "monitor" in options:
                options["monitor"] = named_once(options["monitor"])
            return [one.solve(b, **options) for one, b in zip(self._each, bs, strict=True)]
        for one, b in zip(self._each, bs, strict=True):
            if b.shape[:1] != one.shape[:1] or b.dim() != bs[0].dim():
                raise InputError(
                    f"shape {tuple(b.shape)} does not go with a matrix of {one.shape} and a first "
                    f"b of {tuple(bs[0].shape)}",
                    field="bs",
                )
        x = self.block_diagonal().solve(torch.cat(list(bs)), **options)
        return list(x.split([n for _, n in self.shapes]))

    @entry
    def block_diagonal(self) -> SparseTensor:
        """All as the blocks of one matrix. Differentiable."""
        if not self._each:
            raise InputError("an empty list has no block diagonal matrix: its dtype is not known")
        rows, cols, m, n = [], [], 0, 0
        for one in self._each:
            rows.append(one.row + m)
            cols.append(one.col + n)
            m, n = m + one.shape[0], n + one.shape[1]
        values = torch.cat([one.values for one in self._each])
        return SparseTensor._of(values, Sparsity(torch.cat(rows), torch.cat(cols), (m, n)))

    @classmethod
    @entry
    def from_block_diagonal(
        cls, matrix: SparseTensor, shapes: Sequence[tuple[int, int]]
    ) -> SparseTensorList:
        """The blocks, of these shapes, of one matrix. Differentiable.

        Raises
        ------
        InputError
            Blocks that do not make the matrix, an entry outside of them.
        """
        whole = tuple(sum(sizes) for sizes in zip(*shapes, strict=True)) if shapes else (0, 0)
        if whole != matrix.shape:
            raise InputError(
                f"blocks of {list(shapes)} make {whole}, and not {matrix.shape}", field="shapes"
            )
        found, m, n, seen = [], 0, 0, 0
        for rows, columns in shapes:
            row, col = matrix.row, matrix.col
            inside = (row >= m) & (row < m + rows) & (col >= n) & (col < n + columns)
            where = inside.nonzero().squeeze(1)
            seen += len(where)
            pair = row.index_select(0, where) - m, col.index_select(0, where) - n
            values = matrix.values.index_select(-1, where)
            found.append(SparseTensor._of(values, Sparsity(*pair, (rows, columns))))
            m, n = m + rows, n + columns
        if seen < matrix.nnz:
            raise InputError(
                f"{matrix.nnz - seen} entries are outside of these blocks", field="shapes"
            )
        return cls(found)

    def _checked(self, given: Sequence[torch.Tensor], field: str) -> Sequence[torch.Tensor]:
        if not isinstance(given, Sequence) or len(given) != len(self._each):
            count = len(given) if isinstance(given, Sequence) else f"a {type(given).__name__}"
            raise InputError(
                f"{count} for {len(self._each)} matrices", field=field, remedy="Pass one for each"
            )
        return given

    def __repr__(self) -> str:
        return f"SparseTensorList({self._each!r})"
