"""A GPU's way on CPU tensors: its forms of a matrix, its set-up, its loops; and what they allocate.

Kernels are replaced by what they compute, in torch operations that are not counted.
"""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from hpc_sla.kernels import device_products, slices
from hpc_sla.linear import iteration
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.scalars import TensorScalars
from hpc_sla.precond.amg.device import hierarchy
from tests.linear.emulated import emulate, oracles


def on_device(monkeypatch) -> None:
    """Have it so."""
    emulate(monkeypatch)
    oracles(monkeypatch)
    monkeypatch.setattr(CompiledSteps, "allowed", False)
    monkeypatch.setattr(iteration, "scalars_for", scalars_for)
    monkeypatch.setattr(hierarchy, "ON_CPU", True)
    monkeypatch.setattr(
        device_products,
        "serves",
        lambda x: x.dim() == 1 and x.is_contiguous() and x.is_floating_point(),
    )
    monkeypatch.setattr(device_products.DeviceRows, "__call__", rows)


def scalars_for(world, like, check_every=24):
    scalars = TensorScalars(world, like)
    scalars.check_every = min(check_every, 6)
    scalars._history = like.new_empty((scalars.check_every, 4, *scalars.shape))
    return scalars


def entries_of(operator, parts):
    """Row, column and value of each entry of what `DeviceRows` is given."""
    if operator == "csr_rows":
        indptr, column, value, _ = parts
        runs = torch.arange(indptr.numel() - 1)
        return torch.repeat_interleave(runs, indptr.diff().long()), column.long(), value
    starts, places, near, bases, far, order, codes, dictionary = parts
    starts = starts.long()
    slice_ = torch.repeat_interleave(torch.arange(starts.numel() - 1), starts.diff())
    k = torch.arange(len(slice_)) - starts[slice_]
    place = (starts[:-1] if places is None else places.long())[slice_]
    away = place < 0 if places is not None else torch.full_like(place, far is not None).bool()
    where = torch.where(place < 0, ~place, place) + k
    column = torch.full((len(k), slices.HEIGHT), -1)
    if near is not None:
        at = where[~away]
        found = near[at].long() + bases[at].long().unsqueeze(1)
        column[~away] = torch.where(near[at] == slices.PAD, -1, found)
    if far is not None:
        column[away] = far[where[away]].long()
    row = slice_.unsqueeze(1) * slices.HEIGHT + torch.arange(slices.HEIGHT)
    if order is not None:
        row = row // slices.WINDOW * slices.WINDOW + order[row].long()
    value = codes if dictionary is None else dictionary[codes.long()]
    there = column >= 0
    return row[there], column[there], value.view_as(there)[there]


def rows(
    self, x, out, *, rows=None, b=None, inverse=None, before=None, after=None, weights=None,
    dot=None, square=None, scale=1.0, beta=0.0,
) -> None:  # fmt: skip
    """What `DeviceRows` does."""
    with _disable_current_modes():
        row, column, value = entries_of(self.operator, self.parts)
        n = out.numel() if rows is None else rows.numel()
        product = out.new_zeros(n).index_add_(0, row, value * x[column])
        at = slice(None) if rows is None else rows.long()
        if inverse is not None:
            change = scale * inverse[at] * (product if rows is not None else b - product)
            if rows is None and before is not None:
                change = change + beta * before
            new = (x if rows is None else out[at]) + change
            if after is not None:
                after[at] = change + (after[at] if rows is not None else 0)
            out[at] = new
            return
        product *= scale
        old = out[at].clone() if rows is not None else b if b is not None else torch.zeros(n)
        out[at] = old.to(product) + product
        if dot is not None:
            found = weights[at].double() @ product.double()
            dot.copy_(found + (dot if rows is not None else 0))
        if square is not None:
            found = out[at].double().square().sum()
            square.copy_(found + (square - old.double().square().sum() if rows is not None else 0))


class Allocated(TorchDispatchMode):
    """The bytes of all storages that are seen, at most at a time: after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak, self.at = 0, ""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        found = function(*arguments, **(named or {}))
        for tensor in tree_leaves((arguments, named, found)):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        if self.now > self.peak:
            self.peak, self.at = self.now, function.overloadpacket.__name__
            self.sizes = sorted((size for _, size in self.live.values()), reverse=True)
        return found

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    @property
    def now(self) -> int:
        """Those of what is there still."""
        for key, (storage, _) in list(self.live.items()):
            if storage.expired():
                del self.live[key]
        return sum(size for _, size in self.live.values())
