"""The owned block of a matrix in fewer bytes, for the products of one solve after another."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.kernels import device_products
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.packed import Packed
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.values import Values

# Packing costs some three products and the making of a few arrays.
_FEWEST_ROWS = 2048
# Of a smaller matrix, which stays in the cache in any form, a dictionary of rows still pays: runs
# of one kind are multiplied without an index.
_FEWEST_TO_REPEAT = 500


@dataclass(frozen=True)
class _Kept:
    values: weakref.ref[torch.Tensor]
    version: int
    # Whether it is the values themselves that it refers to: it would keep them from being freed.
    refers: bool
    packed: Packed | DeviceMatrix | None


def packed_of(pattern: DistributedPattern, values: torch.Tensor) -> Packed | DeviceMatrix | None:
    """The owned block in the form that suits it, or None where none pays. Local.

    Decided by what the matrix holds, so that it is the same in every run. What was made for the
    last values of a pattern is kept with it, and made anew where these are others now, be they
    changed behind torch's back: values are compared each time.
    """
    owned = pattern.owned
    if not may_pay(pattern, brief=False):
        return None
    mine, version = pattern.owned_values(values.detach()), version_of(values)
    kept: Any = owned._cache.get("packed")
    known = isinstance(kept, _Kept) and kept.values() is values and kept.version == version
    if known and kept.refers:
        return Packed.with_values(owned, mine)
    if known and kept.packed is None:
        return None
    # Of a copy, as each solve may make one, it is the same.
    if isinstance(kept, _Kept) and kept.packed is not None and kept.packed.holds(mine):
        return kept.packed
    packed: Packed | DeviceMatrix | None
    if device_products.serves(mine):
        found = DeviceMatrix.of(owned, mine, keep=False)
        packed, refers = None if found.form == "csr" else found, False
    else:
        packed = (Packed.of if owned.n_rows >= _FEWEST_ROWS else Packed.of_rows)(owned, mine)
        refers = packed is not None and packed.refers
    weak = weakref.ref(values)
    owned._cache["packed"] = _Kept(weak, version, refers, None if refers else packed)
    return packed


def in_slices(pattern: DistributedPattern, held: Values) -> Values:
    """The values of a matrix that is new, on a GPU in slices alone where that pays. Local.

    Nobody has had them in hand, nor the pattern's columns: these go, until somebody asks.
    """
    if not held.written or not device_products.serves(held.plain):
        return held
    values = held.plain
    found = DeviceMatrix.alone(pattern.owned, pattern.owned_values(values))
    if found is None:
        return held
    halo = pattern.halo_values(values).clone()
    return Values.of_sliced(found, halo)


def may_pay(pattern: DistributedPattern, brief: bool) -> bool:
    """Whether the owned block is large enough for that, for one solve if `brief`. Local."""
    return pattern.owned.n_rows >= (_FEWEST_ROWS if brief else _FEWEST_TO_REPEAT)


def version_of(values: torch.Tensor) -> int:
    """How often the numbers have been changed in place, as far as anybody counts. Local."""
    return 0 if values.is_inference() else values._version
