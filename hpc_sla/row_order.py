"""Which order of rows a distributed vector is in, as far as that can be seen.

Two matrices of one size may order their rows differently within a rank, and a vector is a plain
tensor: a product with the wrong one is of the right shape. So what the library makes is remembered
together with its order, as is what was used with a matrix, and looked up where it is used.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from hpc_sla.entry import warn
from hpc_sla.errors import InputError

if TYPE_CHECKING:
    from hpc_sla.layout import RowLayout

Order = tuple[int, int]
"""Equal where two layouts have the same rows in the same order, on every rank."""

_REMEDY = (
    "Give the other matrix layout=A.layout where it is made, so that both order rows alike, or "
    "carry the vector over: B.layout.scatter(A.layout.gather(x))"
)

_made = WeakIdKeyDictionary()
_used = WeakIdKeyDictionary()


def part_of_order(start: int, rows: np.ndarray | None) -> int:
    """This rank's part of a sum over ranks; 0 for rows in the stored order. Local."""
    if rows is None or np.array_equal(rows, np.arange(start, start + len(rows))):
        return 0
    return digest(np.int64(start).tobytes(), np.ascontiguousarray(rows, dtype=np.int64))


def digest(*parts: Any) -> int:
    """Of bytes and contiguous arrays: 52 bits, so that sums over ranks are int64. Local."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return int.from_bytes(found.digest(), "big") >> 12


def made(x: torch.Tensor, layout: RowLayout) -> torch.Tensor:
    """Remember that x, which is new, is in this layout's order. Local."""
    if layout.order is not None:
        _made[x] = layout.order
    return x


def order_of(x: torch.Tensor) -> Order | None:
    """That of a vector which the library made; None where it is not known. Local."""
    known: Order | None = _made.get(x)
    return _made.get(x._base) if known is None and x._is_view() else known


def check_together(x: torch.Tensor, y: torch.Tensor, field: str) -> None:
    """Raise InputError where two vectors are known to be in different orders. Local, replicated."""
    one, other = order_of(x), order_of(y)
    if None not in (one, other) and one != other:
        raise InputError("is in the row order of another matrix", field=field, remedy=_REMEDY)


def check_order(x: torch.Tensor, layout: RowLayout, field: str) -> None:
    """Hold x against what is known of it. Local, and the same on every rank.

    Raises
    ------
    InputError
        The library made it in another order.

    Warns
    -----
    UserWarning
        It was used in another order, and where it came from is not known. Not of equal numbers.
    """
    order = layout.order
    if order is None:
        return
    known = order_of(x)
    if known is not None:
        if known != order:
            raise InputError("is in the row order of another matrix", field=field, remedy=_REMEDY)
        return
    before = _used.setdefault(x, order)
    if before == order:
        return
    _used[x] = order
    if x.shape[:1] and x.numel() and not bool((x == x[:1]).all()):
        warn(
            f"{field} was used with a matrix that orders rows otherwise than this one: if both "
            f"mean the same unknowns, one of the results is wrong. {_REMEDY}",
            UserWarning,
        )
