"""One solve by a Krylov method that is set up: from b to x, and what is to be said of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from copy import copy
from typing import TypeVar

import numpy as np
import torch

from hpc_sla.checkpoint.observer import Observer
from hpc_sla.errors import InputError
from hpc_sla.kernels.native import DTYPES
from hpc_sla.kernels.vectors import Scalar, dense
from hpc_sla.linear.accuracy import accuracy, judge
from hpc_sla.linear.bursts import CompiledSteps, serve
from hpc_sla.linear.choose import GIVES_UP, loosest_rtol
from hpc_sla.linear.driver import Callback, KrylovLoop
from hpc_sla.linear.info import SolveInfo, summarise
from hpc_sla.linear.kept import Kept
from hpc_sla.linear.ladder import Rung
from hpc_sla.linear.method import Method, System, norms_of, values_of
from hpc_sla.linear.methods import check_precond, check_room, make_method
from hpc_sla.linear.outcome import Outcome, info_of
from hpc_sla.linear.prepared import Borrowed, at_work
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.linear.unconverged import GOOD_ENOUGH
from hpc_sla.observe import log
from hpc_sla.precond import Jacobi, Preconditioner
from hpc_sla.precond.decoupled import DecoupledRows
from hpc_sla.precond.jacobi import positive
from hpc_sla.sparse.operator import Operator

_SUSPICIOUS = ("max_iterations", "breakdown", "stagnated", "indefinite", "diverged")
"""Statuses that a matrix may have caused which is not symmetric."""

SQUARES = {torch.float64: 1e-16, torch.float32: 1e-16}
"""By the dtypes there are solvers for: b . b outside this range and its inverse would lose a
residual's square to under- or overflow, in float32 as multigrid may work in it for either."""

LOOK, LOOK_SOON = 24, 4
"""Iterations that a GPU may run ahead, even numbers: the second where each takes as long as many
looks, and those that run on beyond the end are dear."""

Self_ = TypeVar("Self_", bound="Iteration")


class Iteration:
    """A matrix, a method and a preconditioner that is set up, with the tolerances of a solve.

    Attributes
    ----------
    operator : Operator
    precond : Preconditioner
    method : Method
    rungs : sequence of Rung
        What to go on with, one after another, where `method` with `precond` fails or does not pay,
        which were chosen and not asked for.
    patience : int or None
        Iterations that they are worth while there are rungs left; None for any number.
    reason : str
        Why they were chosen, and what was tried before them.
    rtol, atol, dtol : float
    loosest : float
        The relative residual up to which a solution that rounding stops has converged.
    max_iterations : int
    thorough : bool
        Whether the accuracy of each solution is wanted, and not only that of a failed one.
    given : DecoupledRows or None
        Rows that give their unknowns to the others: x starts from these values.
    callback : callable(iteration, residual_norm) or None
    observer : Observer or None
    graphs : Borrowed or None
        What solves before left for this one.
    kept : Kept
        Shared by copies. What a solve leaves for the next.
    first : (float, bool) or None
        Replicated. b . b of the next `run`, and whether compiled steps serve it, where ranks met
        in any case.
    """

    operator: Operator
    precond: Preconditioner
    method: Method
    rungs: Sequence[Rung] = ()
    patience: int | None = None
    reason: str = ""
    rtol: float
    atol: float
    dtol: float
    loosest: float = 0.0
    max_iterations: int
    thorough: bool = False
    given: DecoupledRows | None = None
    callback: Callback | None = None
    observer: Observer | None = None
    kept: Kept
    first: tuple[Scalar, bool] | None = None
    graphs: Borrowed | None = None

    def __copy__(self: Self_) -> Self_:
        made = object.__new__(type(self))  # copy.copy's own way takes ten times as long
        vars(made).update(vars(self))
        return made

    def run(
        self, b: torch.Tensor, x0: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, SolveInfo]:
        """The solve alone: no gradient, no log, and nothing checked. **Collective.**

        For solvers that are built on this one.

        Parameters
        ----------
        b, x0 : torch.Tensor
            Per rank; as of `solve`, in the dtype and on the device of the matrix.
        """
        b = dense(b.detach())
        x0 = None if x0 is None else x0.detach()
        self._resume()
        before: Sequence[Outcome] = ()
        least = math.inf if x0 is not None else 1.0  # the residual of 0
        while True:
            system, start, steps = self._system(b, x0)
            with at_work(self.method, system, self.graphs, steps) as (method, bursts, stays):
                loop = KrylovLoop(
                    *(method, system, start, self.max_iterations, self._callback(system), before),
                    *(self.patience if self.rungs else None, bursts, steps),
                )
                loop.rungs_left = len(self.rungs)
                if self.observer is not None:
                    self.observer.attach(loop)
                before = loop.run()
                x, info = self._summary(system, before, b.dim() == 1)
                x = _copy(x) if stays else x
            if loop.compiled is not None:
                self.kept.leave(self.method, loop.compiled)
            rounded = info.at_rounding and info.relative_residual <= GOOD_ENOUGH
            failed = loop.given_up or info.status in GIVES_UP
            if info.converged or rounded or not (self.rungs and failed):
                info.reason = self.reason
                return x, info
            if info.relative_residual <= least and not info.at_rounding:
                x0, least = x, info.relative_residual
            self.climb("is too slow" if loop.given_up else f"ended {info.status}")

    def climb(self, failed: str = "") -> None:
        """Take the next rung that can be set up. **Collective.**

        Parameters
        ----------
        failed : str
            What became of the one before; nothing of the first.

        Raises
        ------
        InputError
            On every rank: the last cannot.
        """
        self.first = None  # it was of another method
        while True:
            rung, self.rungs = self.rungs[0], self.rungs[1:]
            self.reason += f"; that {failed}: {rung}" if failed else f"{rung.why}: {rung}"
            self.patience = rung.patience
            try:
                self.take(rung)
            except InputError as error:
                if not self.rungs:
                    raise
                failed = f"cannot be set up ({error.problem})"
            else:
                if failed:
                    log.emit("climbed", reason=self.reason)
                return

    def take(self, rung: Rung) -> None:
        """Go on with a rung. **Collective.**"""
        raise NotImplementedError

    def by(self: Self_, name: str) -> Self_:
        """The same by another method, with a preconditioner fit for it. **Collective.**"""
        other = copy(self)
        other.use(make_method(name))
        return other

    def use(self, method: Method) -> None:
        """Take this method. **Collective.**

        Raises
        ------
        InputError
            On every rank, where the preconditioner does not go with it.
        """
        with self.operator.world.agree():
            check_precond(method, self.precond)
        if isinstance(self.precond, Jacobi) and method.solves == "symmetric":
            self.precond = positive(self.precond)
        self.method = method

    def _resume(self) -> None:
        """Be on the rung that a run ended on which is gone on from. **Collective.**"""
        if not self.rungs or self.observer is None:
            return
        method, left = (self.observer.saved(name) for name in ("running_method", "rungs_left"))
        if method is None or (method == str(self.method) and left in (None, len(self.rungs))):
            return
        if left is None:  # of a version that had one choice to fall back on
            left = 0
        if 0 <= left < len(self.rungs):
            self.rungs = self.rungs[len(self.rungs) - 1 - left :]
            self.climb("failed before it was resumed")

    # Before the iteration

    def _system(
        self, b: torch.Tensor, x0: torch.Tensor | None
    ) -> tuple[System, torch.Tensor | None, CompiledSteps | None]:
        """What to iterate on, a copy of where x begins, None for 0, and steps that are there.

        **Collective.**
        """
        operator, square = self.operator, self.operator.square
        check_room(self.method, operator, b)
        if self.given is not None and x0 is None:
            x0 = self.given.start(b)
        norm2, compiled = self.first or self._first_sums(b)
        self.first = None
        M = self.method.least_of(self.precond)
        steps = self.kept.take(self.method, operator, M, b) if compiled else None
        if steps is None:
            r, look = torch.empty_like(b), LOOK if self.precond.pointwise else LOOK_SOON
            scalars = scalars_for(operator.world, r, look)
        else:
            r, scalars = steps.system.r, steps.system.scalars
        squares, smallest = values_of(norm2), SQUARES[b.dtype]
        scales: list[float] | None = None
        if all(smallest < s < 1 / smallest or math.isnan(s) for s in squares):
            x = self._zeros(r) if x0 is None else _copy(x0)
            b_norms = [math.sqrt(s) for s in squares]
        elif any(largest := self._largest(b)):
            x, b, scales = self._scaled(b, x0, largest)
            (norm2,) = scalars.dots((b, b))
            b_norms, x0 = norms_of(norm2), None if x0 is None else x.clone()
        else:  # 0, whatever the guess
            x, b_norms, x0 = self._zeros(r), largest, None
        if steps is None:
            system = System(operator, M, b, x, r, [], scalars, not square)
        else:
            system = steps.system.again(b, x)
        system.b_norms = system.measures = b_norms
        system.scales = scales or [1.0] * len(b_norms)
        system.compiled = compiled
        if not square:
            system.r.copy_(b)
            system.measures = self._measures(system)
        elif self.given is not None:
            system.measures = self._beside_given(self.given, system)
        system.target = [
            max(self.rtol * norm, min(self.atol / scale, sys.float_info.max))
            for norm, scale in zip(system.measures, system.scales, strict=True)
        ]
        if square:
            system.dtol, system.ceiling = self.dtol, [self.dtol * norm for norm in b_norms]
            system.rtol, system.thorough = self.rtol, self.thorough
        return system, x0, steps

    def _first_sums(self, b: torch.Tensor) -> tuple[Scalar, bool]:
        """`b . b`, and whether compiled steps serve on every rank. **Collective.**"""
        world = self.operator.world
        like = b if b.is_contiguous() else torch.empty_like(b)
        able = serve(self.method, self.operator, self.precond, like)
        if b.dim() > 1 or b.device.type != "cpu":
            (norm2,) = scalars_for(world, b).dots((b, b))
            return norm2, able
        mine = torch.dot(b, b).item()
        if world.size == 1:
            return mine, able
        # In doubles, as `LinearSolver.solve` has it summed.
        partial = torch.tensor([mine, float(not able)], dtype=torch.float64)
        world.transport.all_reduce_sum(partial)
        norm2, unable = partial.tolist()
        return norm2, unable == 0

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        """An x, where right-hand sides are like that."""
        if self.operator.square:
            return torch.zeros_like(like, memory_format=torch.contiguous_format)
        return like.new_zeros((self.operator.columns.n_owned, *like.shape[1:]))

    def _scaled(
        self, b: torch.Tensor, x0: torch.Tensor | None, largest: list[float]
    ) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
        """X and b where squares of b under- or overflow, or a column is zero. Local.

        A (x / s) = b / s has the same iterates for s a power of two, one a column.
        """
        # To between 1 and 2: the exponent of the largest number is none of its dtype's too many.
        scales = [2.0 ** (math.frexp(v)[1] - 1) if 0 < v < math.inf else 1.0 for v in largest]
        scale = torch.tensor(scales, dtype=b.dtype, device=b.device).reshape(b.shape[1:])
        x = self._zeros(b) if x0 is None else _copy(x0) / scale
        # Whatever the guess, the answer for a column of zeros is known.
        nonzero = torch.tensor([v != 0 for v in largest], device=b.device).reshape(b.shape[1:])
        return torch.where(nonzero, x, 0.0).contiguous(), b / scale, scales

    def _largest(self, b: torch.Tensor) -> list[float]:
        """The largest absolute entry of each column. **Collective.**"""
        columns = b.unsqueeze(1) if b.dim() == 1 else b  # -1 would not do for no rows
        mine = [0.0] * columns.shape[1]
        if b.shape[0]:
            low, high = columns.aminmax(dim=0)
            mine = [max(abs(a), abs(z)) for a, z in zip(low.tolist(), high.tolist(), strict=True)]
        found: list[float] = self.operator.world.largest(np.array(mine)).tolist()
        return found

    def _beside_given(self, given: DecoupledRows, system: System) -> list[float]:
        """What to be small against where rows are given: b, or what is left of it where that is
        less, by columns; but for rounding. **Collective.**
        """
        start = given.start(system.b)
        self.operator(start, system.r)
        torch.sub(system.b, system.r, out=system.r)
        floor = 100 * torch.finfo(start.dtype).eps / max(self.rtol, sys.float_info.min)
        left = norms_of(system.measure())
        return [min(b, max(r, floor * b)) for b, r in zip(system.b_norms, left, strict=True)]

    def _measures(self, system: System) -> list[float]:
        """||M^-T A^T b||_2 by columns. **Collective.**"""
        measures = norms_of(system.measure())
        if 0.0 in measures:
            # Zero, or squares that underflow?
            found, work = torch.empty_like(system.x), torch.empty_like(system.x)
            system.transposed_product(system.r, found, work)
            pairs = zip(self._largest(found), measures, strict=True)
            if any(largest and not measure for largest, measure in pairs):
                raise InputError(
                    "the entries of A are too small to square",
                    field="A",
                    remedy='Scale the matrix, or use precond="jacobi"',
                )
        return measures

    def _callback(self, system: System) -> Callback | None:
        callback = self.callback
        if callback is None or (largest := max(system.scales)) == 1.0:
            return callback
        return lambda iteration, norm: callback(iteration, norm * largest)

    # After it

    def _summary(
        self, system: System, outcomes: list[Outcome], single: bool
    ) -> tuple[torch.Tensor, SolveInfo]:
        """X in the units of b, and what is to be said of it. **Collective.**"""
        square, b_norms = self.operator.square, system.b_norms
        norms = b_norms
        if not square:
            (left,) = system.scalars.dots((system.r, system.r))
            norms = norms_of(left)
        infos = [
            info_of(outcome, b_norm, None if square else (norm, measure))
            for outcome, b_norm, norm, measure in zip(
                outcomes, b_norms, norms, system.measures, strict=True
            )
        ]
        dtype = DTYPES[system.b.dtype]
        for info in infos:
            info.rtol, info.dtype = self.rtol, dtype
        if square and (self.thorough or not all(info.converged for info in infos)):
            loosest = self.loosest
            if self.given is not None and loosest:
                # What rounding leaves is of the scale of the rows that these values are given to,
                # and b need not be.
                loosest = max(loosest, loosest_rtol(torch.float32))
            if system.found is None and system.compiled and self.thorough:
                system.examine()
            found = system.found
            if found is None:
                vectors = system.b, system.x, system.r
                found = accuracy(self.operator, *vectors, self.rtol, spare=system.spare)
            judge(infos, found, b_norms, loosest)
        x = system.x
        if any(scale != 1.0 for scale in system.scales):
            x = x.mul_(
                torch.tensor(system.scales, dtype=x.dtype, device=x.device).reshape(x.shape[1:])
            )
            for info, scale in zip(infos, system.scales, strict=True):
                info.residual_norm *= scale
                info.residual_history = [norm * scale for norm in info.residual_history]
        total = summarise(infos, single)
        symmetric = None
        if self.thorough and self.method.needs_symmetric and total.status in _SUSPICIOUS:
            symmetric = self.operator.symmetric(x.dtype)
        method = str(self.method)
        for info in infos if single else (total, *infos):
            info.method, info.precond, info.symmetric = method, self.precond.name, symmetric
        return x, total


def _copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)
