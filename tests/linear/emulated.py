"""CUDA graphs emulated on the CPU: what was captured is done when replayed.

As on a GPU, what is done while a graph is captured leaves no trace, and a replay works on the very
tensors that were there then.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpc_sla.kernels import native

COUNTS: Counter[str] = Counter()
"""Graphs captured, and replays."""

STREAM = ["the default"]
"""The current one."""


class Graph(TorchDispatchMode):
    """Operations, with the tensors that they were given and that they gave."""

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        for tensor in tree_leaves((arguments, named)):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        found = function(*arguments, **named)
        self.calls.append((function, arguments, named, found))
        return found

    def undo(self):
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self):
        COUNTS["replayed"] += 1
        for function, arguments, named, before in self.calls:
            found = function(*arguments, **named)
            pairs = zip(tree_leaves(before), tree_leaves(found), strict=True)
            for kept, new in pairs:
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class capture:
    """What `torch.cuda.graph` is."""

    fails = False

    def __init__(self, graph, stream, capture_error_mode):
        assert stream == "aside" and capture_error_mode == "thread_local"
        self.graph = graph

    def __enter__(self):
        self.graph.__enter__()

    def __exit__(self, *error):
        self.graph.__exit__(*error)
        self.graph.undo()
        if self.fails:  # torch leaves its stream the current one then
            STREAM[0] = "the capture's"
            raise RuntimeError("operation not permitted when stream is capturing")
        COUNTS["captured"] += 1


def emulate(monkeypatch) -> None:
    """Have `torch.cuda` do so."""
    monkeypatch.setattr(native, "LIBRARY", None)  # compiled loops are no operations of torch's
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "aside")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: STREAM[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: STREAM.__setitem__(0, stream))
    monkeypatch.setattr(capture, "fails", False)
    COUNTS.clear()


def oracles(monkeypatch) -> None:
    """Have methods work as on a GPU, by the oracles of what Triton does there."""
    from hpc_sla.kernels import (
        device_bicgstab,
        device_minres,
        device_pipelined_cg,
        device_steps,
        fused,
    )

    def totals(r, sums, reduce):
        if reduce is not None:
            sums = sums.to(r.dtype)
            reduce(sums)
        return sums

    monkeypatch.setattr(device_steps, "serves", lambda r, step: r.dim() == 1)
    monkeypatch.setattr(fused, "totals", totals)
    for module, names in (
        (fused, ("device_step",)),
        (device_bicgstab, ("half_step", "full_step")),
        (device_minres, ("minres_step",)),
        (device_pipelined_cg, ("pipelined_pass", "pipelined_end")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, f"{name}_reference"))
