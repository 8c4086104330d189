"""Picard accelerated by its last `memory` iterates: no Jacobian, no linear solves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.nonlinear.equations import Equations
from hpc_sla.nonlinear.info import Status
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.nonlinear.method import Choices, Increments, NonlinearMethod
from hpc_sla.nonlinear.picard import StoppingTest, check_relaxation

# Back to the best iterate where the residual has grown this much beyond it.
_RESTART = 10.0
# A new column that lost this much of its square to the others is orthogonalised once more.
_CANCELLED = 0.5


class Differences:
    """Differences of the last iterates, those of f orthogonalised: dF = Q R.

    Gram-Schmidt with all inner products of a step in one reduction, a second one only where most
    of the new column cancels; the oldest column leaves by a rotation of Q (H. F. Walker and P. Ni,
    "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49, 2011, section 4).

    Parameters
    ----------
    equations : Equations
        For its reductions.
    like : torch.Tensor [n_owned]
    memory : int
    """

    def __init__(self, equations: Equations, like: torch.Tensor, memory: int) -> None:
        self._sums = equations.sums
        self._eps = torch.finfo(like.dtype).eps
        self.Q = like.new_empty((len(like), memory))
        self.dU = like.new_empty((len(like), memory))
        self.R = np.zeros((memory, memory))
        self.count, self.memory = 0, memory
        self.worst_condition = 1.0 / (100 * self._eps) ** 0.5

    def clear(self) -> None:
        self.count = 0

    def append(
        self, du: torch.Tensor, df: torch.Tensor, f: torch.Tensor, r: torch.Tensor
    ) -> tuple[float, np.ndarray]:
        """Take in a difference; ||r||^2, and Q^T f with the new Q. **Collective.**"""
        if self.count == self.memory:
            self._drop_oldest()
        k, Q = self.count, self.Q[:, : self.count]
        parts = [Q.T @ df, Q.T @ f, torch.stack([df @ df, df @ f, r @ r])]
        sums = np.array(self._sums(torch.cat(parts).double()))
        h, y, (square, along, residual) = sums[:k], sums[k : 2 * k], sums[2 * k :]
        q = df - Q @ _tensor(h, df)
        left, along = square - h @ h, along - h @ y
        if not left > _CANCELLED * square:
            # What is left of the squares is rounding, or nearly: measure it, and once more.
            sums = np.array(self._sums(torch.cat([Q.T @ q, torch.stack([q @ f, q @ q])]).double()))
            again, (along, left) = sums[:k], sums[k:]
            q, h = q - Q @ _tensor(again, df), h + again
            along, left = along - again @ y, left - again @ again
        if not left > (10 * self._eps) ** 2 * square or not math.isfinite(left):
            return float(residual), y  # dependent on the others: it would bring rounding only
        norm = math.sqrt(left)
        self.Q[:, k], self.dU[:, k] = q / norm, du
        self.R[:k, k], self.R[k, k] = h, norm
        self.count += 1
        return float(residual), np.append(y, along / norm)

    def condition(self, y: np.ndarray) -> np.ndarray:
        """Drop the oldest columns until R is well conditioned; Q^T f of those that stay. Local."""
        while self.count > 1:
            R = self.R[: self.count, : self.count]
            # Columns scaled: their lengths tell of the steps' and not of their independence.
            if np.linalg.cond(R / np.linalg.norm(R, axis=0)) <= self.worst_condition:
                break
            y = self._drop_oldest() @ y
        return y

    def _drop_oldest(self) -> np.ndarray:
        """Local."""
        k = self.count
        turned, R = np.linalg.qr(self.R[:k, 1:k])
        self.Q[:, : k - 1] = self.Q[:, :k] @ _tensor(turned, self.Q)
        self.dU[:, : k - 1] = self.dU[:, 1:k].clone()
        self.R[: k - 1, : k - 1] = R
        self.count = k - 1
        return turned.T

    def step(self, f: torch.Tensor, y: np.ndarray, relaxation: float) -> torch.Tensor:
        """The accelerated increment of u. Local."""
        k = self.count
        if not k:
            return relaxation * f
        gamma = np.linalg.solve(self.R[:k, :k], y)
        Q, dU = self.Q[:, :k], self.dU[:, :k]
        return relaxation * (f - Q @ _tensor(y, f)) - dU @ _tensor(gamma, f)


def _tensor(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like)


class Anderson(NonlinearMethod):
    """D. G. Anderson, J. ACM 12 (1965), 547.

    One reduction an iteration as a rule. The memory is emptied, and the iteration begun anew at
    the best iterate, where the residual has grown tenfold beyond it.

    Parameters
    ----------
    memory : int
        How many differences of iterates it combines, at least 1.
    relaxation : float
        As of `Picard`.
    """

    name = "anderson"

    def __init__(self, memory: int = 5, relaxation: float = 1.0) -> None:
        self.memory, self.relaxation = memory, relaxation
        self.check_options()
        check_relaxation(relaxation)
        if memory < 1:
            raise InputError(f"memory={memory} is not positive", field="method")

    def run(
        self,
        u: torch.Tensor,
        linear: Linearisation,
        increments: Callable[[], Increments],
        choices: Choices,
        attach: Callable[[Any], None],
    ) -> tuple[torch.Tensor, float, Status]:
        """**Collective.**"""
        equations, stop = linear.equations, choices.stop
        step = increments()
        watch = StoppingTest(equations, stop, choices.callback)
        # No more differences than iterations, nor more that are independent than unknowns.
        most = max(1, min(stop.max_iterations, equations.layout.n_global))
        kept = Differences(equations, u, min(self.memory, most))
        f, r = step(u)
        status = watch(u, equations.norm(r))
        best = (u, f, math.inf)
        y = np.empty(0)
        while status is None:
            du = kept.step(f, y, self.relaxation)
            u, f_last = u + du, f
            f, r = step(u)
            square, y = kept.append(du, f - f_last, f, r)
            norm = math.sqrt(square) if square >= 0 else math.nan
            status = watch(u, norm)
            y = kept.condition(y)
            if norm <= watch.best:
                best = (u, f, norm)
            elif norm > _RESTART * watch.best and best[2] < math.inf and kept.count > 1:
                u, f, _ = best
                kept.clear()
                y = np.empty(0)
                equations.info.restarts += 1
        return watch.end(u, status)
