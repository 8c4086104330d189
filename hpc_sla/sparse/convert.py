"""A DSparseMatrix from and to what others have: torch, SciPy, PETSc; another device or dtype."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.distributed.communicators import congruent
from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.csr import COUNTED, CsrPattern
from hpc_sla.kernels.modes import entry
from hpc_sla.messages.tags import TO_SCIPY
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.sparse.from_torch import check_torch, from_root, triplets
from hpc_sla.sparse.home_rows import home_rows
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.stored import StoredMatrix
from hpc_sla.sparse.unknowns import Described, Unknowns

if TYPE_CHECKING:
    import scipy.sparse as sp


class Conversions(Described, StoredMatrix):
    """What a `DSparseMatrix` comes from and goes to."""

    @classmethod
    @entry
    def from_torch(
        cls, matrix: torch.Tensor | None, world: World, per_rank: bool = False, **options: Any
    ) -> Any:
        """From a torch sparse tensor. **Collective.** Differentiable in its values.

        Parameters
        ----------
        matrix : sparse COO, CSR or CSC tensor [m, n], or None
            float64 or float32, on any device. The whole matrix on rank 0, as for `from_scipy`,
            where other ranks pass None. Or, with `per_rank`, on every rank one of the whole shape
            that has the entries of rows the rank will own, as for `from_coo`; COO, then: it alone
            takes no memory for rows without entries. Entries given twice are summed.
        world : World
        per_rank : bool
            Replicated.
        **options
            Of `from_scipy` (`partition`, `layout`, `block_size` ...), or of `from_coo`.

        Raises
        ------
        InputError
            On every rank: not sparse, not a matrix, another dtype, an index out of range, and as
            the other two.
        """
        with world.agree("from_torch", per_rank=per_rank):
            if per_rank or world.rank == 0:
                check_torch(matrix)
        if per_rank:
            assert matrix is not None
            rows, columns, values = triplets(matrix)
            return _class(cls).from_coo(rows, columns, values, matrix.shape, world, **options)
        return from_root(cls, matrix, world, options)

    @classmethod
    @entry
    def from_file(cls, path: str | os.PathLike[str], world: World, **options: Any) -> Any:
        """Read a matrix of elsewhere on rank 0 and spread it. **Collective.**

        For files that fit there; `from_hdf5` reads a partitioned file of any size, each rank its
        part, and takes no other. Points and near null space in the file are used.

        Parameters
        ----------
        path : path
            ``.mtx`` and ``.mtx.gz``, Harwell-Boeing, SciPy's ``.npz``, PETSc's binary, MATLAB's
            ``.mat``, HDF5: see `hpc_sla.storage.importers.read_source`.
        world : World
        **options
            Of `from_scipy`.

        Raises
        ------
        InputError
            On every rank: naming the file and what is wrong, and as `from_scipy`.
        """
        from hpc_sla.storage.importers import read_source  # loads SciPy

        found = None
        with world.agree("from_file"):
            if world.rank == 0:
                found = read_source(path)
        if found is not None:
            for name in ("coordinates", "block_size", "near_nullspace"):
                known = getattr(found, name)
                if known is not None:
                    options.setdefault(name, known)
        size = world.comm.bcast(options.get("block_size"))
        if size is not None:
            options["block_size"] = size
        return _class(cls).from_scipy(None if found is None else found.matrix, world, **options)

    @classmethod
    @entry
    def from_petsc(cls, mat: Any, world: World) -> Any:
        """From a petsc4py Mat on the ranks of `world`. **Collective.** Nothing is gathered or sent.

        Rows stay on their ranks, in PETSc's numbering, which becomes the user's. Types other than
        AIJ are read as single entries. Block size and near null space come along. The values are
        copies, and PETSc keeps no graph: nothing is differentiated through it.

        Parameters
        ----------
        mat : petsc4py.PETSc.Mat
            Assembled.
        world : World
            Its ranks are those of the matrix: ``hs.World(comm=mat.getComm().tompi4py())``.

        Raises
        ------
        InputError
            On every rank: petsc4py is not there, not a Mat, of other ranks, not assembled, without
            entries.
        """
        from hpc_sla.sparse.petsc import rows_from_petsc  # optional

        return _class(cls)._from_rows(*rows_from_petsc(mat, world))

    @entry
    def to_petsc(self) -> Any:
        """As a petsc4py AIJ Mat on the same ranks. **Collective.** Nothing is gathered or sent.

        PETSc's row i is stored row i: `layout.rows` says which of the user's that is, and
        `layout.to_petsc`, `layout.from_petsc` carry vectors over. Block size and near null space,
        made orthonormal as PETSc wants it, go along. A copy, in float64; detached.

        Returns
        -------
        petsc4py.PETSc.Mat

        Raises
        ------
        InputError
            On every rank: petsc4py is not there, or cannot number the entries.
        """
        from hpc_sla.distributed import petsc  # optional
        from hpc_sla.sparse.petsc import aij

        A: Any = self
        rows = A.local_csr()
        size = self.block_size
        sizes = [(one.n_owned, one.n_global) for one in (self.layout, self.columns)]
        with self.world.agree("to_petsc"):
            module = petsc.load()
            limit = np.iinfo(module.IntType).max
            if max(*self.shape, rows.nnz) > limit:
                raise InputError(
                    f"there are more than {limit} rows or entries, which this PETSc cannot number",
                    remedy="Build PETSc with --with-64-bit-indices",
                )
        arrays = rows.indptr, rows.indices, rows.data
        mat = aij(self.world, (sizes[0], sizes[1]), *arrays, block_size=size)
        near = self.unknowns.near_nullspace
        if near is not None:
            # PETSc wants them orthonormal.
            vectors = [petsc.to_petsc(column.contiguous(), self.layout) for column in near.T]
            for i, vector in enumerate(vectors):
                for earlier in vectors[:i]:
                    vector.axpy(-vector.dot(earlier), earlier)
                vector.normalize()
            space = module.NullSpace().create(vectors=vectors, comm=mat.getComm())
            mat.setNearNullSpace(space)
        return mat

    @entry
    def to_scipy(self) -> sp.csr_array | None:
        """The whole matrix on rank 0, in the user's order. **Collective.** Detached.

        Ranks send their rows one slab after another. For what fits on one rank; a file
        (`hs.write_matrix`, `to_hdf5`) takes any size.

        Returns
        -------
        scipy.sparse.csr_array or None
            On rank 0; None elsewhere.
        """
        with self.world.agree("to_scipy"):
            pass
        A: Any = self
        comm = self.world.comm
        _, counts, columns, values = home_rows(A, self.held.plain)
        if comm.rank:
            for array in (counts, columns, values):
                comm.Send(array, dest=0, tag=TO_SCIPY)
            return None
        import scipy.sparse as sp  # slow to load, and a solve does without it

        slabs = [(counts, columns, values)]
        rows = np.diff(even_offsets(self.shape[0], comm.size))
        for rank in range(1, comm.size):
            counts = np.empty(int(rows[rank]), dtype=np.int64)
            comm.Recv(counts, source=rank, tag=TO_SCIPY)
            columns = np.empty(int(counts.sum()), dtype=np.int64)
            comm.Recv(columns, source=rank, tag=TO_SCIPY)
            slabs.append((counts, columns, np.empty(len(columns), dtype=values.dtype)))
            comm.Recv(slabs[-1][2], source=rank, tag=TO_SCIPY)
        counts, columns, values = (np.concatenate(part) for part in zip(*slabs, strict=True))
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return sp.csr_array((values, columns, indptr), shape=self.shape)

    @entry
    def to(self, target: str | torch.device | torch.dtype | World) -> Any:
        """On another device, in another dtype, or in another World. **Collective.** Differentiable.

        Parameters
        ----------
        target : torch.dtype, device or World
            Replicated. float64 or float32. Or a device, in the World of these ranks there
            (`world.on`), which is made once: what goes to one device stays together. Or a World of
            the same ranks. The matrix itself where it is there already.

        Returns
        -------
        DSparseMatrix
            Vectors that go with it are moved by their own `to`.

        Raises
        ------
        InputError
            On every rank: another dtype, an unknown device, a World of other ranks, too many
            entries for the loops of the CPU.
        """
        if isinstance(target, torch.dtype):
            with self.world.agree("to", dtype=target):
                if target not in (torch.float64, torch.float32):
                    raise InputTypeError(
                        f"{target} is not supported",
                        field="dtype",
                        remedy="Use torch.float64 or torch.float32",
                    )
            values = self.held.plain if self.held.packed is not None else self.values
            return self if self.dtype == target else self.with_values(values.to(target))
        if isinstance(target, World):
            world = target
            with self.world.agree("to", world=True):
                if not congruent(world.comm, self.world.comm):
                    raise InputError("is of other ranks", field="world")
        else:
            world = self.world.on(target)
        return self if world is self.world else _moved(self, world)


def _class(cls: type) -> Any:
    return cls


def _moved(A: Any, world: World) -> Any:
    """On the device of another World of these ranks. **Collective.**"""
    pattern, device = A.pattern, world.device
    with world.agree():
        if pattern.nnz_owned >= COUNTED and device.type == "cpu":
            raise InputError(
                f"{pattern.nnz_owned} entries on one rank do not fit 32-bit local indices",
                remedy="Use more ranks",
            )

    def there(layout: RowLayout) -> RowLayout:
        return RowLayout(world, layout.offsets, layout._rows, layout._code)

    def part(given: CsrPattern) -> CsrPattern:
        held = given.at_hand()
        return CsrPattern(held.indptr.to(device), held.indices.to(device), held.n_columns)

    layout = there(A.layout)
    columns = layout if A.columns is A.layout else there(A.columns)
    plan = HaloPlan(columns, pattern.plan.halo)
    made = DistributedPattern(
        layout, part(pattern.owned), part(pattern.halo), pattern.boundary.to(device), plan
    )
    values = A.held.plain if A.held.packed is not None else A.values
    known: Unknowns = A.unknowns

    def along(of_rows: torch.Tensor | None) -> torch.Tensor | None:
        return None if of_rows is None else of_rows.to(device)

    known = replace(
        known,
        coordinates=along(known.coordinates),
        near_nullspace=along(known.near_nullspace),
    )
    return type(A)(made, values.to(device))._knowing(known)
