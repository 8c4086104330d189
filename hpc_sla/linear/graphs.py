"""Replaying a burst of iterations as one CUDA graph.

An iteration on a GPU is a handful of short kernels or more, and launching them from Python costs
more than running them until a rank has millions of rows. A graph launches a whole burst at once.
"""

from __future__ import annotations

from typing import Protocol

import torch

from hpc_sla.errors import warn
from hpc_sla.linear.scalars import Scalars


class Stepper(Protocol):
    """A method whose step changes its vectors in place, and its scalars by name."""

    carried: tuple[str, ...]
    """Attributes that hold the tensors a step hands to the next."""

    def step(self) -> None: ...


class Bursts:
    """Runs steps, on a GPU in bursts of `scalars.check_every` that become a graph.

    The first burst runs step by step (it loads kernels and fills caches), the second is captured,
    and every later one is a single launch. What a burst leaves for the next goes through tensors
    that stay where they are.

    Parameters
    ----------
    method : Stepper
    scalars : Scalars
    captured : bool
        Whether to make graphs: on a GPU, with one rank (the exchanges of several would have to be
        captured too, which is not done) and nothing of the user's in a step (which may look at
        numbers, or do something else each time).
    """

    def __init__(self, method: Stepper, scalars: Scalars, captured: bool) -> None:
        self._method = method
        self._scalars = scalars
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kept: list[torch.Tensor] = []
        self._captured = captured
        self._warm = False

    def run(self, count: int) -> None:
        """Do `count` steps, at most a burst. **Collective.**"""
        if not self._captured or count < self._scalars.check_every:
            self._steps(count)
        elif not self._warm:
            self._steps(count)
            self._warm = True
        elif self._graph is not None or self._capture(count):
            self._replay(count)
        else:
            self._steps(count)

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self._method.step()

    def _capture(self, count: int) -> bool:
        """Make a graph of so many steps, which does none of them; False where that fails."""
        method = self._method
        before = vars(method).copy()
        self._kept = [getattr(method, name).clone() for name in method.carried]
        self._adopt()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self._steps(count)
                self._save()
        except Exception as error:  # of torch, the driver, or what a step calls
            torch.cuda.set_stream(stream)  # which a capture that fails may leave its own
            vars(method).update(before)
            self._captured, self._scalars.recorded = False, 0
            warn(
                f"iterations could not be captured in a CUDA graph ({error}); they are launched "
                "one by one, more slowly",
                RuntimeWarning,
            )
            return False
        self._adopt()  # what the graph has made is there once it is replayed
        self._graph = graph
        return True

    def _replay(self, count: int) -> None:
        assert self._graph is not None
        self._save()
        self._adopt()
        self._graph.replay()
        self._scalars.recorded = count

    def _save(self) -> None:
        for kept, name in zip(self._kept, self._method.carried, strict=True):
            value = getattr(self._method, name)
            if value is not kept:
                kept.copy_(value)

    def _adopt(self) -> None:
        for kept, name in zip(self._kept, self._method.carried, strict=True):
            setattr(self._method, name, kept)
