"""Matrix files: a sparse matrix in partition order, read one slab of rows at a time.

The format is described for other languages in partitions/README.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage import attributes as attrs
from hpc_sla.storage import checks
from hpc_sla.storage.digest import VERSION, VERSION_NAME, content_digest
from hpc_sla.storage.hdf5 import (
    DAMAGED,
    FLOATS,
    INDICES,
    INT64,
    dataset,
    has,
    members,
    read_slab,
    reading,
)
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.shared_file import SharedFile

__all__ = ["MatrixFile"]

_OWN_ATTRIBUTES = ("format", "version", "n_rows", "n_cols", "content_sha256", VERSION_NAME)


class MatrixFile(SharedFile):
    """A matrix file, open for reading; its header is checked on opening.

    Any number of processes may open the same file. Nothing longer than the rows asked for is
    held, apart from `part_offsets`. Every ``read_`` method checks what it returns and raises
    `InputError` naming the file, the dataset and a remedy.

    Parameters
    ----------
    path : path
        The file.

    Attributes
    ----------
    n_rows, n_cols, nnz : int
        Shape and number of stored entries.
    dtype : numpy.dtype
        float64 or float32, of the entries and every right-hand side.
    part_offsets, column_part_offsets : ndarray, int64 [parts + 1]
        Part p holds the stored rows ``part_offsets[p]:part_offsets[p+1]``, and likewise columns.
        Those of a square matrix are one object; a rectangular file that does not say has its
        columns in even runs.
    parts : int
        Number of parts.
    rhs_names, solution_names : tuple of str
        Right-hand sides, and the known solutions that belong to some of them.
    has_coordinates, has_near_nullspace : bool
        Whether rows have points in space, and vectors that the matrix hardly changes.
    block_size : int
        Unknowns of a node, which are stored one after another and never split between parts.
        1 where the file does not say.
    says_block_size : bool
        Whether it does.
    digest : str
        SHA-256 of the content as the writer recorded it; empty when it recorded none.
    attributes : dict
        Every other root attribute.

    Examples
    --------
    >>> with MatrixFile("partitions/poisson2d-16x16-p4.h5") as file:  # doctest: +SKIP
    ...     indptr, indices, data = file.read_rows(0, 64)
    """

    of_order: tuple[int, int] | None = None
    """Whose rows have been read: see `RowLayout.order`."""

    def _read_header(self) -> None:
        file, items = self._file, self._items
        attrs.check_format(file, attrs.MATRIX_FORMAT)
        self.n_rows = attrs.integer_attribute(file, "n_rows")
        self.n_cols = attrs.integer_attribute(file, "n_cols")
        for name, value in (("n_rows", self.n_rows), ("n_cols", self.n_cols)):
            if value < 0:
                raise InputError(
                    f"is {value}, less than 0", file=self.path, field=name, remedy=DAMAGED
                )
        data = items["data"] = dataset(file, "data", FLOATS)
        self.nnz = int(data.shape[0])
        self.dtype: np.dtype[Any] = data.dtype.newbyteorder("=")
        items["indices"] = dataset(file, "indices", INDICES, length=self.nnz)
        indptr = items["indptr"] = dataset(file, "indptr", INT64, length=self.n_rows + 1)
        with reading(self.path, "/indptr"):
            # Without a look at their sums: who reads rows will see to that.
            ends = [int(indptr[k]) for k in (0, self.n_rows)]
        if ends != [0, self.nnz]:
            for k in (0, self.n_rows):
                read_slab(indptr, k, k + 1)  # damage is told first
            raise InputError(
                f"runs from {ends[0]} to {ends[1]}, it must run from 0 to {self.nnz}",
                file=self.path,
                field="/indptr",
                remedy="Its first value is 0 and its last the length of /data.",
            )
        offsets = dataset(file, "part_offsets", INT64)
        self.part_offsets = read_slab(offsets, 0, offsets.shape[0])
        checks.check_part_offsets(self.part_offsets, self.n_rows, self.path)
        self.says_block_size = attrs.attribute(file, "block_size") is not None
        self.block_size = self._read_block_size() if self.says_block_size else 1
        items["permutation"] = dataset(file, "permutation", INT64, length=self.n_rows)
        self.column_part_offsets = self._read_column_part_offsets()
        for group in ("rhs", "solution"):
            for name in members(file, group):
                items[f"{group}/{name}"] = self._vector(f"{group}/{name}")
        for name in ("coordinates", "near_nullspace"):
            if has(file, name):
                of_rows = dataset(file, name, FLOATS, ndim=(2,), length=self.n_rows)
                checks.check_columns_there(of_rows.shape, self.path, f"/{name}")
                items[name] = of_rows
        digest = attrs.attribute(file, "content_sha256")
        self.digest = digest if isinstance(digest, str) else ""
        # One that says no digest is given one as ours are.
        self._digest_version = 1 if self.digest else VERSION
        if attrs.attribute(file, VERSION_NAME) is not None:
            self._digest_version = attrs.integer_attribute(file, VERSION_NAME)
        self.attributes = attrs.attributes(file, leave_out=_OWN_ATTRIBUTES)

    def _read_block_size(self) -> int:
        size = attrs.integer_attribute(self._file, "block_size")
        if size < 1 or (self.part_offsets % size).any():
            raise InputError(
                f"is {size}, and not every part starts at a multiple of it"
                if size > 0
                else f"is {size}, less than 1",
                file=self.path,
                field="block_size",
                remedy="It is the number of unknowns at each node; leave it out where it is 1.",
            )
        return size

    def _read_column_part_offsets(self) -> np.ndarray:
        file, names = self._file, ("column_part_offsets", "column_permutation")
        there = [name for name in names if has(file, name)]
        if self.square:
            for name in there:
                raise InputError(
                    "is for rectangular matrices, and this one is square",
                    file=self.path,
                    field=f"/{name}",
                    remedy="Write the file without it: columns are stored as the rows are.",
                )
            return self.part_offsets
        if not there:
            # Not in int64: the number of columns is only what the file says.
            cuts = [p * self.n_cols // self.parts for p in range(self.parts + 1)]
            return np.array(cuts, dtype=np.int64)
        offsets = dataset(file, "column_part_offsets", INT64)
        found = read_slab(offsets, 0, offsets.shape[0])
        checks.check_part_offsets(found, self.n_cols, self.path, "/column_part_offsets", "columns")
        checks.check_column_parts(len(found) - 1, self.parts, self.path)
        self._items["column_permutation"] = dataset(
            file, "column_permutation", INT64, length=self.n_cols
        )
        return found

    def _vector(self, name: str) -> Any:
        length = self.n_cols if name.startswith("solution/") else self.n_rows
        return dataset(self._file, name, (self.dtype,), ndim=(1, 2), length=length)

    @property
    def square(self) -> bool:
        return self.n_rows == self.n_cols

    @property
    def parts(self) -> int:
        return len(self.part_offsets) - 1

    @property
    def rhs_names(self) -> tuple[str, ...]:
        return self._names("rhs")

    @property
    def solution_names(self) -> tuple[str, ...]:
        return self._names("solution")

    @property
    def has_coordinates(self) -> bool:
        return "coordinates" in self._items

    @property
    def has_near_nullspace(self) -> bool:
        return "near_nullspace" in self._items

    @property
    def near_nullspace_vectors(self) -> int:
        return int(self._items["near_nullspace"].shape[1]) if self.has_near_nullspace else 0

    def read_rows(self, r0: int, r1: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stored rows ``r0:r1``.

        Returns
        -------
        indptr : ndarray, int64 [r1 - r0 + 1]
            Rebased: starts at 0.
        indices : ndarray, int32 or int64 [entries]
            Columns in stored numbering, strictly ascending inside each row.
        data : ndarray, float64 or float32 [entries]
        """
        self._check_slab(r0, r1)
        # The last one is the next rank's first.
        answered = r1 + 1 if r1 == self.n_rows else r1
        indptr = self._read("indptr", r0, r1 + 1, answered)
        with self.damage_first():
            checks.check_indptr(indptr, self.nnz, self.path, r0)
            begin, end = int(indptr[0]), int(indptr[-1])
            indptr -= begin
            indices = self._read("indices", begin, end)
            checks.check_columns(indices, indptr, self.n_cols, self.path, r0)
            data = self._read("data", begin, end)
            checks.check_finite(data, self.path, "/data")
        return indptr, indices, data

    def read_rhs(self, name: str, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of the right-hand side `name`: ``[r1 - r0]`` or ``[r1 - r0, k]``."""
        return self._read_vector("rhs", name, r0, r1)

    def read_solution(self, name: str, c0: int, c1: int) -> np.ndarray:
        """Entries ``c0:c1`` (stored columns) of the known solution for the right-hand side."""
        return self._read_vector("solution", name, c0, c1)

    def read_permutation(self, r0: int, r1: int) -> np.ndarray:
        """The user's row numbers of the stored rows ``r0:r1``, int64 ``[r1 - r0]``."""
        self._check_slab(r0, r1)
        rows = self._read("permutation", r0, r1)
        checks.check_range(
            rows, self.n_rows, self.path, "/permutation", "Rows count from 0, each occurs once."
        )
        return rows

    def read_column_permutation(self, c0: int, c1: int) -> np.ndarray:
        """The user's column numbers of the stored columns ``c0:c1``, int64 ``[c1 - c0]``."""
        if self.square:
            return self.read_permutation(c0, c1)
        self._check_slab(c0, c1, "columns")
        if "column_permutation" not in self._items:
            # Nothing in the file is as long as the number of columns it declares.
            check_fits(8 * (c1 - c0), self.path, "n_cols")
            return np.arange(c0, c1, dtype=np.int64)
        columns = self._read("column_permutation", c0, c1)
        remedy = "Columns count from 0, each occurs once."
        checks.check_range(columns, self.n_cols, self.path, "/column_permutation", remedy)
        return columns

    def read_coordinates(self, r0: int, r1: int) -> np.ndarray:
        """Points of the stored rows ``r0:r1``, float64 ``[r1 - r0, dimensions]``."""
        return self._read_of_rows("coordinates", r0, r1, "has no coordinates")

    def read_near_nullspace(self, r0: int, r1: int) -> np.ndarray:
        """What the matrix hardly changes: stored rows ``r0:r1``, float64 ``[r1 - r0, m]``."""
        return self._read_of_rows("near_nullspace", r0, r1, "has no near-nullspace")

    def _read_of_rows(self, name: str, r0: int, r1: int, absent: str) -> np.ndarray:
        self._check_slab(r0, r1)
        if name not in self._items:
            raise InputError(
                absent,
                file=self.path,
                field=f"/{name}",
                remedy=f"Give `partition` some with --{name.replace('_', '-')}.",
            )
        found = self._read(name, r0, r1).astype(np.float64, copy=False)
        checks.check_finite(found, self.path, f"/{name}")
        return found

    def compute_digest(self) -> str:
        """The content's SHA-256, computed anew by reading the whole file in blocks."""
        with MatrixFile(self.path) as file:
            return file._digest()

    def _digest(self) -> str:
        small = [name for name in ("part_offsets", "column_part_offsets") if has(self._file, name)]
        found = [
            *((name, self._file[name], partial(read_slab, self._file[name])) for name in small),
            *((name, item, partial(self._read, name)) for name, item in self._items.items()),
        ]
        each = ((name, item.shape, item.dtype, slab) for name, item, slab in found)
        return content_digest(self.n_rows, self.n_cols, each, self._digest_version)

    def _names(self, group: str) -> tuple[str, ...]:
        prefix = f"{group}/"
        return tuple(name[len(prefix) :] for name in self._items if name.startswith(prefix))

    def _read_vector(self, group: str, name: str, r0: int, r1: int) -> np.ndarray:
        self._check_slab(r0, r1, "rows" if group == "rhs" else "columns")
        field = f"{group}/{name}"
        if field not in self._items:
            what = "right-hand side" if group == "rhs" else "solution"
            there = ", ".join(self._names(group))
            raise InputError(
                f"there is no {what} by that name",
                file=self.path,
                field=f"/{field}",
                remedy=f"It has: {there}." if there else f"It has no {what} at all.",
            )
        values = self._read(field, r0, r1)
        checks.check_finite(values, self.path, f"/{field}")
        return values

    def _check_slab(self, start: int, stop: int, what: str = "rows") -> None:
        count = self.n_rows if what == "rows" else self.n_cols
        if not 0 <= start <= stop <= count:
            raise IndexError(f"{what} {start}:{stop} of a matrix of {count} {what}")
