"""One process's matrix, as the distributed products see one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpc_sla.kernels.csr import CsrPattern


@dataclass(frozen=True)
class _OwnedRows:
    n_owned: int


class LocalPattern:
    """A CsrPattern that `hpc_sla.sparse.product` can differentiate the products of. Local."""

    def __init__(self, pattern: CsrPattern) -> None:
        self._pattern = pattern
        self.layout, self.columns = _OwnedRows(pattern.n_rows), _OwnedRows(pattern.n_columns)

    def matmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        self._pattern.matmul(values, x, out)

    def rmatmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        self._pattern.rmatmul(values, x, out)

    def sample(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._pattern.sample(g, x)
