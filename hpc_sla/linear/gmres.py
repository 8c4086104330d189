"""Generalised minimal residuals: any square matrix, the most robust; keeps `restart` vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import basis, native, pages
from hpc_sla.kernels.burst import StepKernel
from hpc_sla.kernels.vectors import Scalar, axpy_, copy_
from hpc_sla.linear.hessenberg import Hessenberg, HostHessenberg
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, check_count, fill
from hpc_sla.linear.scalars import Flag
from hpc_sla.sparse.arnoldi import Arnoldi, Pending
from hpc_sla.sparse.operator import Operator


class GMRES(Method):
    """Right-preconditioned GMRES(restart) (Saad and Schultz 1986; Saad, 2nd ed., algorithm 9.5).

    For any nonsingular A. The basis is orthogonalised twice by classical Gram-Schmidt, as stable
    as modified Gram-Schmidt, with *one* reduction a step: the second pass over a vector is delayed
    until the next one's first, and shares its reduction (Bielich, Langou, Thomas, Swirydowicz,
    Yamazaki and Boman, "Low-synch Gram-Schmidt with delayed reorthogonalization for Krylov
    solvers", Parallel Computing 112, 2022). The residual norm comes without rotations from the
    left null vector of the Hessenberg matrix (Ayachour 2003).

    Parameters
    ----------
    restart : int
        Basis vectors kept: memory is that many vectors.
    """

    name = "gmres"
    solves = "square"
    side = "right"
    petsc = "gmres"
    scale_free = True
    flexible = False
    current = False

    def room(self, operator: Operator, columns: int) -> int:
        m = min(self.restart, operator.n_global)
        vectors = (2 if self.flexible else 1) * m + 1
        return (vectors * operator.layout.n_owned + 4 * m * m) * columns

    def __init__(self, restart: int = 30) -> None:
        check_count(self.name, "restart", restart)
        self.restart = restart

    def allocate(self) -> None:
        self.cycle = max(1, min(self.restart, self.operator.n_global))
        m, shape = self.cycle, self.r.shape
        self.basis = basis.Basis(m + 1, self.r)
        self.directions = pages.empty((m, *shape), self.r) if self.flexible else None
        self.work = pages.empty(tuple(shape), self.r)
        self.arnoldi: Arnoldi | None = None
        self._pending: Pending | None = None
        if self.precond.pointwise and not self.flexible:
            # The update of a step is then left to the next, which reads the basis but once.
            self.arnoldi = self.operator.arnoldi(self.basis, self.precond.inverse)
        # Of compiled steps: inner products of this rank, and of all of them by turns.
        self.sums = self.r.new_empty((3, 2 * (m + 1)))
        self.sweep = 0 if self.arnoldi is None else self.arnoldi.sweep.address
        self.part = self.work if self.arnoldi is None else self.arnoldi.sweep.part
        small = HostHessenberg if native.can_take(self.r) else Hessenberg
        self.small_matrix = small(m, self.r, self.target)

    def start(self, active: Flag) -> None:
        (square,) = self.scalars.dots((self.r, self.r))
        self._begin(active, square)
        beta = self.small_matrix.beta
        self.scalars.record(float(beta) if beta.dim() == 0 and not beta.is_cuda else beta)

    def _begin(self, active: Flag, square: Scalar) -> None:
        """A new cycle from x and its residual r, whose square norm is given."""
        self.done, self._pending = 0, None
        copy_(self.basis.vectors[0], self.r)
        self.small_matrix.begin(square, active)

    @property
    def live(self) -> Flag:
        return self.small_matrix.live

    def keep(self, which: Flag) -> None:
        self.small_matrix.keep(which)

    @property
    def state_is_small(self) -> bool:
        return self.done in (0, self.cycle)

    def state_dict(self) -> dict[str, Any]:
        # Between cycles x and its residual are all there is.
        self.turn()
        self._catch_up()
        return {
            "done": np.array([self.done]),
            **self.small_matrix.state_dict(),
            **dict(self._vectors()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done, self._pending = int(state["done"][0]), None
        if not 0 <= self.done <= self.cycle:
            raise ValueError(f"step {self.done} of {self.cycle}")
        self.small_matrix.load_state_dict(state)
        for name, vector in self._vectors():
            fill(vector, state[name])

    def _vectors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Those in use, by name."""
        for i, vector in enumerate(self.basis.vectors[: self.done + 1]):
            yield f"basis{i}", vector
        if self.directions is not None:
            for i, direction in enumerate(self.directions.unbind()[: self.done]):
                yield f"direction{i}", direction

    def turn(self) -> None:
        """Into the next cycle, at the end of one. **Collective.**"""
        if self.done == self.cycle:
            self.finish()
            self._begin(self.live, self.system.residual())

    def _catch_up(self) -> None:
        """Make the update that was left to the next step, whose sweep would have done it. Local."""
        if self._pending is not None and self.arnoldi is not None:
            self.arnoldi.update(self.done, self._pending)
            self._pending = None

    def step(self) -> None:
        self.turn()
        j = self.done
        if self.arnoldi is not None:
            sums = self.arnoldi.step(j, self._pending)
            self.scalars.sum_(sums)
            found = self.small_matrix.step(j, sums)
            self.done, self._pending = j + 1, (sums, found)
            self.scalars.record(found.tolist()[2])
            return
        u, w = self.basis.vectors[j], self.basis.vectors[j + 1]
        z = self.precond.apply(u, self.work)
        self.operator(z, w)
        sums = self._dots(j, 2)
        found = self.small_matrix.step(j, sums)
        if self.directions is not None:
            # The direction of q_j, made from that of u_j as q_j is from u_j.
            direction = self.directions.select(0, j)
            copy_(direction, z)
            basis.add_combination(self.directions, -sums.select(0, 0).narrow(0, 0, j), direction)
            direction.mul_(found.select(0, 1))
        self.basis.update(j, sums, found)
        self.done = j + 1
        # On the host numbers are wanted at once, and to read all three is least work.
        single = found.dim() == 1 and not found.is_cuda
        self.scalars.record(found.tolist()[2] if single else found.select(0, 2))

    compiled = StepKernel(
        "gmres",
        step,
        (
            *("basis.tensor", "work", "basis.wide", "sums"),
            *("small_matrix.beta", "small_matrix.target", "small_matrix.matrix"),
            *("small_matrix.null", "small_matrix.length", "small_matrix.live"),
            *("small_matrix.found", "part"),
        ),
        1,
        numbers=("done", "cycle", "sweep", "left"),
    )

    @property
    def left(self) -> bool:
        """Whether an update is left to the next step; compiled steps keep its sums in `sums`."""
        return self._pending is not None

    @left.setter
    def left(self, value: bool) -> None:
        self._pending = None
        if value:
            self._pending = self.sums[1 + (self.done - 1) % 2], self.small_matrix.found

    def _dots(self, j: int, targets: int) -> torch.Tensor:
        """Inner products of basis vectors 0 .. with u_j (and the next). **Collective.**"""
        sums = self.basis.dots(j + targets, j, targets)
        self.scalars.sum_(sums)
        return sums

    def finish(self) -> None:
        """Add the combination of basis vectors with the least residual to x. **Collective.**"""
        j, self.done = self.done, 0
        if j == 0:
            return
        if self.arnoldi is None:
            (with_u,) = self._dots(j, 1).unbind()
        else:
            (with_u,) = self.arnoldi.last(j, self._pending)
            self.scalars.sum_(with_u)
            self._pending = None
        self.small_matrix.finish(j, with_u)
        y = torch.from_numpy(self.small_matrix.least_squares(j)).to(self.r)
        if self.directions is not None:
            basis.add_combination(self.directions, y, self.x)
            return
        update = self.r
        update.zero_()
        basis.add_combination(self.basis.tensor, y, update)
        axpy_(self.x, 1.0, self.precond.apply(update, self.work))

    def norm(self, row: Sequence[float]) -> float:
        return row[0]

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        if not math.isfinite(row[0]):
            return "not_finite"
        return "converged" if row[0] <= target else None
