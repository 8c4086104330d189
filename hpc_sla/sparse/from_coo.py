"""From triplets that each rank brings to a distributed pattern and its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import by_dlpack, host_array
from hpc_sla.distributed.layout import RowLayout, check_layout
from hpc_sla.distributed.ownership import Directory, claimed_layout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.entries import pattern_of
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.storage.checks import native
from hpc_sla.storage.limits import machine_memory

Integers = torch.Tensor | np.ndarray


def assemble(
    rows: Integers,
    cols: Integers,
    values: torch.Tensor | np.ndarray,
    shape: Sequence[int],
    world: World,
    columns: Integers | RowLayout | None,
    layout: RowLayout | None = None,
) -> tuple[DistributedPattern, torch.Tensor]:
    """The work of `DSparseMatrix.from_coo`, whose parameters and errors these are. **Collective.**

    Returns
    -------
    DistributedPattern
    torch.Tensor [nnz_owned]
        Per rank: the summed values, differentiable in `values`.
    """
    with world.agree(
        "from_coo", shape=shape, columns=_kind(columns), layout=_kind(layout)
    ) as agreed:
        shape = _shape(shape, world)
        rows, cols = _indices(rows, "rows"), _indices(cols, "cols")
        values = _values(values, world.device)
        _check_triplets(rows, cols, values, shape)
        if layout is not None:
            check_layout(layout, world, shape[0], "layout")
            _check_owned(rows, layout)
        if columns is not None:
            columns = _owned_columns(columns, shape, world)
        agreed.say((values.dtype, values.requires_grad, values.numel() > 0))
    n_rows, n_cols = shape
    values = _of_one_kind(values, agreed.heard)
    if layout is None:
        layout = claimed_layout(world, np.unique(rows), n_rows)
    if n_rows == n_cols:
        column_layout = layout
    elif columns is None:
        column_layout = RowLayout.even(n_cols, world)
    elif isinstance(columns, RowLayout):
        column_layout = columns
    else:
        column_layout = claimed_layout(world, columns, n_cols, "column")
    stored = Directory(column_layout).stored(cols)
    own = layout.rows
    ascending = np.argsort(own)
    local = ascending[np.searchsorted(own, rows, sorter=ascending)]
    pattern, place = pattern_of(layout, local, stored, column_layout)
    summed = values.new_zeros(pattern.nnz_owned).index_add(
        0, torch.from_numpy(place).to(values.device), values
    )
    return pattern, summed


def _of_one_kind(values: torch.Tensor, heard: list[tuple[torch.dtype, bool, bool]]) -> torch.Tensor:
    """One dtype, and a gradient wanted on all ranks or on none. Local: every rank has heard all.

    Ranks with nothing to pass follow the others: `torch.tensor([])` is float32.
    """
    said = {kind[:2] for kind in heard if kind[2]} or {heard[0][:2]}
    if len(said) > 1:
        raise InputError(
            "ranks differ in the dtype of values, or in whether it requires a gradient",
            field="values",
            remedy="Pass the same dtype and requires_grad on every rank",
        )
    ((dtype, wants_gradient),) = said
    if (values.dtype, values.requires_grad) == (dtype, wants_gradient):
        return values
    return values.detach().to(dtype).requires_grad_(wants_gradient)


def matrix_shape(shape: Any) -> tuple[int, int]:
    """Two whole numbers, not negative. Local.

    Raises
    ------
    InputError
    """
    try:
        numbers = tuple(shape)
    except TypeError:
        numbers = ()
    whole = [isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers]
    if len(numbers) != 2 or not all(whole) or min(numbers) < 0:
        raise InputError(
            f"{shape!r} is not the shape of a matrix",
            field="shape",
            remedy="Give two whole numbers, rows and columns",
        )
    return int(numbers[0]), int(numbers[1])


def _shape(shape: Any, world: World) -> tuple[int, int]:
    """One with no more rows or columns than there is memory to own."""
    numbers = matrix_shape(shape)
    # A rank keeps the number and the owner of each row of an even share.
    needed = 2 * 8 * (max(numbers) // world.size) * world.ranks_on_node
    if needed > machine_memory():
        raise InputError(
            f"{numbers[0]} x {numbers[1]} is too large: to know who owns what would take "
            f"{needed / 2**30:.3g} GiB on a node, which has {machine_memory() / 2**30:.3g}",
            field="shape",
            remedy="Check it, or use more nodes",
        )
    return numbers


def _indices(indices: Any, field: str) -> np.ndarray:
    indices = np.asarray(host_array(indices))
    if indices.size and indices.dtype.kind not in "iu":
        raise InputError(f"indices of type {indices.dtype} are not integers", field=field)
    if indices.size and indices.dtype.kind == "u" and indices.max() >= 2**63:
        raise InputError(f"index {indices.max()} is out of range", field=field)
    return indices.astype(np.int64, copy=False).ravel()


def _values(values: Any, device: torch.device) -> torch.Tensor:
    foreign = by_dlpack(values)
    values = values if foreign is None else foreign
    if not isinstance(values, torch.Tensor):
        values = native(values)
    tensor = torch.as_tensor(values, device=device)
    if tensor.dtype not in (torch.float64, torch.float32):
        raise InputError(
            f"values of type {tensor.dtype} are not supported",
            field="values",
            remedy="Pass float64 or float32",
        )
    return tensor


def _check_triplets(
    rows: np.ndarray, cols: np.ndarray, values: torch.Tensor, shape: Sequence[int]
) -> None:
    if not len(rows) == len(cols) == values.numel() or values.dim() != 1:
        raise InputError(
            f"{len(rows)} rows, {len(cols)} cols and values of shape {tuple(values.shape)} "
            "do not make triplets",
            field="values",
        )
    _check_range(rows, shape[0], "rows")
    _check_range(cols, shape[1], "cols")


def _check_range(indices: np.ndarray, bound: int, field: str) -> None:
    outside = indices[(indices < 0) | (indices >= bound)]
    if len(outside):
        raise InputError(f"index {outside[0]} is outside 0 to {bound - 1}", field=field)


def _owned_columns(columns: Any, shape: Sequence[int], world: World) -> np.ndarray | RowLayout:
    if shape[0] == shape[1]:
        raise InputError(
            "the columns of a square matrix are owned as its rows are",
            field="columns",
            remedy="Leave columns out",
        )
    if isinstance(columns, RowLayout):
        return check_layout(columns, world, shape[1], "columns")
    owned = np.unique(_indices(columns, "columns"))
    _check_range(owned, shape[1], "columns")
    return owned


def _kind(given: Any) -> str:
    """Whether, and in which of the ways, it was given: for what ranks agree on."""
    if given is None:
        return "none"
    return f"a RowLayout {given.order}" if isinstance(given, RowLayout) else "numbers"


def _check_owned(rows: np.ndarray, layout: RowLayout) -> None:
    foreign = rows[~np.isin(rows, layout.rows)]
    if len(foreign):
        raise InputError(
            f"row {foreign[0]} is not this rank's in the layout given",
            field="rows",
            remedy="Pass the triplets of a row on the rank whose layout.rows has it",
        )
