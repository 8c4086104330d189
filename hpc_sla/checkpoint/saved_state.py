"""The state of a solver in a checkpoint, as it is saved and as it is found again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hpc_sla.checkpoint.file import CheckpointFile, CheckpointWriter
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError, InputError


@dataclass
class State:
    """What a solver needs to go on from an iteration.

    Attributes
    ----------
    iteration : int
    identity : dict
        What it belongs to: names to text or numbers, replicated. See `Saved.check`.
    vectors : dict of name to (RowLayout, tensor)
        Per rank, `[n_owned]` or `[n_owned, k]`.
    arrays : dict of name to array
        Replicated, of up to three dimensions; kept in double precision.
    facts : dict
        Replicated: whatever JSON can hold.
    """

    iteration: int
    identity: dict[str, Any]
    vectors: dict[str, tuple[RowLayout, torch.Tensor]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Saved:
    """A checkpoint to go on from, open on every rank.

    Attributes
    ----------
    facts, arrays : dict
        As they were in `State`.
    iteration : int
    """

    def __init__(self, file: CheckpointFile, world: World, tag: str) -> None:
        self._file, self._world, self._tag = file, world, tag
        self.facts, self.identity = _Facts(file), file.identity
        self.arrays = file.arrays()
        self.iteration = int(self.facts.get("iteration", 0))

    def well_formed(self) -> AbstractContextManager[None]:
        """Around what takes the state apart: what it lacks is an `InputError`. Local."""
        return self._file.well_formed()

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse what belongs to something else. Local, but replicated.

        Raises
        ------
        InputError
            Naming the first thing that differs.
        """
        wanted = {**identity, "tag": self._tag}
        for name, mine in wanted.items():
            theirs = self.identity.get(name)
            if isinstance(mine, float) and isinstance(theirs, float):
                # Sums, which other ranks round otherwise.
                same = math.isclose(mine, theirs, rel_tol=1e-6)
            else:
                same = mine == theirs
            if not same:
                told = "" if name in ("matrix", "rhs", "B") else f", {theirs!r} and not {mine!r}"
                what = _WORDS.get(name, f"another {name.replace('_', ' ')}")
                raise InputError(
                    f"is the checkpoint of {what}{told}",
                    file=self._file.path,
                    field=name,
                    remedy="Resume what it belongs to, or start afresh with another name for the "
                    "checkpoint",
                )

    def read(self, name: str, layout: RowLayout, like: torch.Tensor) -> torch.Tensor:
        """A vector, of the dtype and columns of `like` [n_owned] or [n_owned, k]. **Collective.**

        Raises
        ------
        InputError
            On every rank: there is none, or it is damaged.
        """
        shape = (layout.n_global, *like.shape[1:])
        dtype = str(like.dtype).removeprefix("torch.")
        return layout.from_user_blocks(self._file.read(name, shape, dtype)).to(like.device)

    def columns(self, name: str) -> int:
        """Of a vector [n, k]. **Collective.**"""
        with self._world.agree():
            return self._file.columns(name)

    def has(self, name: str) -> bool:
        """Local, but replicated."""
        return self._file.has(name)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Saved:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Facts(dict[str, Any]):
    """What is missing is the file's fault."""

    def __init__(self, file: CheckpointFile) -> None:
        super().__init__(file.facts)
        self._path = file.path

    def __missing__(self, name: str) -> Any:
        raise InputError("is missing", file=self._path, field=f"facts: {name}")


_WORDS = {
    "matrix": "another matrix",
    "rhs": "another right-hand side",
    "kind": "another kind of solver",
    "tag": "another problem",
}


def write_vector(
    writer: CheckpointWriter | None, name: str, layout: RowLayout, x: torch.Tensor
) -> None:
    """**Collective.**"""
    world = layout.world
    item: Any = None
    failed: HpcSlaError | None = None
    if writer is not None:
        dtype = str(x.dtype).removeprefix("torch.")
        try:
            item = writer.vector(name, (layout.n_global, *x.shape[1:]), dtype)
        except HpcSlaError as error:
            failed = error
    # The others are sending: rank 0 must hear them out even when it can write no more.
    finite = np.ones(x.shape[1:], dtype=bool)
    for start, slab in layout.user_blocks(x):
        if writer is not None and failed is None:
            finite &= np.isfinite(slab).all(axis=0)
            try:
                writer.write_slab(item, start, slab)
            except HpcSlaError as error:
                failed = error
    with world.agree():
        if failed is not None:
            raise failed
        # A right-hand side may have failed alone; with none left there is nothing to go on from.
        if writer is not None and not finite.any():
            raise HpcSlaError(f"{name} has entries that are not finite")
