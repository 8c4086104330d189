"""What a preconditioner is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any, ClassVar, Literal, TypeVar

import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.kernels.burst import CompiledApply
from hpc_sla.kernels.modes import entry
from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond.options import WithOptions
from hpc_sla.precond.workspace import Turns
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator
from hpc_sla.sparse.stored import StoredMatrix

Takes = Literal["entries", "diagonal", "anything"]
Self_ = TypeVar("Self_", bound="Preconditioner")
Apply = Callable[["Preconditioner", torch.Tensor, torch.Tensor], torch.Tensor]


class Preconditioner(WithOptions, ABC):
    """An approximation M of A whose inverse is cheap to apply.

    Made of its options, without a matrix; `on(A)` is the same set up on one, for any number of
    solves. What a solve is given without a matrix it sets up itself. Nothing it does at apply time
    leaves the rank's device.

    The parameters of a subclass's constructor are its options: it keeps each under its own name.
    """

    name: str
    """In strings; of one that is set up as a solve reports it, options included."""

    takes: ClassVar[Takes] = "entries"
    """What of A it is made of: "entries" of a square matrix, the "diagonal" of an operator, or
    whatever there is."""

    petsc: ClassVar[str] = ""
    """The PC type that does the same; empty for none."""

    symmetric: bool = True
    """Whether M^-1 is symmetric where A is: what cg and minres need."""

    transposable = False
    """Whether `apply_transpose` works; default: where there is one."""

    capturable: bool = False
    """Whether a CUDA graph can be made of applying it: it is work of the device alone, the same
    each time, on tensors that stay where they are. Not inherited by a class that applies it
    otherwise, outside of this package."""

    of_nonsymmetric = False
    """Whether A was seen not to be symmetric when it was made."""

    inverse: torch.Tensor | None = None
    """`[n_owned]`, where all that applying does is multiply by it: loops can fuse that."""

    _ready = False
    """Whether it is set up on a matrix."""

    _fits: tuple[int, torch.dtype | None, torch.device] | None = None

    _turns = Turns()
    """Threads that apply it take turns: it works in vectors that it keeps."""

    def __new__(cls, *args: Any, **options: Any) -> Preconditioner:
        """Refuses a matrix where options are meant."""
        if args and isinstance(args[0], StoredMatrix) and cls.__module__.startswith(__package__):
            raise InputError(
                f"{cls.__name__} is made of its options, without a matrix",
                field="precond",
                remedy=f"Write {cls.__name__}(...).on(A), or let the solve set it up",
            )
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        """What classes outside this package give is looked at, whoever applies them."""
        super().__init_subclass__()
        own = vars(cls)
        if "apply_transpose" in own and "transposable" not in own:
            cls.transposable = True
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            if "apply" in own and "capturable" not in own:
                cls.capturable = False
            for name in ("apply", "apply_transpose"):
                if name in own:
                    setattr(cls, name, _looked_at(own[name]))

    @property
    def needs_matrix(self) -> bool:
        """Whether it has yet to be set up on a matrix."""
        return not self._ready and type(self).set_up is not Preconditioner.set_up

    @entry
    @torch.no_grad()
    def on(self: Self_, A: Any) -> Self_:
        """A copy that is set up on a matrix; this one may serve for others. **Collective.**

        Parameters
        ----------
        A : DSparseMatrix, its transpose, or LinearOperator

        Raises
        ------
        InputError
            On every rank: a matrix that it cannot be made of, options that differ by rank.
        """
        operator = as_operator(A)
        with operator.world.agree(type(self).__name__, A=operator.shape, **self.agreed()):
            self.check_matrix(A)
        return self.made_on(A)

    def made_on(self: Self_, A: Any) -> Self_:
        """As `on`, where ranks have agreed and the matrix was checked. **Collective.**"""
        operator = as_operator(A)
        made = copy(self)
        made.name = str(self)
        made._belongs_to(operator.columns.n_owned, operator.dtype, operator.device)
        made.set_up(A)
        return made

    def set_up(self, A: Any) -> None:
        """Make what `apply` needs of a matrix, as `on` gave it. **Collective.**"""

    def agreed(self) -> dict[str, Any]:
        """What ranks must agree on, by name, to set it up. Local."""
        return self.options

    def check_matrix(self, A: Any) -> None:
        """Raise InputError where it cannot be set up on that matrix. Local."""
        name, entries = self.name.partition(":")[0], isinstance(A, DSparseMatrix)
        if self.takes == "entries" and not entries:
            raise InputError(
                f"{name} needs the entries of a matrix, and {type(A).__name__} has none",
                field="precond",
                remedy='Choose "none" or "jacobi", or pass a callable',
            )
        if self.takes == "entries" and not as_operator(A).square:
            raise InputError(
                f"{name} needs a square matrix",
                field="precond",
                remedy='Choose "none", or "jacobi" with method lsqr',
            )

    def _belongs_to(self, rows: int, dtype: torch.dtype | None, device: torch.device) -> None:
        """Say what `check` then holds this preconditioner to: it is set up, or about to be."""
        self._fits = rows, dtype, device
        self._turns, self._ready = Turns(), True

    def check(self, n_owned: int, dtype: torch.dtype | None, device: torch.device) -> None:
        """Raise InputError unless it goes with a matrix of these rows and such values. Local.

        One that never said what it belongs to (a user's own) goes with any, and so does any dtype
        with an operator that has none.
        """
        if self._fits is None:
            self._check_inverse(n_owned, dtype, device)
            return
        rows, mine, where = self._fits
        dtype, mine = dtype or mine, mine or dtype
        if (rows, mine, where) == (n_owned, dtype, device):
            self._check_inverse(n_owned, dtype, device)
            return
        raise InputError(
            f"the preconditioner {self.name} of {rows} rows of {mine} on {where} does not go "
            f"with {n_owned} rows of {dtype} on {device}",
            field="precond",
            remedy="Set it up with the matrix that is solved with",
        )

    def _check_inverse(self, n_owned: int, dtype: torch.dtype | None, device: torch.device) -> None:
        """Compiled loops multiply by it, and trust what it is."""
        if self.up_to_a_factor is not self:
            return  # they multiply by nothing
        found = self.inverse
        if found is None:
            return
        fits = found.shape == (n_owned,) and found.is_contiguous() and found.device == device
        if not fits or dtype not in (None, found.dtype):
            raise InputError(
                f"the preconditioner {self.name} has an inverse diagonal {tuple(found.shape)} of "
                f"{found.dtype} on {found.device}, or with strides, for {n_owned} rows of "
                f"{dtype} on {device}",
                field="precond",
            )

    @property
    def pointwise(self) -> bool:
        """Whether it is the identity or a multiplication by `inverse`."""
        return self.inverse is not None

    @property
    def token(self) -> tuple[object, ...]:
        """What says, object by object, which tensors applying it reads. Local."""
        return (self,)

    @property
    def up_to_a_factor(self) -> Preconditioner:
        """What does the same but for a positive factor, with less to read; this one if nothing."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Preconditioner:
        return self  # set up once, and not changed by use

    def describe(self) -> list[str]:
        """Lines about what it is made of, for `LinearSolver.view`. Local; replicated."""
        return []

    @abstractmethod
    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`M^-1 r`, for r `[n_owned]` or `[n_owned, k]`. **Collective** in general.

        May write to `out` and return it, or return another tensor (even `r` itself), so that
        nothing is copied for its own sake. Never changes r. Not differentiable.
        """

    def compiles(self, r: torch.Tensor) -> bool:
        """Whether there is a `compiled` form for vectors like r on this rank. Local."""
        return False

    def compiled(self, r: torch.Tensor) -> CompiledApply | None:
        """What `apply` does, for compiled loops over vectors like r; None where there is none.

        **Collective** at first.
        """
        return None

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`M^-T r`, for the adjoint system. Otherwise as `apply`."""
        raise HpcSlaError(
            f"the preconditioner {self.name} has no apply_transpose; "
            "give it one, or another preconditioner to the adjoint solve"
        )


class Wrapped(Preconditioner):
    """A user's callables. They are trusted to be symmetric where the method needs that."""

    def __init__(
        self,
        name: str,
        function: Callable[[torch.Tensor], torch.Tensor],
        transpose: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.name = name
        self._function = function
        self._transpose = transpose
        self.transposable = transpose is not None

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self._into(self._function(r), r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if self._transpose is None:
            return super().apply_transpose(r, out)
        return self._into(self._transpose(r), r, out)

    def _into(self, found: torch.Tensor, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        found = tensor_of(found, f"what the preconditioner {self.name} gave", r.dtype, r.device)
        check_result(self.name, found, r)
        copy_(out, found)
        return out


def _looked_at(apply: Apply) -> Apply:
    """A user's own `apply`, or `apply_transpose`, as it is but that what it gives is checked."""

    @wraps(apply)
    def checked(M: Preconditioner, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        found = apply(M, r, out)
        check_result(M.name, found, r)
        return found.contiguous()

    return checked


def check_result(name: str, found: object, like: torch.Tensor) -> None:
    """Raise ValueError unless a user's preconditioner gave what was needed. Local.

    It goes on to compiled loops, which trust shape, dtype and device. Local on purpose: one rank's
    wrong shape is a bug.
    """
    needed = f"where {tuple(like.shape)} {like.dtype} on {like.device} is needed"
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"the preconditioner {name} gave a {type(found).__name__} {needed}")
    if (found.shape, found.dtype, found.device) != (like.shape, like.dtype, like.device):
        raise ValueError(
            f"the preconditioner {name} gave {tuple(found.shape)} {found.dtype} on "
            f"{found.device} {needed}"
        )


def transposed(M: Preconditioner) -> Preconditioner:
    """`M^T`: the set-up of M, its `apply` and `apply_transpose` exchanged. Local."""
    if isinstance(M, _TransposedPreconditioner):
        return M.of
    return M if M.pointwise else _TransposedPreconditioner(M)


class _TransposedPreconditioner(Preconditioner):
    def __init__(self, M: Preconditioner) -> None:
        self.of = M
        self.name, self.symmetric, self.transposable = M.name, M.symmetric, True

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        return self.of.capturable

    @property
    def token(self) -> tuple[object, ...]:
        return (*self.of.token, "transposed")

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.of.apply_transpose(r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.of.apply(r, out)
