"""A solver's state on its way into a checkpoint file and out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from hpc_sla.checkpoint.file import CheckpointFile, CheckpointWriter
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.user_order import write_on_root
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError

LayoutOf = Callable[[str], RowLayout]
"""How the tensor of that name in a state is distributed."""


class SavedState(Mapping[str, Any]):
    """The state in a checkpoint, as the solver's `state_dict` gave it; open on every rank.

    Tensors stay in the file until they are asked for, which is **collective**; each is then this
    rank's part. Arrays and numbers are the same on every rank.

    Parameters
    ----------
    file : CheckpointFile
    layout_of : LayoutOf, optional
        Without it there are no tensors.

    Raises
    ------
    InputError
        It is damaged: here, local; on every rank, where a tensor is read.
    """

    def __init__(self, file: CheckpointFile, layout_of: LayoutOf | None = None) -> None:
        self._file, self._layout_of = file, layout_of
        self.identity = file.identity
        self._replicated = {**file.facts, **file.arrays()}
        self._vectors = file.vectors()

    def __getitem__(self, name: str) -> Any:
        if name in self._replicated:
            return self._replicated[name]
        if name not in self or self._layout_of is None:
            raise KeyError(name)
        layout, dtype = self._layout_of(name), self.identity["dtype"]
        return layout.from_user_blocks(self._file.read(_dataset(name), layout.n_global, dtype))

    def __contains__(self, name: object) -> bool:
        return name in self._replicated or _dataset(str(name)) in self._vectors

    def __iter__(self) -> Iterator[str]:
        return iter((*self._replicated, *self._vectors))

    def __len__(self) -> int:
        return len(self._replicated) + len(self._vectors)


def write_state(
    path: str,
    world: World,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    layout_of: LayoutOf,
) -> int:
    """Write a checkpoint, through rank 0 and a slab at a time. **Collective.**

    Parameters
    ----------
    path : str
    world : World
    identity : dict
        Replicated; what the state belongs to: whatever JSON can hold.
    state : dict
        Tensors, of one dtype, this rank's part of each; arrays of up to three dimensions, which
        are kept in double precision, and whatever else JSON can hold, the same on every rank.
    layout_of : LayoutOf

    Returns
    -------
    int
        Bytes of the file, on rank 0.

    Raises
    ------
    HpcSlaError
        On every rank: it cannot be written, or a tensor has nothing finite.
    """
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for name, value in state.items():
        kind: dict[str, Any] = facts
        if isinstance(value, torch.Tensor):
            kind = tensors
        elif isinstance(value, np.ndarray):
            kind = arrays
        kind[name] = value
    with ExitStack() as stack:
        writer: CheckpointWriter | None = None
        with world.agree():
            if world.rank == 0:
                writer = stack.enter_context(CheckpointWriter(path))
        for name, x in tensors.items():
            write_vector(writer, _dataset(name), layout_of(name), x)
        with world.agree():
            return 0 if writer is None else writer.finish(identity, facts, arrays)


def write_vector(
    writer: CheckpointWriter | None, name: str, layout: RowLayout, x: torch.Tensor
) -> None:
    """Write x, `[n_owned]` or `[n_owned, k]` per rank, in the user's row order. **Collective.**

    Rank 0 has the writer. Raises HpcSlaError on every rank: see `write_state`.
    """
    world, finite = layout.world, np.ones(x.shape[1:], dtype=bool)
    item: Any = None
    with world.agree():
        if writer is not None:
            dtype = str(x.dtype).removeprefix("torch.")
            item = writer.vector(name, (layout.n_global, *x.shape[1:]), dtype)

    def write(start: int, slab: np.ndarray) -> None:
        assert writer is not None
        np.logical_and(finite, np.isfinite(slab).all(axis=0), out=finite)
        writer.write_slab(item, start, slab)

    write_on_root(world, layout.user_blocks(x), None if writer is None else write)
    with world.agree():
        # A right-hand side may have failed alone; with none left there is nothing to go on from.
        if writer is not None and not finite.any():
            raise HpcSlaError(f"{name} has entries that are not finite")


def _dataset(name: str) -> str:
    """The name that a tensor of a state has in the file: without those of the parts it is in."""
    return name.rpartition(".")[2]
