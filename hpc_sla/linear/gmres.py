"""GMRES and flexible GMRES, restarted, with one reduction a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hpc_sla.kernels import basis
from hpc_sla.kernels.vectors import Scalar, axpy_, copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, System
from hpc_sla.linear.scalars import Flag


class Gmres(Method):
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

    side = "right"
    flexible = False

    def __init__(self, system: System, restart: int = 30) -> None:
        super().__init__(system)
        self.restart = max(1, min(restart, system.n_global))
        m, shape = self.restart, self.r.shape
        self.columns = shape[1:]
        self.basis = self.r.new_empty((m + 1, *shape))
        self.directions = self.r.new_empty((m, *shape)) if self.flexible else None
        self.work = torch.empty_like(self.r)
        self.hessenberg = self.r.new_zeros((m + 1, m, *self.columns))
        self.null = self.r.new_zeros((m + 1, *self.columns))
        self.target_tensor = torch.as_tensor(self.target, dtype=self.r.dtype, device=self.r.device)

    # narrow() and select(), not slicing: see hpc_sla.pattern.

    def start(self, active: Flag) -> None:
        (square,) = self.scalars.dots((self.r, self.r))
        self._begin(torch.as_tensor(active, device=self.r.device), square)
        self._record(self.beta)

    def _begin(self, active: torch.Tensor, square: Scalar) -> None:
        """A new cycle from x and its residual r, whose square norm is given."""
        self.done = 0
        copy_(self.basis.select(0, 0), self.r)
        self.beta = torch.as_tensor(square, dtype=self.r.dtype, device=self.r.device).sqrt()
        self.hessenberg.zero_()
        self.null.zero_()
        self.null.select(0, 0).fill_(1.0)
        self.length = self.beta.new_zeros(self.beta.shape)
        self.live = active & (self.beta > self.target_tensor) & (self.beta < math.inf)

    def step(self) -> None:
        if self.done == self.restart:
            self.finish()
            self._begin(self.live, self.system.residual())
        j = self.done
        u, w = self.basis.select(0, j), self.basis.select(0, j + 1)
        z = self.precond.apply(u, self.work)
        self.operator(z, w)
        sums = self._dots(j, 2)
        with_u, with_w = sums.unbind()
        s, uu, uw = with_u.narrow(0, 0, j), with_u.select(0, j), with_u.select(0, j + 1)
        c, ww = with_w.narrow(0, 0, j), with_w.select(0, j + 1)
        alpha = self._complete(j, s, uu)
        inverse = torch.where(self.live & (alpha > 0), 1.0 / alpha, 0.0)
        # A q_j = (w - V t) / alpha, and its projection on q_0 .. q_j is h.
        block = self.hessenberg.narrow(0, 0, j + 1).narrow(1, 0, j)
        t = (block * s).sum(dim=1)
        g_last = (uw - (s * c).sum(dim=0)) * inverse
        g = torch.cat([c, g_last.unsqueeze(0)])
        h = (g - t) * inverse
        below = (ww - (g * g).sum(dim=0)).clamp(min=0.0).sqrt() * inverse
        if self.directions is not None:
            # The direction of q_j, made from that of u_j as q_j is from u_j.
            direction = self.directions.select(0, j)
            copy_(direction, z)
            basis.add_combination(self.directions, -s, direction)
            direction.mul_(inverse)
        basis.update(self.basis, j, s, c, g_last, inverse)
        column = self.hessenberg.select(1, j).narrow(0, 0, j + 2)
        copy_(column, torch.cat([h, below.unsqueeze(0)]))
        self._extend_null(j)
        self.length = self.length + self.live
        self.done = j + 1
        norm = self.beta / self.null.narrow(0, 0, j + 2).square().sum(dim=0).sqrt()
        norm = torch.where(below > 0, norm, 0.0)
        self._record(norm)
        self.live = self.live & (norm > self.target_tensor) & (alpha > 0)

    def _dots(self, j: int, targets: int) -> torch.Tensor:
        """Inner products of basis vectors 0 .. with u_j (and the next). **Collective.**"""
        count = j + targets
        sums = self.r.new_empty((targets, count, *self.columns))
        basis.dots(self.basis, count, j, sums)
        self.scalars.sum_(sums)
        return sums

    def _complete(self, j: int, s: torch.Tensor, uu: torch.Tensor) -> torch.Tensor:
        """Make the column before the j-th final, now that u_j's second pass is known: its norm."""
        alpha = (uu - (s * s).sum(dim=0)).clamp(min=0.0).sqrt()
        if j:
            made = self.length >= j
            column = self.hessenberg.select(1, j - 1)
            above, below = column.narrow(0, 0, j), column.select(0, j)
            above.add_(torch.where(made, s, 0.0))
            copy_(below, torch.where(made, alpha, below))
            self._extend_null(j - 1)
        return alpha

    def _extend_null(self, j: int) -> None:
        """The entry that makes the null vector orthogonal to column j."""
        column = self.hessenberg.select(1, j)
        below = column.select(0, j + 1)
        total = -(self.null.narrow(0, 0, j + 1) * column.narrow(0, 0, j + 1)).sum(dim=0)
        copy_(self.null.select(0, j + 1), torch.where(below > 0, total / below, 0.0))

    def finish(self) -> None:
        """Add the combination of basis vectors with the least residual to x. **Collective.**"""
        j, self.done = self.done, 0
        if j == 0:
            return
        sums = self._dots(j, 1)
        (with_u,) = sums.unbind()
        self._complete(j, with_u.narrow(0, 0, j), with_u.select(0, j))
        y = self._least_squares(j)
        if self.directions is not None:
            basis.add_combination(self.directions, y, self.x)
            return
        update = self.r
        update.zero_()
        basis.add_combination(self.basis, y, update)
        axpy_(self.x, 1.0, self.precond.apply(update, self.work))

    def _least_squares(self, j: int) -> torch.Tensor:
        """The coefficients, `[j]` or `[j, k]`: the host waits for the device, once a cycle."""
        count = self.scalars.count
        H = self.hessenberg[: j + 1, :j].reshape(j + 1, j, count).double().cpu().numpy()
        beta = self.beta.reshape(count).double().cpu().numpy()
        length = self.length.reshape(count).int().cpu().numpy()
        y = np.zeros((j, count))
        for column in range(count):
            m = int(length[column])
            top, right = H[: m + 1, :m, column], np.zeros(m + 1)
            if m and np.isfinite(top).all() and np.isfinite(beta[column]):
                right[0] = beta[column]
                y[:m, column] = np.linalg.lstsq(top, right, rcond=None)[0]
        return torch.from_numpy(y).to(self.r).reshape(j, *self.columns)

    def _record(self, norm: torch.Tensor) -> None:
        self.scalars.record(norm if self.columns or norm.is_cuda else float(norm))

    def norm(self, row: Sequence[float]) -> float:
        return row[0]

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        if not math.isfinite(row[0]):
            return "not_finite"
        return "converged" if row[0] <= target else None


class FlexibleGmres(Gmres):
    """FGMRES (Saad 1993; Saad, 2nd ed., algorithm 9.6): M may differ from step to step.

    As `Gmres`, and keeps the preconditioned vectors too: twice the memory.
    """

    flexible = True
