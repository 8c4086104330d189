"""`hpc_sla.hashing` in torch operations: the same bits on any device."""

from __future__ import annotations

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import GOLDEN, LAST, STEPS

Tensor = torch.Tensor


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return number - 2**64 if number >= 2**63 else number


def _shifted(z: Tensor, shift: int) -> Tensor:
    """Without a sign: zeros come in from the left."""
    return (z >> shift) & (2 ** (64 - shift) - 1)


def mixed(index: Tensor) -> Tensor:
    """`hashing.mix` of each index times `GOLDEN`, its bits as int64. Local.

    Parameters
    ----------
    index : int64 tensor
    """
    z = index * _signed(int(GOLDEN))
    for shift, factor in STEPS:
        z = (z ^ _shifted(z, int(shift))) * _signed(int(factor))
    return z ^ _shifted(z, int(LAST))


def noise(index: Tensor) -> Tensor:
    """`hashing.noise` with seed 0: float64. Local."""
    return _shifted(mixed(index), 11).double() * 2.0**-52 - 1.0


def stored_rows(layout: RowLayout, device: torch.device) -> Tensor:
    """The stored numbers of the owned rows: int64 [n_owned]. Local."""
    return torch.arange(layout.start, layout.start + layout.n_owned, device=device)


def user_rows(layout: RowLayout, device: torch.device) -> Tensor:
    """The user's: int64 [n_owned]; sent to the device where they are not the stored ones. Local."""
    if layout.natural:
        return stored_rows(layout, device)
    return torch.from_numpy(layout.rows).to(device)
