"""Which order of rows a distributed vector is in, as far as that can be seen.

Two matrices of one size may order their rows differently within a rank, and a vector is a plain
tensor: a product with the wrong one is of the right shape. So what the library makes is remembered
together with its order, until it is changed, and looked up where it is used.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from hpc_sla.errors import InputError

Order = tuple[int, int]
"""A digest of the offsets, and one of the rows of all ranks: equal where two layouts have the same
rows in the same order on every rank. Those with other offsets cannot be compared: a vector there is
another's part, or of several fields."""


class Ordered(Protocol):
    """A `RowLayout`, for what is looked at of it here."""

    @property
    def order(self) -> Order | None: ...


_REMEDY = (
    "Give the other matrix layout=A.layout where it is made, so that both order rows alike, or "
    "carry the vector over: A.layout.move(x, B.layout)"
)


class _Ref(weakref.ref[torch.Tensor]):
    """To a tensor that is looked up by its id, which its death takes out of `_made`."""

    __slots__ = ("key",)
    key: int


class _Made(NamedTuple):
    ref: _Ref
    order: Order
    version: int


# torch's own dictionary of weak keys takes as long as a small product, for hashes in Python.
_made: dict[int, _Made] = {}


def _forget(ref: weakref.ref[torch.Tensor]) -> None:
    assert isinstance(ref, _Ref)
    if ref.key in _made and _made[ref.key].ref is ref:
        del _made[ref.key]


def part_of_order(start: int, rows: np.ndarray | None) -> int:
    """This rank's part of a sum over ranks; 0 for rows in the stored order. Local."""
    if rows is None or np.array_equal(rows, np.arange(start, start + len(rows))):
        return 0
    return digest(np.int64(start).tobytes(), np.ascontiguousarray(rows, dtype=np.int64))


def digest(*parts: Any) -> int:
    """52 bits for bytes and contiguous arrays, so that sums over ranks are int64. Local."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return int.from_bytes(found.digest(), "big") >> 12


def made(x: torch.Tensor, layout: Ordered) -> torch.Tensor:
    """Remember that x, which is new, is in this layout's order. Local."""
    order = layout.order
    if order is not None and not x.is_inference():
        ref = _Ref(x, _forget)
        ref.key = id(x)
        _made[ref.key] = _Made(ref, order, x._version)
    return x


def order_of(x: torch.Tensor) -> Order | None:
    """That of a vector which the library made, and nobody has changed since. Local."""
    if x.is_inference():
        return None
    known = _made.get(id(x))
    if known is None and x._is_view():
        base = x._base
        assert base is not None
        whole = x.shape == base.shape and x.stride() == base.stride()
        whole = whole and x.storage_offset() == base.storage_offset()
        known = _made.get(id(base)) if whole else None
    return known.order if known is not None and x._version == known.version else None


def check_order(x: torch.Tensor, layout: Ordered, field: str) -> None:
    """Raise InputError where the library made x in another order. Local; replicated."""
    _compare(order_of(x), layout.order, field)


def check_together(x: torch.Tensor, y: torch.Tensor, field: str) -> None:
    """Raise InputError where it made two vectors in different orders. Local; replicated."""
    _compare(order_of(x), order_of(y), field)


def _compare(first: Order | None, second: Order | None, field: str) -> None:
    if first is None or second is None or first[0] != second[0]:
        return
    if first != second:
        raise InputError("is in the row order of another matrix", field=field, remedy=_REMEDY)
