"""What is known of unknowns: which are of one node, where they are, what is hardly changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.row_order import check_order, made
from hpc_sla.errors import InputError
from hpc_sla.partition import check_block_size
from hpc_sla.partition.rigid_body import by_name


@dataclass(frozen=True)
class Unknowns:
    """Shared by a matrix and those with other values. Per rank.

    Attributes
    ----------
    block_size : int or None
        Replicated. None where nobody has said it or looked.
    coordinates : float64 tensor [n_owned, d] or None
    near_nullspace : float64 tensor [n_owned, m] or None
    found : bool
        Whether the block size was found in the pattern, and not said.
    """

    block_size: int | None = None
    coordinates: torch.Tensor | None = None
    near_nullspace: torch.Tensor | None = None
    found: bool = False


NOTHING_KNOWN = Unknowns()


class Described:
    """A matrix that knows what its rows are."""

    layout: RowLayout
    shape: tuple[int, int]
    unknowns = NOTHING_KNOWN

    @property
    def block_size(self) -> int:
        """Unknowns of a node: rows `block_size * i` and following are node i's. Replicated.

        1 where nothing is known. May be set, to the same on every rank: InputError of a rank alone
        that has part of a node, or not in order.
        """
        return self.unknowns.block_size or 1

    @block_size.setter
    def block_size(self, size: int) -> None:
        check_block_size(self.shape, size)
        if not keeps_nodes(self.layout, int(size)):
            raise InputError(
                f"this rank has rows of nodes of {size} that are not together, or not in order",
                field="block_size",
                remedy="Make the matrix with that block_size: nodes then stay whole",
            )
        self.unknowns = replace(self.unknowns, block_size=int(size), found=False)

    @property
    def coordinates(self) -> torch.Tensor | None:
        """The point of each owned row, float64 [n_owned, d], or None. Per rank.

        May be set, on every rank: InputError of a rank alone for other shapes, or NaN.
        """
        return self.unknowns.coordinates

    @coordinates.setter
    def coordinates(self, points: Any) -> None:
        found = None if points is None else _of_rows(points, self.layout, "coordinates")
        self.unknowns = replace(self.unknowns, coordinates=found)

    @property
    def near_nullspace(self) -> torch.Tensor | None:
        """Vectors that the matrix hardly changes, float64 [n_owned, m], or None. Per rank.

        May be set, on every rank, to a tensor or array, "constants" or "rigid_body":
        InputError of a rank alone for other shapes, NaN, or rigid-body modes without coordinates
        and a block size as large as their dimension.
        """
        return self.unknowns.near_nullspace

    @near_nullspace.setter
    def near_nullspace(self, vectors: Any) -> None:
        if isinstance(vectors, str):
            points = None if self.coordinates is None else self.coordinates.cpu().numpy()
            vectors = by_name(vectors, self.layout.n_owned, self.block_size, points)
        found = None if vectors is None else _of_rows(vectors, self.layout, "near_nullspace")
        self.unknowns = replace(self.unknowns, near_nullspace=found)


def keeps_nodes(layout: RowLayout, block_size: int) -> bool:
    """Whether each node's rows are on one rank, one after the other and in order. Local."""
    if (layout.offsets % block_size).any():
        return False
    nodes = np.asarray(layout.rows).reshape(-1, block_size)
    first = nodes[:, :1]
    return not ((first % block_size != 0) | (nodes != first + np.arange(block_size))).any()


def as_unknowns(
    layout: RowLayout,
    block_size: int | None,
    points: np.ndarray | None,
    vectors: np.ndarray | None,
) -> Unknowns:
    """What a file says, in checked arrays of the owned rows. Local."""
    coordinates, near_nullspace = (
        None if a is None else made(torch.from_numpy(a).to(layout.world.device), layout)
        for a in (points, vectors)
    )
    return Unknowns(block_size, coordinates, near_nullspace)


def _of_rows(given: Any, layout: RowLayout, field: str) -> torch.Tensor:
    """As float64 [n_owned, k], on the rank's device; a copy. Local."""
    found = tensor_of(given, field).detach()
    if isinstance(given, torch.Tensor):
        check_order(given, layout, field)
    if field == "near_nullspace" and found.dim() == 1:
        found = found.unsqueeze(1)
    if found.dim() != 2 or len(found) != layout.n_owned or not found.shape[1]:
        raise InputError(
            f"has shape {tuple(found.shape)}, and this rank has {layout.n_owned} rows",
            field=field,
            remedy=f"Pass a row of it for each of this rank's rows: [{layout.n_owned}, k]",
        )
    found = found.to(layout.world.device, torch.float64, copy=True).contiguous()
    if not found.isfinite().all():
        raise InputError("holds NaN or infinity", field=field)
    return found
