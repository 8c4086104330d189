"""Which matrices a computation multiplies by, for who wants to know its sparsity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Use = tuple[Any, bool]
"""A DistributedPattern, and whether it was used transposed."""

_LISTENERS: list[list[Use]] = []


@contextmanager
def uses() -> Iterator[list[Use]]:
    """Within, every product with a matrix (or its halo) is added to the list given. Local."""
    found: list[Use] = []
    _LISTENERS.append(found)
    try:
        yield found
    finally:
        # By identity: an equal list may be listening as well.
        _LISTENERS[:] = [listener for listener in _LISTENERS if listener is not found]


def used(pattern: Any, transposed: bool = False) -> None:
    """Tell those who listen. Local."""
    for listener in _LISTENERS:
        if not any(p is pattern and t == transposed for p, t in listener):
            listener.append((pattern, transposed))
