"""The values of a matrix on one rank: packed until somebody asks for them as a tensor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.entries import largest
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.packed import Packed


class Values:
    """A matrix's values on its pattern: `[nnz_owned]`, owned columns first. Per rank.

    They begin as a tensor, or as a `Packed` of the owned block and a tensor of the halo's. Who asks
    for `tensor` may change it, and so it is the matrix from then on: nothing packed is kept beside
    it. What only reads goes by `packed` where there is one, else by `plain`.

    Attributes
    ----------
    packed : Packed or None
        The owned block; None once there is a tensor.
    dtype : torch.dtype
    device : torch.device
    count : int
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor: torch.Tensor | None = tensor
        self.packed: Packed | None = None
        self._halo = tensor
        self.dtype, self.device, self.count = tensor.dtype, tensor.device, tensor.numel()

    @classmethod
    def of_packed(cls, packed: Packed, halo: torch.Tensor) -> Values:
        """Values of an owned block and a halo block [halo.nnz], on the CPU."""
        made = cls(halo)
        made._tensor, made._halo, made.packed = None, halo, packed
        made.count = packed.nnz + halo.numel()
        return made

    @property
    def tensor(self) -> torch.Tensor:
        """The values themselves: to be changed, or to require a gradient."""
        if self._tensor is None:
            with lasting():
                self._tensor, self.packed = self._written(), None
            self._halo = self._tensor
        return self._tensor

    @property
    def plain(self) -> torch.Tensor:
        """To read from, without a graph: a new tensor where they are packed, which they stay."""
        return self._written() if self._tensor is None else self._tensor.detach()

    @property
    def halo(self) -> torch.Tensor:
        """Those in halo columns, where they are packed."""
        return self._halo

    def to(self, dtype: torch.dtype) -> torch.Tensor | Values:
        """In another dtype, packed or a tensor as they are. Local."""
        if self.packed is None:
            return self.plain.to(dtype)
        return Values.of_packed(self.packed.to(dtype), self._halo.to(dtype))

    def serving(self, x: torch.Tensor) -> Packed | None:
        """What multiplies vectors like x; None where `tensor` must, which it is made for. Local."""
        if self.packed is None or (native.serves(x) and x.is_contiguous()):
            return self.packed
        made = self.tensor  # once, for all products
        return None if made is not None else self.packed

    def parts(self, n_owned: int) -> tuple[np.ndarray | Packed, np.ndarray]:
        """The owned block's `n_owned` values and the halo's, on the host, to read. Local."""
        packed = self.packed
        if packed is not None:
            return packed, self._halo.numpy()
        values = self.plain.cpu().contiguous().numpy()
        return values[:n_owned], values[n_owned:]

    def largest(self) -> float:
        """The largest magnitude; NaN where there is one, 0 without entries. Local."""
        tensor = self.plain if self.packed is None else self._halo
        found = max(map(abs, map(float, tensor.aminmax()))) if tensor.numel() else 0.0
        return found if self.packed is None else float(np.maximum(found, largest(self.packed)))

    def _written(self) -> torch.Tensor:
        assert self.packed is not None
        owned = torch.from_numpy(self.packed.csr()[2])
        return torch.cat([owned, self._halo]) if self._halo.numel() else owned

    def as_they_are(self) -> Values:
        """The same, which stay packed if they are, whatever becomes of these. Local."""
        return Values(self.tensor) if self.packed is None else self._again(self.packed)

    def _again(self, packed: Packed) -> Values:
        return Values.of_packed(packed, self._halo)  # neither is ever changed

    def __deepcopy__(self, memo: dict[int, Any]) -> Values:
        if self.packed is None:
            return Values(copy.deepcopy(self.tensor, memo))
        return self._again(self.packed)
