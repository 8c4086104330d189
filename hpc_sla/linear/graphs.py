"""Replaying iterations as a CUDA graph.

An iteration on a GPU is a handful of short kernels or, with multigrid, some hundred, and launching
them from Python costs more than running them until a rank has millions of rows. A graph launches
two iterations at once: two, because methods have vectors and scalars that change places at each.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from hpc_sla.errors import warn
from hpc_sla.linear.method import Method
from hpc_sla.linear.scalars import Scalars, TensorScalars

STEPS = 2
"""Steps in a graph."""

WARM = 2 * STEPS
"""Steps that are launched one by one first: they load kernels, fill caches and make what stays."""


class Bursts:
    """Runs steps; of a method that can be captured two at a time, as a graph.

    What a graph leaves for the next goes through tensors that stay where they are. A graph does
    the same work as the steps it was made of, on the same numbers: to the bit.

    Parameters
    ----------
    method : Method
        At work. Its vectors stay where they are.
    scalars : Scalars
    captured : bool
        Whether to make graphs: on a GPU, where all that a step calls can be captured.
    """

    def __init__(self, method: Method, scalars: Scalars, captured: bool) -> None:
        self._method = method
        self._scalars = scalars
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kept: list[torch.Tensor] = []
        self._vectors: dict[str, torch.Tensor] = {}
        self._captured = captured
        self._warm = 0

    def run(self, count: int) -> None:
        """Do `count` steps, at most `scalars.check_every`. **Collective.**"""
        while count:
            now = min(count, STEPS)
            if not self._in_place():
                now = 1  # as many as bring vectors that change places back to theirs
            if now == STEPS and self._ready() and (self._graph or self._capture()):
                self._replay()
            else:
                self._steps(now)
                self._warm += now
            count -= now

    def _in_place(self) -> bool:
        """Whether vectors are where the graph knows them, if there is one."""
        method = self._method
        return all(getattr(method, name) is vector for name, vector in self._vectors.items())

    def _ready(self) -> bool:
        return self._captured and self._warm >= WARM and self._method.steady(STEPS)

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self._method.step()

    def _capture(self) -> bool:
        """Make the graph, which does no step yet; False where that fails on any rank.

        **Collective.**
        """
        method, scalars = self._method, self._scalars
        assert isinstance(scalars, TensorScalars)
        scalars.prepare(STEPS)
        before = vars(method).copy()
        self._kept = method.resting() or [getattr(method, n).clone() for n in method.carried]
        self._save()
        self._adopt()
        device = method.r.device
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        try:
            # A stream of this device, which torch's own for captures need not be; and errors of
            # this thread alone: others may look after messages.
            aside = torch.cuda.Stream(device)
            captured = torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local")
            with _on(device), captured, scalars.graph(STEPS):
                self._steps(STEPS)
                self._save()
        except Exception as error:  # of torch, the driver, or what a step calls
            failed: Exception | None = error
            with _on(device):  # which setting the stream would change
                torch.cuda.set_stream(stream)  # which a capture that fails may leave its own
        else:
            failed = None
        vars(method).update(before)  # no step has been done
        wrong = method.r.new_tensor([float(failed is not None)])
        scalars.sum_(wrong)
        if wrong.item():  # what one rank launches by itself, all must
            self._give_up(failed)
            return False
        self._adopt()
        self._vectors = {
            name: value
            for name, value in vars(method).items()
            if isinstance(value, torch.Tensor) and name not in method.carried
        }
        self._graph = graph
        return True

    def _give_up(self, failed: Exception | None) -> None:
        """Go on without graphs, for what went wrong here or on another rank. Local."""
        method = self._method
        for name in method.carried:  # not where an odd number of steps would write next
            setattr(method, name, getattr(method, name).clone())
        self._captured = False
        warn(
            f"iterations could not be captured in a CUDA graph ({failed or 'on another rank'}); "
            "they are launched one by one, more slowly",
            RuntimeWarning,
        )

    def _replay(self) -> None:
        assert self._graph is not None and isinstance(self._scalars, TensorScalars)
        self._save()
        self._adopt()
        self._scalars.replayed(STEPS)
        self._method.replayed(STEPS)
        with _on(self._method.r.device):
            self._graph.replay()

    def _save(self) -> None:
        values = [getattr(self._method, name) for name in self._method.carried]
        places = {kept.data_ptr() for kept in self._kept}
        pairs = [
            # One that lies where another is to be kept would be overwritten on the way.
            (kept, value.clone() if value.data_ptr() in places else value)
            for kept, value in zip(self._kept, values, strict=True)
            if kept.data_ptr() != value.data_ptr()
        ]
        for kept, value in pairs:
            kept.copy_(value)

    def _adopt(self) -> None:
        for kept, name in zip(self._kept, self._method.carried, strict=True):
            setattr(self._method, name, kept)


def _on(device: torch.device) -> torch.cuda.device | nullcontext[None]:
    """A graph is made and launched on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
