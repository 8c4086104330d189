"""What solves leave for the next of their kind: vectors that stay where they are, and the graph.

A graph knows vectors by their addresses, and to make one takes as long as many iterations. So a
solver keeps the method at work with all its vectors, for each operator, preconditioner and shape of
right-hand side; a solve copies in what it begins with, and x out. An adjoint solve that reads the
same tensors finds the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from hpc_sla.kernels.vectors import copy_
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.method import Method, System

MOST = 4
"""Kept by a solver: a solve and its adjoint by two methods, say."""


class _Prepared:
    """A method at work, for one solve after another."""

    def __init__(self, method: Method, bursts: Bursts) -> None:
        self.method, self.bursts, self.turn = method, bursts, Lock()

    def turn_to(self, system: System) -> None:
        """Take another right-hand side, and give it these vectors. Local."""
        method = self.method
        copy_(method.x, system.x)
        target = system.scalars.scalar(system.target)
        assert isinstance(method.target, torch.Tensor) and isinstance(target, torch.Tensor)
        copy_(method.target, target)
        system.x, system.r, system.scalars = method.x, method.r, method.scalars
        system.scalars.recorded = 0
        method.system = system


class GraphStore:
    """What a solver keeps of its solves. It goes with the solver."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], _Prepared] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[GraphStore], tuple[()]]:
        return GraphStore, ()

    def clear(self) -> None:
        """Let go of it: the matrix or the preconditioner is another. Local."""
        with self._lock:
            self._kept.clear()

    def take(self, method: Method, system: System) -> _Prepared | None:
        """The turn at one for such a system, made where there is none. Local.

        None while another solve has it, in a callback of which this one may be.
        """
        key = _key(method, system)
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                state = method.on(system)
                found = _Prepared(state, Bursts(state, system.scalars, captured=True))
                found.turn.acquire()
            elif found.turn.acquire(blocking=False):
                found.turn_to(system)
            else:
                self._kept[key] = found
                return None
            self._kept[key] = found
            oldest = [one for one, kept in self._kept.items() if not kept.turn.locked()]
            for one in oldest[: max(0, len(self._kept) - MOST)]:
                del self._kept[one]
        return found


class Borrowed:
    """Somebody else's store, which is gone once they are. A copy, or from a pickle, has none."""

    def __init__(self, store: GraphStore | None = None) -> None:
        self._store = (lambda: None) if store is None else weakref.ref(store)

    def __reduce__(self) -> tuple[type[Borrowed], tuple[()]]:
        return Borrowed, ()

    @property
    def there(self) -> GraphStore | None:
        """The store, while there is one."""
        return self._store()


@contextmanager
def at_work(
    method: Method, system: System, graphs: Borrowed | None, steps: CompiledSteps | None
) -> Iterator[tuple[Method, Bursts | None, bool]]:
    """The method at work on a system; what runs its steps; whether x is to be copied out. Local.

    Where graphs are kept, the vectors of the system are replaced by those that stay. Compiled
    `steps` of a solve before are at work on the system's vectors.
    """
    if system.scalars.check_every == 1:
        yield method.on(system) if steps is None else steps.again(), None, False
        return
    captured = capturable(method, system)
    if captured:  # or it would be seen to within the capture
        system.operator.settle(system.r)
    store = graphs.there if captured and graphs is not None else None
    kept = None if store is None else store.take(method, system)
    if kept is None:
        state = method.on(system)
        yield state, Bursts(state, system.scalars, captured), False
        return
    try:
        yield kept.method, kept.bursts, True
    finally:
        del kept.method.system  # which holds b
        kept.turn.release()


def capturable(method: Method, system: System) -> bool:
    """Whether a graph can be made of the method's steps, on all ranks. Replicated.

    **Collective** on a GPU: what is captured on one rank must be on all that it sends to.
    """
    kind = type(method)
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    alike = method.capturable and (own or "capturable" in vars(kind))  # not of a user's subclass
    parts = system.operator, system.precond, system.operator.world.transport
    if not (alike and system.b.is_cuda):
        return False
    mine = all(part.capturable for part in parts)
    world = system.operator.world
    return mine if world.size == 1 else not world.max(float(not mine))


def _key(method: Method, system: System) -> tuple[Any, ...]:
    """What a graph is of: objects count by which they are, and are kept alive by it."""
    tokens = (*system.operator.token, "by", *system.precond.token)
    b, x = system.b, system.x
    how = (type(method), str(method), b.shape, x.shape, b.dtype, b.device, system.least_squares)
    return (*how, *(one if isinstance(one, str) else _Same(one) for one in tokens))


class _Same:
    """An object by its identity, whatever it says of equality."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._of is other._of

    def __hash__(self) -> int:
        return id(self._of)
