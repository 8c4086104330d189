"""Unknowns of a node in units of their own, as deflections and rotations are: brought to one size.

Nothing that multigrid does depends on them in exact arithmetic but for what is seen in norms: how
strongly nodes are connected, and the largest eigenvalue.
"""

from __future__ import annotations

import torch

from hpc_sla.sparse.matrix import DSparseMatrix

_APART = 1e3
"""Times that the diagonals of a node's unknowns are apart before their units are looked after."""


def component_units(A: DSparseMatrix, block_size: int) -> torch.Tensor | None:
    """Powers of two by which unknowns are multiplied: [n_owned]. **Collective.**

    One for each unknown of a node, by the geometric mean of its diagonal entries over all nodes: a
    few rows of a penalty count for little in it. None where these are of like size, or the diagonal
    is not positive.
    """
    diagonal = A.diagonal().detach().double()
    if A.world.sum(int(not bool((diagonal > 0).all()))):
        return None
    logs = diagonal.log2().view(-1, block_size)
    count = logs.new_tensor([float(len(logs))])
    total = A.world.all_sum(torch.cat([logs.sum(dim=0), count]))
    means = total[:-1] / total[-1].clamp(min=1)
    if not bool((means.max() - means.min()).exp2() > _APART):
        return None
    units = (-0.5 * (means - means.min())).round().exp2().to(A.device, A.dtype)
    return units.repeat(len(logs))


def in_component_units(A: DSparseMatrix, units: torch.Tensor, block_size: int) -> DSparseMatrix:
    """`U A U` for such units [n_owned]. Local."""
    if not len(units):
        return A
    of_unknown = units[:block_size]  # rows of a rank begin with those of a node
    column = A.pattern.stored_columns() % block_size
    factors = units.index_select(0, A.pattern.local_rows()) * of_unknown.index_select(0, column)
    return A.with_values(A.held.plain * factors)
