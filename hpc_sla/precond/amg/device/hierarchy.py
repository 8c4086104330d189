"""The hierarchy as it is set up on a device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.device.aggregation import aggregates_of
from hpc_sla.precond.amg.device.eigenvalue import estimated
from hpc_sla.precond.amg.device.galerkin import product_of
from hpc_sla.precond.amg.device.prolongator import DeviceProlongator, prolongator_of
from hpc_sla.precond.amg.device.rows import RankRows
from hpc_sla.precond.amg.device.strength import NodeGraph
from hpc_sla.precond.amg.device.transfer import DeviceTransfer
from hpc_sla.precond.amg.eigenvalue import Estimate
from hpc_sla.precond.amg.hierarchy import Hierarchy
from hpc_sla.precond.amg.of_level import Reusable
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.amg.products import LevelOperator
from hpc_sla.precond.amg.repartition import Repartition
from hpc_sla.sparse.matrix import DSparseMatrix

Tensor = torch.Tensor

ON_CPU = False
"""For tests: on the CPU the compiled loops are the better choice."""


def hierarchy_for(device: torch.device) -> type[Hierarchy]:
    """Which one sets up there. Local; replicated, as all ranks have devices of one type."""
    return DeviceHierarchy if ON_CPU or device.type != "cpu" else Hierarchy


class DeviceHierarchy(Hierarchy):
    """Levels that are made where they stay, of parameters as of `Hierarchy`. **Collective.**

    Only what is small comes to the host: numbers of the halo, and levels that go to fewer ranks or
    are solved directly. Another near-nullspace is sent to the device once.
    """

    def __init__(
        self,
        A: DSparseMatrix,
        B: np.ndarray | Tensor,
        options: AmgOptions,
        decoupled: Tensor | None = None,
        previous: Hierarchy | None = None,
        keep: str = "",
    ) -> None:
        super().__init__(A, _sent(B, A.device), options, decoupled, previous, keep)

    def _blocks(self, A: DSparseMatrix) -> None:
        """Each of the two writes them out for itself, where they are in slices."""

    def _graph(
        self, A: DSparseMatrix, block_size: int
    ) -> tuple[RowLayout, Callable[[float], tuple[RowLayout, Tensor]]]:
        graph = NodeGraph(A, block_size)
        return graph.layout, lambda threshold: aggregates_of(graph, threshold)

    def _estimate(
        self, operator: LevelOperator, layout: RowLayout, inverse: Tensor, before: Estimate | None
    ) -> Estimate:
        return estimated(operator, layout, inverse, before)

    def _prolongator(
        self,
        A: DSparseMatrix,
        blocks: None,
        kept: Reusable,
        B: Tensor,
        inverse: Tensor,
        decoupled: Tensor | None,
    ) -> tuple[DeviceProlongator, Tensor]:
        group = kept.group
        if kept.block_size > 1:
            group = group[:, None].expand(-1, kept.block_size).reshape(-1)
        if decoupled is not None:
            group = group.masked_fill(decoupled, -1)
            if kept.vectors > 1:
                B = B.masked_fill(decoupled[:, None], 0)
        largest = self._estimates[-1].largest
        plan, aggregates = A.pattern.plan, kept.aggregates
        # Without a tuple of arguments, which would keep the rows alive after their use.
        return prolongator_of(RankRows(A), plan, inverse, largest, aggregates, group, B, self.dtype)

    def _product(
        self, A: DSparseMatrix, blocks: None, P: DeviceProlongator, before: Reusable, same: bool
    ) -> tuple[DSparseMatrix, None]:
        return product_of(RankRows(A), A.pattern.plan, P, before.coarse if same else None), None

    def _transfer(self, P: DeviceProlongator) -> DeviceTransfer:
        return DeviceTransfer(P, self.dtype)

    def _moved(
        self, move: Repartition, A: DSparseMatrix, B: Tensor | None
    ) -> tuple[DSparseMatrix | None, Tensor | None]:
        matrix, rows = move.moved(A, None if B is None else B.cpu().numpy())
        return matrix, None if rows is None else torch.from_numpy(rows).to(A.device)


def _sent(B: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """On the device: of one number that is seen everywhere, only that. Local."""
    if isinstance(B, Tensor):
        return B
    if len(B) and not any(B.strides):
        return torch.from_numpy(B[:1].copy()).to(device).expand(B.shape)
    return torch.from_numpy(np.ascontiguousarray(B)).to(device)
