"""What the residual norms of LOBPCG say: which pairs are found, and whether to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hpc_sla.eigen.problem import EigenProblem, ResidualScale
from hpc_sla.linear.info import Status, worst

_PATIENCE = 100
"""Iterations without a smaller residual, or values further towards the end, than ever before."""

_PAUSE = 5
"""Iterations after a claim that the vectors did not bear out, before the next."""

_CLAIMS = 5
"""So many of them may fail without being half as far off as those before."""

_PROBED = 1e-2
"""The residual at which guards that look for others tell, in gaps to the pairs wanted."""

_SEEN = 1e3
"""Times the tolerance, the residual at which they tell in any case."""

_SAVED = (
    "met",
    "best",
    "lowest",
    "best_at",
    "last_claim",
    "failed_claims",
    "claim_after",
    "norms",
    "scales",
)


class Progress:
    """Judges LOBPCG by its residual norms. Local, and replicated.

    Parameters
    ----------
    problem : EigenProblem
    scale : ResidualScale
    probed : bool
        Whether nothing has to be looked for beside guesses: see `Lobpcg`.

    Attributes
    ----------
    iterations : int
    norms, scales : list of float [m]
        Of the residuals, when last judged, and what `tol` is relative to.
    small : list of bool [m]
        Which of them met the tolerance.
    history : list of list of float [k]
    best_at : int
        The iteration in which something last got better.
    """

    def __init__(self, problem: EigenProblem, scale: ResidualScale, probed: bool) -> None:
        self._problem, self._scale = problem, scale
        self.probed = probed
        self.iterations = 0
        self.norms: list[float] = []
        self.scales: list[float] = []
        self.small: list[bool] = []
        self._plain: list[float] = []
        self.history: list[list[float]] = []
        self.met: list[int | None] = [None] * problem.k
        self.best, self.lowest, self.best_at = math.inf, math.inf, 0
        self.last_claim, self.failed_claims, self.claim_after = math.inf, 0, 0

    def judge(self, eigenvalues: torch.Tensor, lengths: torch.Tensor) -> Status | None:
        """Take in the norms of an iteration; a status, or None to go on.

        Parameters
        ----------
        eigenvalues : float64 tensor [m] on the host
        lengths : float64 tensor [m] or [3 m]
            The norms of the residuals and, where there is a B, of v and of B v.
        """
        problem, k, m = self._problem, self._problem.k, self._problem.m
        norms, *others = (s.tolist() for s in lengths.cpu().split(m))
        x_norms, B_norms = others or ([1.0] * m, [1.0] * m)
        values = eigenvalues.tolist()
        self.norms = norms
        self.scales = self._scale.scales(values, x_norms, B_norms)
        self._plain = [abs(value) * norm for value, norm in zip(values, B_norms, strict=True)]
        relative = self._relative(m)
        self.history.append(norms[:k])
        self.small = [r <= problem.tol for r in relative]
        for i in range(k):
            if not self.small[i]:
                self.met[i] = None
            elif self.met[i] is None:
                self.met[i] = self.iterations
        largest = worst(relative[:k])
        if problem.callback:
            problem.callback(self.iterations, worst(norms[:k]))
        if not self.probed and self.iterations:
            # Of all guards: the last may be a guess that the random one has passed.
            self.probed = all(
                norms[i] <= max(
                    _PROBED * abs(values[i] - values[k - 1]) * B_norms[i],
                    _SEEN * problem.tol * self.scales[i],
                )
                for i in range(k, m)
            )  # fmt: skip
        self._note_gains(eigenvalues)
        if not math.isfinite(largest):
            return "not_finite"
        if largest <= problem.tol and self.probed and self.iterations >= self.claim_after:
            return "converged"
        if self.iterations >= problem.max_iterations:
            return "max_iterations"
        if self.iterations - self.best_at > _PATIENCE:
            return "stagnated"
        return None

    def _relative(self, count: int) -> list[float]:
        pairs = zip(self.norms[:count], self.scales[:count], strict=True)
        return [norm / scale if scale else norm for norm, scale in pairs]

    def _note_gains(self, eigenvalues: torch.Tensor) -> None:
        """Note when it last got better."""
        problem, scale = self._problem, self._scale
        count = problem.k if self.probed else problem.m
        norm = worst(self.norms[:count])
        total = problem.sign * float(eigenvalues[:count].sum())
        rounding = problem.eps * scale.A_size / (scale.B_size or 1.0)
        lower = self.lowest - total > max(1e-8 * abs(total), rounding)
        if norm < self.best or lower:
            self.best_at = self.iterations
        if lower:
            self.lowest = total
        self.best = min(self.best, norm)

    def forget_last(self) -> None:
        """Take the last norms back from the history: they are about to be computed again."""
        del self.history[-1:]

    def refuted(self) -> Status | None:
        """The vectors do not bear out a claim: the end, or None to go on."""
        claim = worst(self._relative(self._problem.k))
        if claim > 0.5 * self.last_claim:
            self.failed_claims += 1
        self.last_claim = min(self.last_claim, claim)
        self.claim_after = self.iterations + _PAUSE
        return "stagnated" if self.failed_claims > _CLAIMS else None

    # At the end, of pair i

    def status_of(self, i: int, ended: Status) -> Status:
        """Its own status, in a run that ended so."""
        if self._found(i):
            return "converged"
        return ended if math.isfinite(self.norms[i]) else "not_finite"

    def _found(self, i: int) -> bool:
        return self.probed and self.norms[i] <= self._problem.tol * self.scales[i]

    def at_rounding(self, i: int) -> bool:
        """Whether it converged to the level of rounding only, above what `tol` says."""
        return self._found(i) and self.norms[i] > self._problem.tol * self._plain[i]

    def met_at(self, i: int) -> int:
        """The iteration in which it met the tolerance; of all, where it did not."""
        met = self.met[i]
        return self.iterations if met is None else met

    # To go on elsewhere

    def state_dict(self) -> dict[str, Any]:
        """All that the next iteration is judged by. Local, and replicated."""
        return {
            "iterations": self.iterations,
            "residual_history": np.array(self.history, dtype=np.float64),
            "_probed": self.probed,
            **{f"_{name}": getattr(self, name) for name in _SAVED},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. Local."""
        self.iterations = int(state["iterations"])
        self.history = state["residual_history"].tolist()
        # Files of before there were probes began without.
        self.probed = state.get("_probed", True)
        for name in _SAVED:
            setattr(self, name, state[f"_{name}"])
