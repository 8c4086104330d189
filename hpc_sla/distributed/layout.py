"""RowLayout: who owns which rows, and the vector operations that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import host_array, tensor_of
from hpc_sla.distributed.keep_in_graph import end_of, keep_in_graph
from hpc_sla.distributed.row_order import (
    Order,
    check_order,
    check_together,
    digest,
    made,
    part_of_order,
)
from hpc_sla.distributed.shared import Shared
from hpc_sla.distributed.user_order import UserOrder
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import entry
from hpc_sla.partition.offsets import even_offsets


class RowLayout(Shared):
    """Which rows of a global vector or matrix each rank owns.

    Rows have two numberings. The *user's* is that of the matrix they came with. The *stored*
    one is contiguous by rank: rank r owns stored rows `offsets[r]` to `offsets[r + 1]`.
    A distributed vector is a plain tensor of this rank's owned entries, `[n_owned]` or
    `[n_owned, k]`, in stored order.

    Parameters
    ----------
    world : World
    offsets : int64 array [size + 1]
        Replicated. Ranks may be empty.
    rows : int64 array [n_owned], optional
        Per rank: the user's row of each owned row. Default: the stored rows themselves.
    code : int, optional
        Replicated: what tells `rows` of all ranks from those of another layout, see `numbered`.

    Attributes
    ----------
    n_global, n_owned, start : int
        Rows in all, owned by this rank, and the first owned stored row.
    rows : int64 array [n_owned]
    order : (int, int) or None
        Replicated. Two layouts of one World whose orders are equal have the same rows in the same
        order on every rank; None where it is not known.
    """

    def __init__(
        self,
        world: World,
        offsets: np.ndarray,
        rows: np.ndarray | None = None,
        code: int | None = None,
    ) -> None:
        self.world = world
        self.offsets = np.asarray(host_array(offsets), dtype=np.int64)
        self.start = int(self.offsets[world.rank])
        self.n_owned = int(self.offsets[world.rank + 1]) - self.start
        self.n_global = int(self.offsets[-1])
        self._rows = rows = host_array(rows)
        self._blocked: dict[int, RowLayout] = {}
        if rows is None or world.size == 1:
            code = part_of_order(self.start, rows)
        self._code = code
        self.order: Order | None = None if code is None else (digest(self.offsets), code)

    @classmethod
    def numbered(cls, world: World, offsets: np.ndarray, rows: np.ndarray) -> RowLayout:
        """One whose order is known. **Collective.** Parameters as of the class."""
        part = part_of_order(int(offsets[world.rank]), rows)
        # 52 bits of each rank, in a sum that may wrap around.
        code = int(world.sums(np.array([part], dtype=np.int64))[0])
        return cls(world, offsets, rows if code else None, code)

    def blocked(self, k: int) -> RowLayout:
        """That of k unknowns at each row, one after another. **Collective** the first time."""
        if k == 1:
            return self
        if k not in self._blocked:
            rows = self.rows[:, None] * k + np.arange(k)
            self._blocked[k] = RowLayout.numbered(self.world, self.offsets * k, rows.reshape(-1))
        return self._blocked[k]

    @classmethod
    def even(cls, n_global: int, world: World) -> RowLayout:
        """Contiguous blocks whose sizes differ by at most one row. Local.

        Raises
        ------
        InputError
            `n_global` is not a number of rows.
        """
        whole = isinstance(n_global, (int, np.integer)) and not isinstance(n_global, bool)
        if not whole or n_global < 0:
            raise InputError(
                f"{n_global!r} is not a number of rows",
                field="n_global",
                remedy="Give a whole number, 0 or more",
            )
        return cls(world, even_offsets(n_global, world.size))

    @property
    def rows(self) -> np.ndarray:
        if self._rows is None:
            return np.arange(self.start, self.start + self.n_owned, dtype=np.int64)
        return self._rows

    def same(self, other: RowLayout) -> bool:
        """Whether this rank has the same rows in the same order in both. Local.

        Replicated where both orders are known.
        """
        if None not in (self.order, other.order):
            return self.order == other.order
        same = np.array_equal(self.offsets, other.offsets)
        return same and np.array_equal(self.rows, other.rows)

    def fits(self, other: RowLayout) -> bool:
        """Whether vectors of one may be the other's, as far as is known. Local; replicated."""
        if None in (self.order, other.order):
            return np.array_equal(self.offsets, other.offsets)
        return self.order == other.order

    @property
    def natural(self) -> bool:
        """Whether the stored rows are known to be the user's. Local; replicated."""
        return self._code == 0

    # Inner products

    @entry
    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The inner product of two distributed vectors. **Collective.** Differentiable.

        Parameters
        ----------
        x, y : torch.Tensor [n_owned] or [n_owned, k]
            Per rank.

        Returns
        -------
        torch.Tensor [] or [k]
            Replicated; one value a column.
        """
        x, y = self._checked(x, ordered=False), self._checked(y, "y", ordered=False)
        check_together(x, y, "y")
        if x.dim() != y.dim():  # torch would make a product of every entry with every one
            raise InputError(
                f"shapes {tuple(x.shape)} and {tuple(y.shape)} do not go together", field="y"
            )
        return self.world._all_sum((x * y).sum(dim=0), self.n_owned)

    @entry
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm of a distributed vector, one a column. **Collective.**

        Differentiable away from zero; at zero the gradient is 0, as in torch.
        """
        x = self._checked(x, ordered=False)
        square = self.dot(x, x)
        # sqrt has an infinite slope at 0, which would turn a zero cotangent into NaN.
        nonzero = square != 0  # true for NaN, which must come out as NaN
        return torch.where(nonzero, torch.where(nonzero, square, 1.0).sqrt(), 0.0)

    # Whole vectors, in the user's row order

    @cached_property
    def _user_order(self) -> UserOrder:
        return UserOrder(self.world, self.offsets, self._rows)

    @entry
    def scatter(self, full: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """Give each rank its entries of a vector that rank 0 holds. **Collective.**

        Parameters
        ----------
        full : tensor or array [n_global] or [n_global, k], in the user's row order
            On rank 0; ignored elsewhere.

        Returns
        -------
        torch.Tensor [n_owned] or [n_owned, k]
            Per rank, on the rank's device, of `full`'s dtype.

        Raises
        ------
        InputError
            On every rank, where `full` has another length.
        """
        array: np.ndarray | None = None
        with self.world.agree("scatter"):
            if self.world.rank == 0:
                found = np.asarray(host_array(full))
                array = np.ascontiguousarray(found)
                if found.dtype.kind not in "fiubc" or found.shape[:1] != (self.n_global,):
                    got = "nothing" if full is None else f"shape {found.shape}"
                    raise InputError(
                        f"scatter needs {self.n_global} entries on rank 0 and got {got}",
                        field="full",
                    )
        return made(torch.from_numpy(self._user_order.scatter(array)).to(self.world.device), self)

    @entry
    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        """The whole vector on rank 0, in the user's row order. **Collective.** Not differentiable.

        Returns
        -------
        torch.Tensor [n_global] or [n_global, k] on the CPU
            On rank 0; None elsewhere.
        """
        found = self._user_order.gather(self._as_array(x))
        return None if found is None else torch.from_numpy(found)

    @entry
    def allgather(self, x: torch.Tensor) -> torch.Tensor:
        """The whole vector on every rank, in the user's row order. **Collective.**

        Not differentiable. Every rank then holds n_global entries: for small problems and checks.
        """
        full = self.gather(x)
        return torch.from_numpy(self.world.comm.bcast(None if full is None else full.numpy()))

    @entry
    def to_petsc(self, x: torch.Tensor) -> Any:
        """A distributed vector as a petsc4py Vec. **Collective.** See `distributed.petsc`."""
        from hpc_sla.distributed.petsc import to_petsc  # optional

        return to_petsc(x, self)

    @entry
    def from_petsc(self, vec: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """A petsc4py Vec as a distributed vector. **Collective.** See `distributed.petsc`."""
        from hpc_sla.distributed.petsc import from_petsc  # optional

        return from_petsc(vec, self, dtype)

    @property
    def home(self) -> tuple[int, int]:
        """This rank's even block of the user's rows: first, and one past the last. Local."""
        return self._user_order.home

    @entry
    def move(self, x: torch.Tensor, other: RowLayout) -> torch.Tensor:
        """A vector of this layout in the order of another of as many rows. **Collective.**

        Differentiable, any number of times. No rank holds more than its share of either, and of
        the user's rows.

        Parameters
        ----------
        x : torch.Tensor [n_owned] or [n_owned, k]
            Per rank; it requires a gradient on all ranks or on none.
        other : RowLayout
            Replicated: on the same World.

        Returns
        -------
        torch.Tensor [other.n_owned] or [other.n_owned, k]
            Per rank.

        Raises
        ------
        InputError
            On every rank: a layout of another World or of another number of rows.
        """
        with self.world.agree("move"):
            check_layout(other, self.world, self.n_global, "other")
            x = self._checked(x)
        return made(_Move.apply(x, end_of(x), self, other), other)

    def user_blocks(self, x: torch.Tensor) -> Iterator[tuple[int, np.ndarray]]:
        """Each rank an even block of the user's rows, a slab at a time. **Collective.**

        Ranks exchange rows, and none has a part of its own in it. A slab has a few MiB, and nobody
        holds more than three of them beside its own entries.

        Yields
        ------
        (int, array [m] or [m, k])
            Per rank: the first row of the slab, and the slab; as many on every rank, some of which
            may be empty. `from_user_blocks` says which block is whose.
        """
        yield from self._user_order.blocks(self._as_array(x))

    def _as_array(self, x: torch.Tensor) -> np.ndarray:
        """A distributed vector to be gathered. **Collective.**"""
        x = self._checked(x)
        with self.world.agree("gather", x=x):
            pass
        return np.ascontiguousarray(x.detach().cpu().numpy())

    @entry
    def from_user_blocks(self, read: Callable[[int, int], np.ndarray]) -> torch.Tensor:
        """A vector of which each rank reads an even block of the user's rows. **Collective.**

        The way back from `user_blocks`: beside its own entries a rank holds some MiB.

        Parameters
        ----------
        read : callable(start, stop) -> array [stop - start] or [stop - start, k]
            Local; called for some rows after others, at first for none, to see what they are. An
            `InputError` that it raises is raised on every rank.

        Returns
        -------
        torch.Tensor [n_owned] or [n_owned, k]
            Per rank, on the rank's device.
        """
        owned = self._user_order.from_blocks(read)
        return made(torch.from_numpy(owned).to(self.world.device), self)

    def _checked(
        self, x: Any, field: str = "x", dtype: torch.dtype | None = None, ordered: bool = True
    ) -> torch.Tensor:
        """A distributed vector, made of an array or a list where that is given. Local."""
        x = tensor_of(x, field, dtype, self.world.device)
        # Local on purpose: one rank's wrong shape is a bug that must stop the job, and a check
        # that communicates would cost a reduction in every dot product.
        self.world.check_open()
        if x.shape[:1] != (self.n_owned,):
            raise InputError(
                f"a distributed vector has this rank's {self.n_owned} owned entries "
                f"as its first dimension; got shape {tuple(x.shape)}",
                field=field,
            )
        if ordered:
            check_order(x, self, field)
        self.world.forgotten.own(x)
        return x

    def __reduce_ex__(self, protocol: Any) -> Any:
        return RowLayout, (self.world, self.offsets, self._rows, self._code)  # the World may refuse

    def __repr__(self) -> str:
        return f"RowLayout(n_global={self.n_global}, n_owned={self.n_owned}, start={self.start})"


class _Move(Function):
    """By way of even blocks of the user's rows."""

    @staticmethod
    def forward(
        x: torch.Tensor, end: torch.Tensor | None, here: RowLayout, there: RowLayout
    ) -> torch.Tensor:
        owned = np.ascontiguousarray(x.detach().cpu().numpy())
        found = there._user_order.from_home(here._user_order.to_home(owned))
        return torch.from_numpy(found).to(x.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, end, ctx.here, ctx.there = inputs
        ctx.save_for_backward(end)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c = keep_in_graph(grads[0], *ctx.saved_tensors)
        return _Move.apply(c, end_of(c), ctx.there, ctx.here), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _Move.apply(tangents[0], end_of(tangents[0]), ctx.here, ctx.there)


def check_layout(given: Any, world: World, n: int | None, field: str) -> RowLayout:
    """`given`, if it is the layout of n rows (any number: None) on the ranks of `world`. Local."""
    if not isinstance(given, RowLayout):
        raise InputError(
            f"a {type(given).__name__} is not a RowLayout",
            field=field,
            remedy="Pass the layout of a matrix, such as A.layout",
        )
    if given.world is not world:
        raise InputError(
            "belongs to another World", field=field, remedy="Make both matrices on one World"
        )
    if n is not None and given.n_global != n:
        raise InputError(
            f"is of {given.n_global} rows, and the matrix has {n} there",
            field=field,
            remedy="Pass the layout of a matrix of as many",
        )
    return given
