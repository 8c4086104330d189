"""From a matrix file to rows and right-hand sides, each rank its own slab."""

from __future__ import annotations

import os

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.row_order import made
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition.offsets import column_offsets_for, offsets_for
from hpc_sla.sparse.split import SplitRows, read_split
from hpc_sla.sparse.unknowns import Unknowns, as_unknowns
from hpc_sla.storage import checks
from hpc_sla.storage.matrix_file import MatrixFile

_TORCH = {8: torch.float64, 4: torch.float32}
_DTYPES = {torch.float64: np.float64, torch.float32: np.float32}


def open_together(path: str | os.PathLike[str] | MatrixFile, world: World) -> MatrixFile:
    """A matrix file whose header rank 0 reads for all; each rank opens it once. **Collective.**

    Where rows do not lie at known places (in files of others, in chunks) each rank reads the header
    itself. Rows are to be read between this and `check_together`.

    Parameters
    ----------
    path : path or MatrixFile
        Per rank. One that `open_together` has given, or that came from rank 0, is taken as it is.

    Raises
    ------
    InputError
        On every rank.
    """
    file: MatrixFile | None = None
    with world.agree():
        if isinstance(path, MatrixFile):
            file = path
        elif world.rank == 0:
            file = MatrixFile(path)
    if not isinstance(path, MatrixFile):
        sent = world.comm.bcast(file)
        file = sent if world.rank else file
    assert file is not None
    try:
        with world.agree() as agreed:
            file.join(None if isinstance(path, MatrixFile) else path)
            agreed.number = float(file.can_defer)
    except BaseException:  # another rank's, maybe
        if file is not path:
            file.close()
        raise
    file.defer(agreed.number == world.size)
    return file


def check_together(file: MatrixFile, world: World) -> None:
    """What ranks have read since has the sums that it was written with. **Collective.**

    A block of rows that several ranks read is whole for none of them, and nobody reads it again:
    each sends the sum of its part to one rank, by the block's number.

    Raises
    ------
    InputError
        On every rank: it has not.
    """
    if not file.deferred:
        return
    seen = file.seen()
    to = (seen[:, 0] + seen[:, 1]) % world.size
    messages = {int(rank): seen[to == rank].reshape(-1) for rank in np.unique(to)}
    mine = [messages.pop(world.rank)] if world.rank in messages else []
    arrived = [np.empty(0, dtype=np.int64), *mine, *world.sparse_exchange(messages).values()]
    with world.agree():
        file.check(np.concatenate(arrived).reshape(-1, 5))


def read_rows(
    path: str | os.PathLike[str] | MatrixFile, world: World, dtype: torch.dtype | None
) -> tuple[RowLayout, RowLayout, SplitRows, Unknowns]:
    """Read this rank's rows of a matrix file. **Collective.**

    Parameters and errors are those of `DSparseMatrix.from_hdf5`. A file of `open_together` stays
    open.

    Returns
    -------
    layout, columns : RowLayout
        Of rows and columns; one object where the matrix is square.
    SplitRows
        Per rank: its rows.
    Unknowns
    """
    with world.agree("from_hdf5", dtype=dtype):
        pass
    file = open_together(path, world)
    try:
        found = _read_rows(file, world, dtype)
        file.of_order = found[0].order
        return found
    finally:
        if file is not path:
            file.close()


def _read_rows(
    file: MatrixFile, world: World, dtype: torch.dtype | None
) -> tuple[RowLayout, RowLayout, SplitRows, Unknowns]:
    path = file.path
    with world.agree() as agreed, file.damage_first():
        agreed.say((file.n_rows, file.n_cols, file.nnz, file.digest, os.fspath(path)))
        offsets = offsets_for(file.part_offsets, world.size, file.block_size)
        rows = slice(int(offsets[world.rank]), int(offsets[world.rank + 1]))
        permutation = file.read_permutation(rows.start, rows.stop)
        ends, points, vectors = (rows.start, rows.stop), None, None
        if file.has_coordinates:
            points = file.read_coordinates(*ends)
        if file.has_near_nullspace:
            vectors = file.read_near_nullspace(*ends)
        square = file.n_rows == file.n_cols
        block_size = file.block_size if square and file.says_block_size else None
        if not square:
            cuts = column_offsets_for(file.part_offsets, file.column_part_offsets, offsets)
            first, last = int(cuts[world.rank]), int(cuts[world.rank + 1])
            owned_columns = file.read_column_permutation(first, last)
        kind = dtype or _TORCH[file.dtype.itemsize]
        owned = slice(*ends) if square else slice(first, last)
        split = read_split(file.read_rows, rows, owned, kind, world.device, file.block_size)
    if len({heard[:-1] for heard in agreed.heard}) > 1:
        names = sorted({heard[-1] for heard in agreed.heard})
        raise InputError(
            f"ranks read different files: {', '.join(names)}",
            field="from_hdf5: path",
            remedy="Give every rank the same file, or a copy of it",
        )
    check_together(file, world)
    _check_permutation(world, path, "permutation", rows.start, permutation)
    if not square:
        _check_permutation(world, path, "column_permutation", first, owned_columns)
    layout = RowLayout.numbered(world, offsets, permutation)
    columns = layout if square else RowLayout.numbered(world, cuts, owned_columns)
    unknowns = as_unknowns(layout, block_size, points, vectors)
    return layout, columns, split, unknowns


def read_rhs(
    path: str | os.PathLike[str] | MatrixFile,
    name: str,
    layout: RowLayout,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """A right-hand side of a matrix file, each rank its owned entries. **Collective.**

    Parameters
    ----------
    path : path, or MatrixFile that `read_rows` has read
        The file the layout's matrix came from.
    name : str
        Which of `/rhs/*`.
    layout : RowLayout
        Of the matrix's rows.
    dtype : torch.dtype, optional
        Default: the file's.

    Raises
    ------
    InputError
        On every rank: no right-hand side by that name (the message lists those there are).
    """
    world = layout.world
    with world.agree("read_rhs", name=name, dtype=dtype):
        pass
    file = open_together(path, world)
    try:
        with world.agree(), file.damage_first():
            rows = slice(layout.start, layout.start + layout.n_owned)
            fits = file.n_rows == layout.n_global
            if fits and (layout.order is None or layout.order != file.of_order):
                fits = bool((file.read_permutation(rows.start, rows.stop) == layout.rows).all())
            if not fits:
                raise InputError(
                    "the layout is not that of this file's matrix",
                    file=file.path,
                    field="layout",
                    remedy="Pass A.layout of A = DSparseMatrix.from_hdf5(path, world)",
                )
            data = file.read_rhs(name, rows.start, rows.stop)
        check_together(file, world)
    finally:
        if file is not path:
            file.close()
    return made(torch.from_numpy(_as_dtype(data, dtype)).to(world.device), layout)


def _check_permutation(
    world: World, path: str | os.PathLike[str], field: str, start: int, numbers: np.ndarray
) -> None:
    """Each of the user's rows (or columns) must occur once over all ranks. **Collective.**

    `numbers` are those of this rank's, the stored ones from `start` on.
    """
    stored = np.arange(start, start + len(numbers), dtype=np.int64)
    excess = (checks.fingerprint(numbers) - checks.fingerprint(stored)) % 2**64
    if world.sums(np.array([excess], dtype=np.uint64))[0]:  # which wraps around
        raise InputError(
            "does not hold each of the numbers from 0 to n - 1 exactly once",
            file=path,
            field=f"/{field}",
            remedy="Write the file again with a permutation of the user's rows (or columns)",
        )


def _as_dtype(data: np.ndarray, dtype: torch.dtype | None) -> np.ndarray:
    return data if dtype is None else data.astype(_DTYPES[dtype], copy=False)
