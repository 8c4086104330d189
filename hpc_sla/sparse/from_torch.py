"""Torch's sparse tensors: looked at, as triplets, and from rank 0 to all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.sparse.entries import slots

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


def check_torch(matrix: Any) -> None:
    """That it is a sparse matrix whose indices are in range. Local.

    Raises
    ------
    InputError
        Not sparse, not a matrix, another dtype, an index out of range; compressed entries given
        twice whose gradient torch cannot find.
    """
    if not isinstance(matrix, torch.Tensor) or matrix.layout not in _LAYOUTS:
        kind = type(matrix).__name__ if not isinstance(matrix, torch.Tensor) else matrix.layout
        raise InputTypeError(
            f"a {kind} is not a sparse tensor",
            field="matrix",
            remedy="Pass a COO, CSR or CSC tensor, such as dense.to_sparse_csr()",
        )
    if matrix.dim() != 2 or matrix.dense_dim():
        raise InputError(f"shape {tuple(matrix.shape)} is not that of a matrix", field="matrix")
    if matrix.dtype not in (torch.float64, torch.float32):
        raise InputTypeError(
            f"{matrix.dtype} is not supported", field="matrix", remedy="Use float64 or float32"
        )
    _check_indices(matrix)
    if matrix.layout != torch.sparse_coo and matrix.grad_fn is not None:
        pair = triplets(matrix.detach())[:2]
        first, slot = slots(*(index.cpu().numpy() for index in pair))
        if len(first) < len(slot):  # backward would fail, on this rank alone
            raise InputError(
                "has entries given twice, and torch finds no gradient of what they were made of",
                field="matrix",
                remedy="Make a COO tensor of them",
            )


def _check_indices(matrix: torch.Tensor) -> None:
    """That they are those of a matrix: torch itself looks only where it was told to. Local."""
    m, n = matrix.shape
    if matrix.layout == torch.sparse_coo:
        rows, columns = matrix._indices()
        _check_range(rows, m, "row")
        _check_range(columns, n, "column")
        return
    by_rows = matrix.layout == torch.sparse_csr
    if by_rows:
        ends, inner = matrix.crow_indices(), matrix.col_indices()
    else:
        ends, inner = matrix.ccol_indices(), matrix.row_indices()
    outer, width = (m, n) if by_rows else (n, m)
    found = ends.tolist() if ends.dim() == 1 else []
    rising = len(found) == outer + 1 and not bool((ends.diff() < 0).any())
    if not (rising and found[0] == 0 and found[-1] == len(inner) == len(matrix.values())):
        raise InputError(
            f"its {'rows' if by_rows else 'columns'} do not end one after another, from 0 to the "
            "number of entries",
            field="matrix",
            remedy="Make it with check_invariants=True, which says more",
        )
    _check_range(inner, width, "column" if by_rows else "row")


def _check_range(numbers: torch.Tensor, bound: int, what: str) -> None:
    if numbers.numel():
        low, high = (int(end) for end in numbers.aminmax())
        if low < 0 or high >= bound:
            raise InputError(
                f"{what} {low if low < 0 else high} is outside 0 to {bound - 1}", field="matrix"
            )


def triplets_of(matrix: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`triplets` of what nobody has looked at. Local.

    Raises
    ------
    InputError
        As `check_torch`.
    """
    check_torch(matrix)
    return triplets(matrix)


def triplets(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values (in its graph) of a torch sparse matrix. Local.

    A pair may come several times: compressed rows may have it so.
    """
    if matrix.layout == torch.sparse_coo:
        matrix = matrix.coalesce()
        rows, columns = matrix.indices()
        return rows, columns, matrix.values()
    if matrix.layout == torch.sparse_csr:
        ends, inner, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    else:
        ends, inner, values = matrix.ccol_indices(), matrix.row_indices(), matrix.values()
    count = torch.arange(len(ends) - 1, device=ends.device)
    outer = torch.repeat_interleave(count, ends.diff().long())
    pair = (outer, inner.long()) if matrix.layout == torch.sparse_csr else (inner.long(), outer)
    return *pair, values


def from_root(cls: Any, matrix: Any, world: World, options: dict[str, Any]) -> Any:
    """Rank 0's values, sent to where `from_scipy` sends their numbers. **Collective.**"""
    import scipy.sparse as sp  # slow to load

    numbered, values = None, torch.zeros(0, dtype=torch.float64, device=world.device)
    if world.rank == 0:
        rows, columns, found = triplets(matrix)
        pair = rows.cpu().numpy(), columns.cpu().numpy()
        first, slot = slots(*pair)
        if len(first) < len(slot):  # of entries given twice the numbers would be summed
            found = found.new_zeros(len(first)).index_add(
                0, torch.from_numpy(slot).to(found.device), found
            )
            pair = pair[0][first], pair[1][first]
        values = found.to(world.device)
        # From 1: no entry may look like one that is not there. Exact up to 2^53.
        numbers = np.arange(1, len(pair[0]) + 1, dtype=np.float64)
        numbered = sp.csr_array(sp.coo_array((numbers, pair), shape=matrix.shape))
    with world.agree() as agreed:
        if not bool(torch.isfinite(values.detach()).all()):
            raise InputError("has values that are NaN or infinite", field="matrix")
        agreed.say((world.rank, str(values.dtype), values.requires_grad))
    of_root = next(said for said in agreed.heard if said[0] == 0)
    if world.rank != 0:
        dtype = torch.float32 if of_root[1] == "torch.float32" else torch.float64
        values = values.to(dtype).requires_grad_(of_root[2])
    A = cls.from_scipy(numbered, world, **options)
    wanted = A.held.plain.cpu().numpy().astype(np.int64) - 1
    count = world.comm.bcast(len(values))
    entries = RowLayout(world, np.array([0] + [count] * world.size, dtype=np.int64))
    ids, place = np.unique(wanted, return_inverse=True)
    away = np.empty(0, dtype=np.int64) if world.rank == 0 else ids
    extended = HaloPlan(entries, away).extend(values)
    place = wanted if world.rank == 0 else place
    found = extended.index_select(0, torch.from_numpy(place).to(world.device))
    return A.with_values(found)
