"""A solver's state on its way into a checkpoint file and out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import torch

from hpc_sla.checkpoint.file import CheckpointFile, CheckpointWriter
from hpc_sla.distributed.layout import RowLayout
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
    alone : bool
        Replicated. Whether the file has this rank's block of the user's rows only.

    Raises
    ------
    InputError
        It is damaged: here, local; on every rank, where a tensor is read.
    """

    def __init__(
        self, file: CheckpointFile, layout_of: LayoutOf | None = None, alone: bool = False
    ) -> None:
        self._file, self._layout_of, self.alone = file, layout_of, alone
        self.identity, self.path = file.identity, os.fspath(file.path)
        self._replicated = {**file.facts, **file.arrays()}
        self._vectors = file.vectors()

    def __getitem__(self, name: str) -> Any:
        if name in self._replicated:
            return self._replicated[name]
        if name not in self or self._layout_of is None:
            raise KeyError(name)
        layout, dtype = self._layout_of(name), self.identity["dtype"]
        if not self.alone:
            return layout.from_user_blocks(self._file.read(_dataset(name), layout.n_global, dtype))
        first, last = layout.home
        read = self._file.read(_dataset(name), last - first, dtype)
        return layout.from_user_blocks(lambda start, stop: read(start - first, stop - first))

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
    alone: bool = False,
) -> int:
    """Write a checkpoint, every rank an even block of the rows. **Collective.**

    Parameters
    ----------
    path : str
        Replicated, unless `alone`.
    world : World
    identity : dict
        Replicated, unless `alone`; what the state belongs to: whatever JSON can hold.
    state : dict
        Tensors, of one dtype, this rank's part of each; arrays of up to three dimensions, which
        are kept in double precision, and whatever else JSON can hold, the same on every rank.
    layout_of : LayoutOf
    alone : bool
        Replicated. Whether each rank writes a file of its own, with its block of the user's rows.

    Returns
    -------
    int
        Bytes of the file.

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
    layouts = {name: layout_of(name) for name in tensors}
    blocks = {
        name: layout.home if alone else (0, layout.n_global) for name, layout in layouts.items()
    }
    vectors = {
        _dataset(name): (
            (blocks[name][1] - blocks[name][0], *x.shape[1:]),
            str(x.dtype).partition(".")[2],
        )
        for name, x in tensors.items()
    }
    together: Callable[[], AbstractContextManager[Any]] = world.agree if alone else nullcontext
    with ExitStack() as stack:
        with together():
            made = CheckpointWriter(path, vectors, None if alone else world.comm)
            writer = stack.enter_context(made)
        finite = []
        for name, x in tensors.items():
            first = blocks[name][0]
            finite.append(_write_vector(writer, _dataset(name), layouts[name], x, first))
        # A right-hand side may have failed alone; with none left there is nothing to go on from.
        for name, any_finite in zip(tensors, _columns_everywhere(world, finite), strict=True):
            if not any_finite:
                raise HpcSlaError(f"{_dataset(name)} has entries that are not finite")
        with together():
            return writer.finish(identity, facts, arrays)


def _write_vector(
    writer: CheckpointWriter, name: str, layout: RowLayout, x: torch.Tensor, first: int
) -> np.ndarray:
    """Write x, `[n_owned]` or `[n_owned, k]` per rank, in the user's row order. **Collective.**

    `first` is the row that the file begins with. Returns which columns of this rank's block are
    finite, `[k]` or `[1]`.
    """
    finite = np.ones(x.shape[1:], dtype=bool)
    for start, slab in layout.user_blocks(x):
        np.logical_and(finite, np.isfinite(slab).all(axis=0), out=finite)
        writer.write_slab(name, start - first, slab)
    writer.flush()
    return np.atleast_1d(finite)


def _columns_everywhere(world: World, finite: list[np.ndarray]) -> list[bool]:
    """Whether, of each vector, a column is finite on all ranks. **Collective.**"""
    flags = np.concatenate([np.empty(0, dtype=bool), *finite]).astype(np.int8)
    if world.size > 1:
        from mpi4py import MPI

        world.comm.Allreduce(MPI.IN_PLACE, flags, op=MPI.MIN)
    ends = np.cumsum([len(columns) for columns in finite])[:-1]
    return [bool(part.any()) for part in np.split(flags, ends)] if finite else []


def _dataset(name: str) -> str:
    """The name that a tensor of a state has in the file: without those of the parts it is in."""
    return name.rpartition(".")[2]
