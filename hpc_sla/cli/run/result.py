"""Write distributed solutions to a result file, with what it takes to repeat the run."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

import hpc_sla
from hpc_sla.cli.config import effective
from hpc_sla.cli.record import packages
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.sparse.home_rows import home_rows
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.storage.result_file import ResultWriter

Vectors = Mapping[str, tuple[RowLayout, torch.Tensor]]


def write_result(
    path: str,
    vectors: Vectors,
    residual_history: Sequence[float],
    attributes: Mapping[str, Any],
    seconds: Mapping[str, float],
    eigenvalues: Sequence[float] | None = None,
    matrix_gradient: tuple[DSparseMatrix, torch.Tensor] | None = None,
) -> None:
    """Write in the user's order, every rank an even block of it. **Collective.**

    A failure to write (a full disc) is raised on every rank, and leaves nothing behind.

    Parameters
    ----------
    path : str
    vectors : dict of name to (RowLayout, tensor [n_owned] or [n_owned, k])
        Each with its layout; all of one dtype and as many columns. Other lengths than the first
        one's may only be those of right-hand sides.
    residual_history, attributes, eigenvalues
        See `ResultWriter.finish`. Attributes count on rank 0.
    seconds : dict of name to float
        Of the stages so far, on this rank; the slowest rank's become attributes. Stages are the
        same on all ranks.
    matrix_gradient : (DSparseMatrix, tensor [nnz_owned]), optional
        A matrix and the gradient with respect to its values.
    """
    layout, x = next(iter(vectors.values()))
    world = layout.world
    lengths = {name: one.n_global for name, (one, _) in vectors.items()}
    columns = x.shape[1] if x.dim() == 2 else None
    dtype = str(x.dtype).removeprefix("torch.")
    entries = None
    if matrix_gradient is not None:
        A, _ = matrix_gradient
        entries = A.shape[0], A.nnz_global
    comm, names = world.comm, tuple(vectors)
    with ResultWriter(
        path, layout.n_global, dtype, names, columns, lengths, entries, comm
    ) as writer:
        for name, (one, vector) in vectors.items():
            for start, slab in one.user_blocks(vector):
                writer.write_slab(name, start, slab)
            writer.flush()
        if matrix_gradient is not None:
            row, counts, numbers, values = home_rows(*matrix_gradient)
            writer.write_matrix_rows(row, _before(world, len(values)), counts, numbers, values)
        spent = _slowest(world, seconds)
        writer.finish(residual_history, {**attributes, **spent}, eigenvalues)


def _slowest(world: World, seconds: Mapping[str, float]) -> dict[str, float]:
    """``seconds_STAGE`` of the slowest rank, on rank 0. **Collective.**"""
    from mpi4py import MPI  # see `provenance`

    figures = np.array([seconds[name] for name in seconds])
    if world.size > 1:
        comm: Any = world.comm
        comm.Reduce(figures.copy(), figures, op=MPI.MAX)
    return {f"seconds_{name}": float(one) for name, one in zip(seconds, figures, strict=True)}


def _before(world: World, count: int) -> int:
    """The sum of the counts of the ranks before this one. **Collective.**"""
    if world.size == 1:
        return 0
    before = np.array([count], dtype=np.int64)
    comm: Any = world.comm
    comm.Exscan(before.copy(), before)
    return int(before[0]) if world.rank else 0


def provenance() -> dict[str, Any]:
    """Versions, date, command line and configuration, as attributes of a result file. Local."""
    from mpi4py import MPI  # last of all: where it is not there, one process gets this far

    library = MPI.Get_library_version().strip("\x00 \n").splitlines()[0].strip()
    return {
        "version_hpc_sla": hpc_sla.__version__,
        **{f"version_{name}": found for name, found in packages().items()},
        "version_mpi": " ".join(library.split()),
        "version_python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "hpc_sla", *sys.argv[1:]]),
        "config": effective(),
    }
