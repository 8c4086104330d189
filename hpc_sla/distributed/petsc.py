"""PETSc, where it is installed: how it is loaded, and its vectors on a layout's ranks and rows."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.row_order import made
from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError, MissingDependencyError

HOW_TO_GET = (
    "Install it with `bash scripts/setup.sh --test`, or `pip install 'hpc_sla[petsc]'` where a C "
    "compiler, BLAS and LAPACK are at hand"
)


def available() -> bool:
    """Whether petsc4py is installed."""
    try:
        return find_spec("petsc4py") is not None
    except ValueError:  # how Python says that somebody has hidden it
        return False


def load(remedy: str = HOW_TO_GET) -> Any:
    """petsc4py's PETSc module, initialised. Local.

    Raises
    ------
    MissingDependencyError
        Saying how to get it.
    """
    if not available():
        raise MissingDependencyError("PETSc (petsc4py) is not installed", remedy=remedy)
    # As many BLAS threads as torch was given: PETSc's vector operations go through BLAS, whose
    # own default is one thread per core in every rank.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(torch.get_num_threads()))
    try:
        # Optional; and MPI begins where mpi4py is imported.
        import petsc4py
        from mpi4py import MPI

        # Its world is this rank alone, so that starting PETSc is not collective; the objects
        # made here name the communicator they live on. Signals stay Python's.
        petsc4py.init(["hpc_sla", "-no_signal_handler"], comm=MPI.COMM_SELF)
        from petsc4py import PETSc
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"PETSc (petsc4py) cannot be loaded: {error}", remedy=remedy
        ) from error
    if np.dtype(PETSc.ScalarType) != np.float64:
        raise MissingDependencyError(
            f"this PETSc computes in {np.dtype(PETSc.ScalarType)}, float64 is needed",
            remedy=remedy,
        )
    return PETSc


def communicator(world: World) -> Any:
    """The ranks of a World as PETSc takes them. Local."""
    from mpi4py import MPI

    return MPI.COMM_SELF if isinstance(world.comm, SerialComm) else world.comm


def check_ranks(thing: Any, world: World, field: str) -> None:
    """Raise InputError where a PETSc object is not on the ranks of a World. Local."""
    from mpi4py import MPI

    theirs = thing.getComm().tompi4py()
    same = MPI.Comm.Compare(theirs, communicator(world))
    if same not in (MPI.IDENT, MPI.CONGRUENT):
        raise InputError(
            f"lives on {theirs.size} ranks, and the World has {world.size}, or has them in "
            "another order",
            field=field,
            remedy="Make the World on its communicator: hs.World(comm=mat.getComm().tompi4py())",
        )


def to_petsc(x: Any, layout: Any) -> Any:
    """A distributed vector as a PETSc Vec, which has a copy. **Collective.** Not differentiable.

    Its entry i is stored row i: `layout.rows` says which of the user's that is. Nothing is sent.

    Parameters
    ----------
    x : torch.Tensor [n_owned]
        Becomes float64.
    layout : RowLayout

    Returns
    -------
    petsc4py.PETSc.Vec
        On the same ranks, as many entries on each.

    Raises
    ------
    InputError
        On every rank: petsc4py is not there, or x has several columns.
    """
    world = layout.world
    with world.agree("to_petsc"):
        petsc = load()
        x = layout._checked(x)
        if x.dim() != 1:
            raise InputError(
                f"shape {tuple(x.shape)} is not [n_owned]",
                field="x",
                remedy="Pass one column after another",
            )
    array = x.detach().cpu().numpy().astype(petsc.ScalarType)
    size = (layout.n_owned, layout.n_global)
    return petsc.Vec().createWithArray(array, size=size, comm=communicator(world))


def from_petsc(vec: Any, layout: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A PETSc Vec as a distributed vector, which has a copy. **Collective.** No graph behind it.

    Parameters
    ----------
    vec : petsc4py.PETSc.Vec
        Of as many entries on each rank as `layout` has rows: of a matrix that went to PETSc or
        came from there.
    layout : RowLayout
    dtype : torch.dtype

    Returns
    -------
    torch.Tensor [n_owned]
        On the rank's device.

    Raises
    ------
    InputError
        On every rank: not a Vec, other ranks, other rows on each.
    """
    world = layout.world
    with world.agree("from_petsc", dtype=dtype):
        petsc = load()
        if not isinstance(vec, petsc.Vec):
            raise InputError(f"a {type(vec).__name__} is not a PETSc Vec", field="vec")
        check_ranks(vec, world, "vec")
        if vec.getLocalSize() != layout.n_owned:
            raise InputError(
                f"has {vec.getLocalSize()} entries on this rank, and the layout {layout.n_owned}",
                field="vec",
                remedy="Make it with A.to_petsc()'s createVecLeft(), or A.layout.to_petsc(x)",
            )
    array = np.array(vec.getArray(readonly=True), dtype=np.float64)
    return made(torch.from_numpy(array).to(world.device, dtype), layout)
