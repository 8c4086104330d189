"""PETSc's matrices and ours, on the same ranks: nothing is gathered or sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.petsc import check_ranks, communicator, load
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.unknowns import Unknowns


def rows_from_petsc(
    mat: Any, world: World
) -> tuple[RowLayout, RowLayout, np.ndarray, np.ndarray, np.ndarray, Unknowns]:
    """This rank's rows of a PETSc matrix, as `rows_from_scipy`. **Collective.**

    Raises
    ------
    InputError
        On every rank: not a Mat, of other ranks, not assembled, without rows to read (a shell).
    """
    with world.agree("from_petsc"):
        petsc = load()
        if not isinstance(mat, petsc.Mat) or not mat:
            raise InputError(
                f"a {type(mat).__name__} is not a PETSc Mat",
                field="mat",
                remedy="Pass a petsc4py.PETSc.Mat, on every rank",
            )
        check_ranks(mat, world, "mat")
        if not mat.isAssembled():
            raise InputError("is not assembled", field="mat", remedy="Call mat.assemble() first")
        square = mat.getSize()[0] == mat.getSize()[1]
        if square and mat.getOwnershipRange() != mat.getOwnershipRangeColumn():
            raise InputError(
                "is square, and has other columns on this rank than rows",
                field="mat",
                remedy="Make it with the same local sizes of rows and columns",
            )
    single = mat.getType().removeprefix("seq").removeprefix("mpi").startswith("aij")
    source, error = mat, None
    try:
        if not single:  # blocked, symmetric, dense: as single entries of whole rows
            source = mat.convert("aij", petsc.Mat())
        indptr, indices, data = source.getValuesCSR()
    except petsc.Error as caught:  # of every rank alike
        error = caught
    with world.agree():
        if error is not None:
            raise InputError(
                f"a Mat of type {mat.getType()!r} has no entries to read ({error})",
                field="mat",
                remedy="Wrap it in an hs.LinearOperator instead",
            ) from error
    layout = _layout(world, mat.getOwnershipRange())
    columns = layout if square else _layout(world, mat.getOwnershipRangeColumn())
    block = mat.getBlockSize()
    near = mat.getNearNullSpace()
    vectors = [np.array(v.getArray(readonly=True)) for v in near.getVecs()] if near else []
    if near and near.hasConstant():
        vectors.insert(0, np.ones(layout.n_owned))
    known = Unknowns(
        block if square and block > 1 else None,
        None,
        torch.from_numpy(np.stack(vectors, axis=1)).to(world.device) if vectors else None,
    )
    # Copies: PETSc's are gone with the matrix.
    arrays = indptr.astype(np.int64), indices.astype(np.int64), np.array(data, dtype=np.float64)
    if source is not mat:
        source.destroy()
    return layout, columns, *arrays, known


def _layout(world: World, owned: tuple[int, int]) -> RowLayout:
    return RowLayout(world, world.offsets(int(owned[1] - owned[0])))


def aij(
    world: Any,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    block_size: int = 1,
) -> Any:
    """A PETSc AIJ matrix of this rank's rows. **Collective.**

    Parameters
    ----------
    world : World, or MPI.Comm
    sizes : ((int, int), (int, int))
        Rows here and in all, columns here and in all.
    indptr, indices, data : arrays
        As CSR, with global columns. They are copied.
    block_size : int

    Raises
    ------
    InputError
        Of a rank alone: more than this PETSc can number.
    """
    petsc = load()
    limit = np.iinfo(petsc.IntType).max
    if max(sizes[0][1], sizes[1][1], int(indptr[-1])) > limit:
        raise InputError(
            f"the matrix has more than {limit} rows or entries, which this PETSc cannot number",
            remedy="Build PETSc with --with-64-bit-indices, or use a smaller matrix.",
        )
    mat = petsc.Mat().createAIJ(
        size=sizes,
        bsize=block_size,
        csr=(
            indptr.astype(petsc.IntType, copy=False),
            indices.astype(petsc.IntType, copy=False),
            data.astype(np.float64, copy=False),
        ),
        comm=communicator(world) if isinstance(world, World) else world,
    )
    mat.assemble()
    return mat
