"""What a preconditioner is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond.workspace import Turns

Apply = Callable[["Preconditioner", torch.Tensor, torch.Tensor], torch.Tensor]


class Preconditioner(ABC):
    """An approximation M of A whose inverse is cheap to apply.

    Set up once, used by any number of solves. Nothing it does at apply time leaves the rank's
    device.
    """

    name: str
    """As a solve reports it, options included."""

    symmetric: bool
    """Whether M^-1 is symmetric where A is: what cg and minres need."""

    of_nonsymmetric = False
    """Whether A was seen not to be symmetric when it was made."""

    inverse: torch.Tensor | None = None
    """`[n_owned]`, where all that applying does is multiply by it: loops can fuse that."""

    def __init_subclass__(cls) -> None:
        """What classes outside this package give is looked at, whoever applies them."""
        super().__init_subclass__()
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            for name in ("apply", "apply_transpose"):
                if name in vars(cls):
                    setattr(cls, name, _looked_at(vars(cls)[name]))

    _fits: tuple[int, torch.dtype, torch.device] | None = None

    _turns = Turns()
    """Threads that apply it take turns: it works in vectors that it keeps."""

    def _belongs_to(self, n_owned: int, like: torch.Tensor) -> None:
        """To be said in a constructor: what `check` then holds this preconditioner to."""
        self._fits = (n_owned, like.dtype, like.device)
        self._turns = Turns()

    def check(self, n_owned: int, dtype: torch.dtype | None, device: torch.device) -> None:
        """Raise InputError unless it goes with a matrix of these rows and such values. Local.

        One that never said what it belongs to (a user's own) goes with any, and so does any dtype
        with an operator that has none.
        """
        if self._fits is None:
            self._check_inverse(n_owned)
            return
        rows, mine, where = self._fits
        dtype = dtype or mine
        if (rows, mine, where) == (n_owned, dtype, device):
            return
        raise InputError(
            f"the preconditioner {self.name} of {rows} rows of {mine} on {where} does not go "
            f"with {n_owned} rows of {dtype} on {device}",
            field="precond",
            remedy="Set it up with the matrix that is solved with",
        )

    def _check_inverse(self, n_owned: int) -> None:
        if self.inverse is not None and (
            self.inverse.shape != (n_owned,) or not self.inverse.is_contiguous()
        ):
            raise InputError(
                f"the preconditioner {self.name} has an inverse diagonal of shape "
                f"{tuple(self.inverse.shape)}, or with strides, for {n_owned} rows",
                field="precond",
            )

    @property
    def pointwise(self) -> bool:
        """Whether it is the identity or a multiplication by `inverse`."""
        return self.inverse is not None

    transposable = True
    """Whether `apply_transpose` works."""

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

    @abstractmethod
    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`M^-T r`, for the adjoint system. Otherwise as `apply`."""


class Identity(Preconditioner):
    """No preconditioner."""

    name = "none"
    symmetric = True
    pointwise = True

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return r

    apply_transpose = apply


class Wrapped(Preconditioner):
    """A user's callables. They are trusted to be symmetric where the method needs that."""

    symmetric = True

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
            raise HpcSlaError(
                f"the preconditioner {self.name} has no apply_transpose; "
                "give it one, or another preconditioner to the adjoint solve"
            )
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
