"""Write a distributed solution to a result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hpc_sla.errors import HpcSlaError

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.layout import RowLayout


def write_result(
    path: str,
    layout: RowLayout,
    x: torch.Tensor,
    residual_history: Sequence[float],
    attributes: Mapping[str, Any],
    eigenvalues: Sequence[float] | None = None,
) -> None:
    """Write x, in the user's order, through rank 0, a slab at a time. **Collective.**

    `layout` is x's: that of the matrix's columns. With `eigenvalues`, x [n_owned, k] are their
    vectors, which the file calls `/modes`.

    A failure to write (a full disc) is raised on every rank, and leaves nothing behind.
    """
    from hpc_sla.storage.result_file import ResultWriter

    world, name = layout.world, "x" if eigenvalues is None else "modes"
    with ExitStack() as stack:
        writer: ResultWriter | None = None
        with world.agree():
            if world.rank == 0:
                dtype = str(x.dtype).removeprefix("torch.")
                columns = x.shape[1] if x.dim() == 2 else None
                writer = stack.enter_context(
                    ResultWriter(path, layout.n_global, dtype, (name,), columns)
                )
        error: HpcSlaError | None = None
        for start, slab in layout.user_blocks(x):
            # The others are sending: rank 0 must hear them out even when it can write no more.
            if writer is not None and error is None:
                try:
                    writer.write_slab(name, start, slab)
                except HpcSlaError as caught:
                    error = caught
        with world.agree():
            if error is not None:
                raise error
            if writer is not None:
                writer.finish(residual_history, attributes, eigenvalues)
