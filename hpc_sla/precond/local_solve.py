"""Factors of a rank's own block: what block Jacobi and additive Schwarz solve with. All local."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels.incomplete import Block, TriangularFactor, ic0, ilu0


class LocalFactor(Protocol):
    """A factorised block."""

    shift: float

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """The solution for b `[n]` or `[n, k]`, in `out` or in a new tensor."""


class SparseLU:
    """SuperLU's factor of the block: a direct solve, with pivoting.

    On a GPU the solves run there, by levels, with the factor that SuperLU made on the CPU.
    """

    shift = 0.0

    def __init__(self, block: Block, device: torch.device) -> None:
        self._factor = _superlu(block)
        self._on_device: TriangularFactor | None = None
        if device.type == "cpu" or self._factor is None:
            return
        import scipy.sparse as sp

        lower, upper = self._factor.L, self._factor.U
        both = (sp.tril(lower, -1) + upper).tocoo()
        made = Block.from_entries(block.n, both.row, both.col, both.data)
        inverse = (1 / upper.diagonal()).astype(block.values.dtype)
        self._on_device = TriangularFactor(made, inverse, False, device)
        # SuperLU's L U = Pr A Pc with (Pr b)[perm_r[i]] = b[i] and (Pc y)[i] = y[perm_c[i]].
        self._rows = torch.from_numpy(self._factor.perm_r.astype(np.int64)).to(device)
        self._columns = torch.from_numpy(self._factor.perm_c.astype(np.int64)).to(device)

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        if b.numel() == 0:
            return out
        if self._on_device is None:
            x = self._factor.solve(b.numpy(), trans="T" if transpose else "N")
            return torch.from_numpy(np.ascontiguousarray(x))
        there, back = (self._columns, self._rows) if transpose else (self._rows, self._columns)
        permuted = torch.empty_like(b).index_copy_(0, there, b)
        solved = self._on_device.solve(permuted, torch.empty_like(b), transpose)
        return torch.index_select(solved, 0, back, out=out)


def _superlu(block: Block):  # type: ignore[no-untyped-def]
    """SciPy's factor, or None of no rows."""
    if block.n == 0:
        return None  # SuperLU does not take it
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    shape = (block.n, block.n)
    matrix = sp.csr_matrix((block.values, block.indices, block.indptr), shape=shape)
    try:
        return splu(matrix.tocsc())
    except RuntimeError as error:  # how SciPy says that it is singular
        raise InputError(
            f"a rank's block of {block.n} rows cannot be factorised: {error}",
            field="precond",
            remedy="Use factor=ilu0, which shifts its diagonal",
        ) from error


def lu(block: Block, device: torch.device) -> LocalFactor:
    """A sparse direct factor. Local.

    Raises
    ------
    InputError
        The block is singular. **Local**: callers agree.
    """
    if not np.isfinite(block.values).all():
        return ilu0(block, device)  # whose answer to that is NaN, for the solver to see
    return SparseLU(block, device)


FACTORS: dict[str, Callable[[Block, torch.device], LocalFactor]] = {
    "ilu0": ilu0,
    "ic0": ic0,
    "lu": lu,
}
"""The sub-solvers by name."""


def check_factor(kind: str, factor: str) -> None:
    """Raise InputError unless `factor` is one of `FACTORS`. Local."""
    if factor not in FACTORS:
        raise InputError(
            f"unknown factor {factor!r}",
            field=f"{kind}:factor",
            remedy=f"Choose one of {', '.join(FACTORS)}",
        )
