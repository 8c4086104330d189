"""Which object holds how many bytes: tensors and arrays by the owner that leads to them."""

from __future__ import annotations

import bisect
import ctypes
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

_OURS = ("hpc_sla", "scipy")


def held_bytes(owners: Mapping[str, Any], besides: Iterable[Any] = ()) -> dict[str, int]:
    """Bytes of the tensors and arrays that each owner leads to, in the order given. Local.

    What several lead to counts for the first; views count as the memory they are of, all of it.
    Followed are attributes of objects of this package and of SciPy, and containers. What was
    allocated and never written to counts too, though the kernel has not given it yet.

    Parameters
    ----------
    owners : mapping of name to object
    besides : iterable of objects
        Not to be entered, such as the World.
    """
    walk = _Walk(besides)
    return {name: walk.bytes_of(owner) for name, owner in owners.items()}


class _Walk:
    def __init__(self, besides: Iterable[Any]) -> None:
        self._kept = list(besides)  # so that no other object gets their numbers
        self._seen = {id(one) for one in self._kept}
        self._starts: list[int] = []
        self._ends: list[int] = []

    def bytes_of(self, owner: Any) -> int:
        total, waiting = 0, deque([owner])
        while waiting:
            one = waiting.popleft()
            if id(one) in self._seen:
                continue
            self._seen.add(id(one))
            self._kept.append(one)
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                total += self._new(storage.data_ptr(), storage.nbytes())
                waiting.append(one.grad if one.is_leaf else None)
            elif isinstance(one, np.ndarray):
                while isinstance(one.base, np.ndarray):
                    one = one.base
                total += self._new(one.__array_interface__["data"][0], one.nbytes)
            else:
                waiting.extend(_parts(one))
        return total

    def _new(self, start: int, size: int) -> int:
        """The size, or 0 where that memory was counted before."""
        place = bisect.bisect_right(self._starts, start)
        if not size or (place and start < self._ends[place - 1]):
            return 0
        self._starts.insert(place, start)
        self._ends.insert(place, start + size)
        return size


def _parts(one: Any) -> Iterable[Any]:
    if isinstance(one, Mapping):
        return one.values()
    if isinstance(one, (list, tuple, set, frozenset, deque)):
        return one
    ours = type(one).__module__.partition(".")[0] in _OURS or isinstance(one, ctypes.Structure)
    return vars(one).values() if ours and hasattr(one, "__dict__") else ()
