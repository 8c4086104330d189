"""Write a distributed solution to a result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hpc_sla.errors import HpcSlaError

if TYPE_CHECKING:
    import torch

    from hpc_sla.layout import RowLayout


def write_result(
    path: str,
    layout: RowLayout,
    x: torch.Tensor,
    residual_history: Sequence[float],
    attributes: Mapping[str, Any],
) -> None:
    """Write x, in the user's order, through rank 0, a slab at a time. **Collective.**

    `layout` is x's: that of the matrix's columns.

    A failure to write (a full disc) is raised on every rank, and leaves nothing behind.
    """
    from hpc_sla.storage.result_file import ResultWriter

    world = layout.world
    with ExitStack() as stack:
        writer: ResultWriter | None = None
        with world.agree():
            if world.rank == 0:
                dtype = str(x.dtype).removeprefix("torch.")
                writer = stack.enter_context(ResultWriter(path, layout.n_global, dtype))
        error: HpcSlaError | None = None
        for start, slab in layout.user_blocks(x):
            # The others are sending: rank 0 must hear them out even when it can write no more.
            if writer is not None and error is None:
                try:
                    writer.write_slab("x", start, slab)
                except HpcSlaError as caught:
                    error = caught
        with world.agree():
            if error is not None:
                raise error
            if writer is not None:
                writer.finish(residual_history, attributes)
