"""The tentative prolongator on a device: as `precond/amg/tentative.py`, which see."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.device.arrays import grouped, segment_sums, true_places
from hpc_sla.precond.amg.tentative import RANK

Tensor = torch.Tensor


@dataclass(frozen=True)
class Places:
    """The aggregates that a rank's rows and its halo's are in, numbered from its own (per rank).

    Attributes
    ----------
    plan : HaloPlan
        Of values at aggregates: those of others come after the owned ones, by number.
    here, there : int64 tensor [n_owned], [n_halo]
        The local number of each row's aggregate, -1 for none.
    """

    plan: HaloPlan
    here: Tensor
    there: Tensor

    @classmethod
    def of(cls, rows: HaloPlan, aggregates: RowLayout, group: Tensor) -> Places:
        """**Collective.**

        Parameters
        ----------
        rows : HaloPlan
            Of values at rows.
        aggregates : RowLayout
        group : int tensor [n_owned]
            The stored aggregate of each row, -1 for none.
        """
        if aggregates.world.size == 1:
            return cls(HaloPlan(aggregates, rows.halo[:0]), group.long(), group[:0].long())
        extended = rows.extend(group.long())
        first, n = aggregates.start, aggregates.n_owned
        local = extended - first
        outside = true_places((extended >= 0) & ((local < 0) | (local >= n)))
        away, place = torch.unique(extended.index_select(0, outside), return_inverse=True)
        local = torch.where(extended < 0, -1, local)
        local[outside] = place + n
        plan = HaloPlan(aggregates, away.cpu().numpy())
        return cls(plan, local[: len(group)], local[len(group) :])


def tentative_of(places: Places, B: Tensor) -> tuple[Tensor | None, Tensor]:
    """Bases of B on each aggregate, orthonormal where B has several columns. **Collective.**

    By Gram matrices, each summed in the order of its rows.

    Parameters
    ----------
    places : Places
    B : float64 tensor [n_owned, m]

    Returns
    -------
    float64 tensor [n_owned, m] or None
        As of `amg.tentative.tentative`, as are
    float64 tensor [n_aggregates_owned * m, m]
    """
    plan, here = places.plan, places.here
    aggregates, m = plan.layout, B.shape[1]
    world, n = aggregates.world, aggregates.n_owned
    inside = here >= 0
    if m == 1:
        ones = not world.sum(int(((B[:, 0] != 1) & inside).any()))
        coarse = B.new_ones(1).expand(n, 1)
        return (None if ones else torch.where(inside[:, None], B, 0.0)), coarse
    rows = true_places(inside)
    local, vectors = here.index_select(0, rows), B.index_select(0, rows)
    gram = B.new_zeros((n + plan.n_halo, m, m))
    order, first, ends = grouped(local)
    ordered = vectors.index_select(0, order)
    products = ordered[:, :, None] * ordered[:, None, :]
    gram.index_copy_(0, local.index_select(0, first), segment_sums(products, ends))
    if world.size > 1:
        gram[:n] += plan.reduce(gram[n:])
    into, onto = _roots(gram[:n])
    into = plan.extend(into).index_select(0, local)
    bases = torch.bmm(vectors.unsqueeze(1), into).squeeze(1)
    return torch.zeros_like(B).index_copy_(0, rows, bases), onto.reshape(n * m, m)


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """V L^-1/2 and L^1/2 V^T of each matrix, zero in the dependent directions."""
    values, vectors = torch.linalg.eigh(gram)
    kept = (values > RANK * values[:, -1:].clamp(min=0)) & (values > 0)
    root = torch.where(kept, values, 0.0).sqrt()
    inverse = torch.where(kept, 1 / root, 0.0)
    return vectors * inverse[:, None, :], root[:, :, None] * vectors.transpose(1, 2)
