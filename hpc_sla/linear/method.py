"""What a Krylov method is to the driver that runs it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels.accuracy import examine
from hpc_sla.kernels.burst import Distributed, StepKernel
from hpc_sla.kernels.fused import Left
from hpc_sla.kernels.vectors import Scalar, copy_
from hpc_sla.linear.accuracy import Accuracy, accuracy, assess, room
from hpc_sla.linear.info import Status, root
from hpc_sla.linear.scalars import Flag, Scalars
from hpc_sla.precond import Preconditioner
from hpc_sla.precond.options import WithOptions
from hpc_sla.sparse.operator import Operator


@dataclass
class System:
    """A x = b, with all that a method needs to work on it (per rank).

    Attributes
    ----------
    operator : Operator
    precond : Preconditioner
    b : torch.Tensor [n_owned] or [n_owned, k]
        Not modified.
    x : torch.Tensor [n_columns_owned] or [n_columns_owned, k]
        The iterate, updated in place.
    r : torch.Tensor like b
        b - A x where a method starts; its own from then on.
    target : list of float [k]
        Replicated. Stop where ||b - A x||_2 is no larger, by columns.
    scalars : Scalars
    dtol : float
        Replicated. Give up where ||b - A x||_2 has risen to so many times its start.
    ceiling : sequence of float [k]
        Replicated. As long as it is below that, by columns, it has not.
    least_squares : bool
        Replicated. Stop by `M^-T A^T (b - A x)` instead.
    b_norms, measures : sequence of float [k]
        Replicated: ||b||_2, and the norms that targets are relative to.
    scales : sequence of float [k]
        Replicated: powers of two that b was divided by, and x is.
    compiled : bool
        Replicated. Whether the method's compiled steps serve it.
    rtol : float
        Replicated: of what `accuracy` is told.
    thorough : bool
        Replicated. Whether to know how good x is, beside its residual.
    found : list of Accuracy or None
        That of the present x, where it is known.
    spare : sequence of torch.Tensor like r
        What nobody reads once the method has come to an end: for `examine` to write to.
    """

    operator: Operator
    precond: Preconditioner
    b: torch.Tensor
    x: torch.Tensor
    r: torch.Tensor
    target: list[float]
    scalars: Scalars
    least_squares: bool = False
    dtol: float = math.inf
    ceiling: Sequence[float] = ()
    b_norms: Sequence[float] = ()
    measures: Sequence[float] = ()
    scales: Sequence[float] = ()
    compiled: bool = False
    rtol: float = 0.0
    thorough: bool = False
    found: list[Accuracy] | None = None
    _matrix: Distributed | None = None
    spare: Sequence[torch.Tensor] = ()

    @property
    def matrix(self) -> Distributed:
        """A as compiled loops take it. **Collective**, at first."""
        if self._matrix is None:
            self._matrix = self.operator.distributed(self.r)
        return self._matrix

    def again(self, b: torch.Tensor, x: torch.Tensor) -> System:
        """For another right-hand side and the values that A has now. Local."""
        self.b, self.x, self.found, self._matrix = b, x, None, None
        return self

    def rest(self) -> None:
        """Hold no vector but what it has made, which is kept. Local."""
        self.b = self.x = self.r

    def residual(self) -> Scalar:
        """`r = b - A x`, and the square of the norm to stop by. **Collective.**"""
        self._subtract()
        return self.measure()

    def examine(self) -> list[float]:
        """The norms of what `residual` gives the squares of. **Collective.**

        Where that is wanted, with what is to be `found`: in one exchange and two reductions, and in
        one call where that is compiled.
        """
        if self.compiled:
            scale = room(self.spare, 0, self.r) if self.thorough else None
            self.operator.world.check_open()
            told = examine(self.matrix, self.b, self.x, self.r, scale)
            if scale is None:
                self.found = None
                return [root(float(told[0, 0]))]
            spare = self.spare
            self.found = assess(told, self.operator, self.b, self.r, scale, self.rtol, spare)
        elif self.thorough:
            self._subtract()
            system = self.operator, self.b, self.x, self.r
            self.found = accuracy(*system, self.rtol, again=True, spare=self.spare)
        else:
            return norms_of(self.residual())
        return [one.norm for one in self.found]

    def _subtract(self) -> None:
        """**Collective.**"""
        self.found = None
        self.operator(self.x, self.r)
        torch.sub(self.b, self.r, out=self.r)

    def measure(self) -> Scalar:
        """The square of the norm to stop by, of the present r. **Collective.**"""
        judged = self.r
        if self.least_squares:
            judged, work = torch.empty_like(self.x), torch.empty_like(self.x)
            self.transposed_product(self.r, judged, work)
        (square,) = self.scalars.burst_dots((judged, judged))
        return square

    def transposed_product(self, y: torch.Tensor, out: torch.Tensor, work: torch.Tensor) -> None:
        """`out = M^-T A^T y`. **Collective.** Overwrites `work`, which is like x, as out is."""
        self.operator.adjoint(y, work)
        found = self.precond.apply_transpose(work, out)
        if found is not out:
            copy_(out, found)


Self_ = TypeVar("Self_", bound="Method")


class Method(WithOptions, ABC):
    """A Krylov method with its options; and, once it is put to work `on` a system, its state.

    No step looks at a number, so that on an accelerator the host need not wait for one. What is
    finished is frozen by the method itself, column by column: see `live`.

    The parameters of a subclass's constructor are its options: it keeps each under its own name.
    """

    solves: ClassVar[Literal["spd", "symmetric", "square", "any"]]
    """The matrices it is made for. The first two need a symmetric preconditioner, too."""

    side: ClassVar[Literal["left", "right", "split"]]
    """Where the preconditioner acts; "split" is symmetrically."""

    petsc: ClassVar[str] = ""
    """The KSP type that does the same; empty for none."""

    transposes: ClassVar[bool] = False
    """Whether a step applies the transposes of the matrix and of the preconditioner."""

    carried: tuple[str, ...] = ()
    """Attributes that hold the scalars a step hands to the next."""

    kept: tuple[str, ...] = ("r",)
    """Attributes that hold the vectors, like b, that a step hands to the next."""

    scale_free: ClassVar[bool] = False
    """Whether M and a positive multiple of it give the same iterates. Not inherited."""

    kept_like_x: tuple[str, ...] = ()
    """The same, of vectors like x; x itself aside."""

    spent: tuple[str, ...] = ()
    """Attributes that hold vectors like b which nobody reads from `finish` to where `start` writes
    them, whatever they hold by then. Not inherited."""

    capturable = False
    """Whether steps are all alike, and touch only memory that stays where it is."""

    compiled: ClassVar[StepKernel | None] = None
    """The same steps in C, where there are any: see `CompiledSteps`."""

    current = True
    """Whether x is up to date after every step, and not only after `finish`."""

    # Of a method at work, from here on.

    live: Flag
    """Which right-hand sides still iterate."""
    system: System
    operator: Operator
    precond: Preconditioner
    scalars: Scalars
    x: torch.Tensor
    r: torch.Tensor
    target: Scalar

    def __copy__(self: Self_) -> Self_:
        made = object.__new__(type(self))  # copy.copy's own way takes ten times as long
        vars(made).update(vars(self))
        return made

    @property
    def needs_symmetric(self) -> bool:
        """Whether A and M must be symmetric."""
        return self.solves in ("spd", "symmetric")

    def least_of(self, M: Preconditioner) -> Preconditioner:
        """M, or what serves as well with less to read. Local."""
        free = vars(type(self)).get("scale_free", False)  # not of a class that changes one
        return M.up_to_a_factor if free else M

    def room(self, operator: Operator, columns: int) -> int:
        """How many numbers it keeps on this rank for its options' sake. Local."""
        return 0

    def on(self: Self_, system: System) -> Self_:
        """A copy at work on a system, with vectors of its own. Local."""
        state = self.__copy__()
        state.system = system
        state.operator, state.precond = system.operator, system.precond
        state.scalars, state.r = system.scalars, system.r
        state.again()
        state.allocate()
        return state

    def again(self) -> None:
        """Be at work on the system as it is now, in the vectors that are there. Local."""
        self.x, self.target = self.system.x, self.scalars.scalar(self.system.target)

    def allocate(self) -> None:
        """Make the vectors that it works in. Local."""

    @abstractmethod
    def start(self, active: Flag) -> None:
        """Begin anew from x and its residual r, for the active columns. **Collective.**

        Records a row, as a step does.
        """

    @abstractmethod
    def step(self) -> None:
        """One iteration; of a column no longer live, nothing. **Collective.**

        Records a row of scalars, which `norm` and `classify` understand.
        """

    def turn(self) -> None:
        """Get ready for the next step, if there is more to do than steps do. **Collective.**"""

    # As a graph, see `Bursts`

    def steady(self, count: int) -> bool:
        """Whether the next so many steps are like any others. Local; replicated."""
        return True

    def replayed(self, count: int) -> None:
        """Take note of so many steps that a graph has done. Local."""

    def resting(self) -> list[torch.Tensor]:
        """Where the step after the next leaves what is `carried`, in that order. Local.

        Empty where that is in new tensors each time.
        """
        return []

    def keep(self, which: Flag) -> None:
        """Go on with these columns only. Local."""
        self.live = self.live & which

    def finish(self) -> None:
        """Bring x up to date. **Collective.**"""

    # To go on elsewhere: all that a step hands to the next, but x

    @property
    def state_is_small(self) -> bool:
        """Whether the state is as small now as it ever is. Replicated."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a step hands to the next, by name. **Collective.**

        Tensors are this rank's part of vectors like b (or like x, those of `kept_like_x`), as they
        are now. Arrays are the same on every rank, in double precision.

        Raises
        ------
        InputError
            On every rank: the class does not say what that is.
        """
        own = type(self).__module__.partition(".")[0] != __name__.partition(".")[0]
        if own and "live" in vars(self) and "live" not in self.carried:
            raise InputError(
                f"{self.name} does not say what a step hands to the next, and cannot be saved",
                field="method",
                remedy="Name its scalars, `live` too, in `carried`, and its vectors in `kept`",
            )
        numbers = {
            name: np.array(values_of(getattr(self, name)), dtype=np.float64)
            for name in self.carried
        }
        names = (*self.kept, *self.kept_like_x)
        return {**numbers, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; x has been set. **Collective.**

        Raises
        ------
        ValueError
            On every rank: it does not fit.
        """
        for name in self.carried:
            values = state[name].tolist()
            make = self.scalars.flag if name == "live" else self.scalars.scalar
            setattr(self, name, make([bool(v) if name == "live" else v for v in values]))
        for name in (*self.kept, *self.kept_like_x):
            fill(getattr(self, name), state[name])

    @abstractmethod
    def norm(self, row: Sequence[float]) -> float:
        """The method's own residual 2-norm in a recorded row of one column."""

    @abstractmethod
    def classify(self, row: Sequence[float], target: float) -> Status | None:
        """What a recorded row says: a status, or None to go on.

        `converged` is a claim, to be checked with the true residual.
        """


class TwoSets:
    """Room for the scalars that a step on a device leaves, and for those of the next, in turn.

    Parameters
    ----------
    like : torch.Tensor
        Their dtype and device.
    count : int
        Numbers of a step.
    """

    def __init__(self, like: torch.Tensor, count: int) -> None:
        self._sets = [
            (like.new_empty(count), torch.empty((), dtype=torch.bool, device=like.device))
            for _ in range(2)
        ]
        self._which = 0

    def next(self, row: torch.Tensor) -> Left:
        """Where the next step leaves what it does, with a row to record in. Local."""
        self._which = 1 - self._which
        return Left(*self._sets[self._which], row)

    @property
    def present(self) -> list[torch.Tensor]:
        """The numbers and the flag that were left last, or will be by the step after the next."""
        numbers, live = self._sets[self._which]
        return [*numbers.unbind(), live]


def check_count(method: str, name: str, value: int) -> None:
    """Raise InputError unless an option is a whole number above 0. Local."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        wrong = "is not positive" if whole else "is not a whole number"
        raise InputError(f"{name}={value!r} {wrong}", field=f"method: {method}")


def fill(out: torch.Tensor, vector: torch.Tensor) -> None:
    """`out = vector`, which must have its shape. Local."""
    if vector.shape != out.shape:
        raise ValueError(f"shape {tuple(vector.shape)} where {tuple(out.shape)} is needed")
    out.copy_(vector)


def values_of(scalar: Scalar) -> list[float]:
    """A scalar as the host's numbers, one a right-hand side: waits for the device."""
    return scalar.reshape(-1).tolist() if isinstance(scalar, torch.Tensor) else [scalar]


def norms_of(square: Scalar) -> list[float]:
    """The host's norms of a scalar's squares: waits for the device."""
    return [root(value) for value in values_of(square)]
