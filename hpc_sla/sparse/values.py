"""The values of a matrix on one rank: packed until somebody asks for them as a tensor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.entries import largest
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.packed import Packed


class Values:
    """A matrix's values on its pattern: `[nnz_owned]`, owned columns first. Per rank.

    They begin as a tensor, or as a `Packed` of the owned block (on a GPU, as slices) and a tensor
    of the halo's. Who asks for `tensor` may change it, and so it is the matrix from then on:
    nothing packed is kept beside it. What only reads goes by `packed` or `sliced` where there is
    one, else by `plain`.

    Attributes
    ----------
    packed : Packed or None
        The owned block on the CPU; None once there is a tensor.
    sliced : DeviceMatrix or None
        The same on a GPU.
    dtype : torch.dtype
    device : torch.device
    count : int
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor: torch.Tensor | None = tensor
        self.packed: Packed | None = None
        self.sliced: DeviceMatrix | None = None
        self._halo = tensor
        self.dtype, self.device, self.count = tensor.dtype, tensor.device, tensor.numel()

    @classmethod
    def of_packed(cls, packed: Packed, halo: torch.Tensor) -> Values:
        """Values of an owned block and a halo block [halo.nnz], on the CPU."""
        made = cls(halo)
        made._tensor, made._halo, made.packed = None, halo, packed
        made.count = packed.nnz + halo.numel()
        return made

    @classmethod
    def of_sliced(cls, sliced: DeviceMatrix, halo: torch.Tensor) -> Values:
        """Values of an owned block in slices and a halo block [halo.nnz], on a GPU."""
        made = cls(halo)
        made._tensor, made._halo, made.sliced = None, halo, sliced
        made.count = sliced.pattern.nnz + halo.numel()
        return made

    @property
    def written(self) -> bool:
        """Whether there is a tensor."""
        return self._tensor is not None

    @property
    def tensor(self) -> torch.Tensor:
        """The values themselves: to be changed, or to require a gradient."""
        if self._tensor is None:
            with lasting():
                self._tensor, self.packed, self.sliced = self._written(), None, None
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
        if self.sliced is not None:
            return Values.of_sliced(
                self.sliced.mapped(lambda values: values.to(dtype)), self._halo.to(dtype)
            )
        if self.packed is None:
            return self.plain.to(dtype)
        return Values.of_packed(self.packed.to(dtype), self._halo.to(dtype))

    def serving(self, x: torch.Tensor) -> Packed | DeviceMatrix | None:
        """What multiplies vectors like x; None where `tensor` must, which it is made for. Local."""
        if self.sliced is not None:
            if self.sliced.on_device(x) is not None:
                return self.sliced
        elif self.packed is None or (native.serves(x) and x.is_contiguous()):
            return self.packed
        made = self.tensor  # once, for all products
        assert made is not None
        return None

    def parts(self, n_owned: int) -> tuple[np.ndarray | Packed, np.ndarray]:
        """The owned block's `n_owned` values and the halo's, on the host, to read. Local."""
        packed = self.packed
        if packed is not None:
            return packed, self._halo.numpy()
        values = self.plain.cpu().contiguous().numpy()
        return values[:n_owned], values[n_owned:]

    def largest(self) -> float:
        """The largest magnitude; NaN where there is one, 0 without entries. Local."""
        tensor = self.plain if self.written else self._halo
        found = max(map(abs, map(float, tensor.aminmax()))) if tensor.numel() else 0.0
        if self.sliced is not None:
            return float(np.maximum(found, self.sliced.largest()))
        return found if self.packed is None else float(np.maximum(found, largest(self.packed)))

    def scaled(self, factor: float) -> torch.Tensor | Values:
        """Times a number, in slices or a tensor as they are. Local."""
        if self.sliced is None:
            return self.plain * factor
        return Values.of_sliced(self.sliced.mapped(lambda v: v * factor), self._halo * factor)

    def magnitudes(self) -> torch.Tensor | Values:
        """Without their signs, in slices or a tensor as they are. Local."""
        if self.sliced is None:
            return self.plain.abs()
        return Values.of_sliced(self.sliced.mapped(torch.abs), self._halo.abs())

    def _written(self) -> torch.Tensor:
        if self.sliced is not None:
            owned = self.sliced.values()
        else:
            assert self.packed is not None
            owned = torch.from_numpy(self.packed.csr()[2])
        return torch.cat([owned, self._halo]) if self._halo.numel() else owned

    def as_they_are(self) -> Values:
        """The same, which stay packed if they are, whatever becomes of these. Local."""
        return Values(self.tensor) if self.written else self._again()

    def _again(self) -> Values:
        if self.sliced is not None:
            return Values.of_sliced(self.sliced, self._halo)  # neither is ever changed
        assert self.packed is not None
        return Values.of_packed(self.packed, self._halo)

    def __deepcopy__(self, memo: dict[int, Any]) -> Values:
        return Values(copy.deepcopy(self.tensor, memo)) if self.written else self._again()
