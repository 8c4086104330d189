"""Locally optimal block preconditioned conjugate gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from hpc_sla.eigen.basis import Ritz, Selection, rayleigh_ritz, select
from hpc_sla.eigen.problem import Problem, Yardstick, apply
from hpc_sla.eigen.space import Space
from hpc_sla.errors import InputError
from hpc_sla.linear.info import Status, worst

_PATIENCE = 100
"""Iterations without a smaller residual, or values further towards the end, than ever before."""

_STALL = 5
"""Iterations without progress after which the images are computed afresh."""

_MIXED = 1e-8
"""Squared part of a new direction outside the old ones, below which sums cannot tell it."""


@dataclass
class Found:
    """The pairs, the wanted end first, and how they fare. All but `vectors` replicated.

    Attributes
    ----------
    values : float64 tensor [k]
    vectors : torch.Tensor [n_owned, k]
    statuses : list of Status
    norms, scales : list of float
        ||A v - lambda B v||, computed from v at the end, and what `tol` is relative to.
    iterations : list of int
        When each met the tolerance, or all there were.
    history : list of list of float
        Residual norms by iteration.
    following : float or None
        A value for the next pair, for the gap to it; from a guard, so approximate.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    statuses: list[Status]
    norms: list[float]
    scales: list[float]
    iterations: list[int]
    history: list[list[float]] = field(default_factory=list)
    following: float | None = None


class Lobpcg:
    """A. V. Knyazev, SIAM J. Sci. Comput. 23 (2001), in the form of Duersch, Shao, Yang and Gu,
    SIAM J. Sci. Comput. 40 (2018). **Collective.**

    An iteration makes one reduction, of all inner products: orthogonality within [X | P | W] is
    kept in coefficients, from the Gram matrices of the vectors as they are, so that rounding does
    not accumulate. Only where a new direction lies almost in [X | P] is it made orthogonal for
    good, and summed anew. The residuals' norms ride on the same reduction where the preconditioner
    is a diagonal (an iteration late); else they are summed first, lest an application be wasted.
    What has met the tolerance stays in X and gets no new direction (soft locking).

    Parameters
    ----------
    problem : Problem
    x0 : torch.Tensor [n_owned, j] or None
        Guesses, of any length.
    """

    def __init__(self, problem: Problem, x0: torch.Tensor | None) -> None:
        self.problem = problem
        self.m, self.k = problem.m, problem.k
        start = problem.noise(self.m)
        self._seeded = 0 if x0 is None else x0.shape[1]
        width = self.m + max(self.m, self._seeded)
        self.space = Space(problem.A, problem.B, start, width, self.m)
        self.space.keep(start)
        images = [self.space.A_kept] + ([] if problem.B is None else [self.space.B_kept])
        self.yardstick = Yardstick(problem, start, images)
        if x0 is not None:
            start = torch.cat([x0.detach().to(start), start], dim=1)
        if problem.constraints:
            problem.constraints.remove_from(start)
        if x0 is not None or problem.constraints:
            self.space.keep(start)
        self.iterations = 0
        self._history: list[list[float]] = []
        self._met: list[int | None] = [None] * self.k
        self._best, self._lowest, self._best_at = math.inf, math.inf, 0
        self._last_claim, self._refreshed_at = math.inf, 0
        self._R = torch.empty_like(start[:, : self.m].contiguous())
        self._rescale = torch.ones(self.m, dtype=problem.dtype, device=start.device)

    def run(self) -> Found:
        """Iterate until the true residuals of the wanted pairs are small, or it cannot."""
        resume = self.problem.resume
        active = resume.restore(self) if resume else None
        if active is None:
            active = self._start()
        elif self.problem.callback:
            self.problem.callback(self.iterations, worst(self._norms[: self.k]))
        if resume:
            resume.checkpoint.start(self.iterations)
        return self._found(self._iterate(active))

    def _start(self) -> torch.Tensor:
        """The Ritz pairs in the start; all are active."""
        everything = torch.ones(self.m, dtype=torch.bool)
        gram_A, gram_B, _ = self.space.grams(torch.empty(0, device=self._R.device))
        self._step(gram_A, gram_B, ~everything)
        return everything

    def _iterate(self, active: torch.Tensor) -> Status | None:
        """Until the end, and what it is."""
        problem, space = self.problem, self.space
        late = problem.precond.pointwise
        none = torch.empty(0, device=self._R.device)
        status: Status | None = None
        while True:
            if self.iterations - max(self._best_at, self._refreshed_at) >= _STALL:
                # Of images that have drifted no residual gets smaller.
                space.refresh()
                self._refreshed_at = self.iterations
            squares = self._residuals()
            if not late:
                ratios, status = self._judge(problem.all_sum(squares))
                active = ratios > 1
                if status is not None:
                    if self._final(status):
                        break
                    continue
            self._directions(active)
            space.multiply()
            gram_A, gram_B, sums = space.grams(squares if late else none)
            if late:
                ratios, status = self._judge(sums)
                active = ratios > 1
                if status is not None:
                    if self._final(status):
                        break
                    continue
            self._step(gram_A, gram_B, active)
            self.iterations += 1
            if problem.resume and problem.resume.after(self, active):
                status = "preempted"
                break
        return status

    # One iteration

    def _residuals(self) -> torch.Tensor:
        """R = A X - B X diag(values); this rank's squares of what is to be summed."""
        space, m = self.space, self.m
        X, A_X, B_X = (t.narrow(1, 0, m) for t in (space.kept, space.A_kept, space.B_kept))
        values = self.values.to(self._R.device, self._R.dtype)
        torch.addcmul(A_X, B_X, -values, out=self._R)
        measured = [self._R] if self.problem.B is None else [self._R, X, B_X]
        return torch.cat([t.double().square().sum(dim=0) for t in measured])

    def _judge(self, squares: torch.Tensor) -> tuple[torch.Tensor, Status | None]:
        """Each pair's residual over what it may be, and what that says. Replicated."""
        problem, m = self.problem, self.m
        norms, *lengths = (s.sqrt().tolist() for s in squares.cpu().split(m))
        x_norms, B_norms = lengths or ([1.0] * m, [1.0] * m)
        self._norms = norms
        self._scales = self.yardstick.scales(self.values.tolist(), x_norms, B_norms)
        relative = [
            norm / scale if scale else norm for norm, scale in zip(norms, self._scales, strict=True)
        ]
        rescale = [1.0 / norm if 0 < norm < math.inf else 1.0 for norm in norms]
        self._rescale = torch.tensor(rescale, dtype=problem.dtype, device=self._R.device)
        self._history.append(norms[: self.k])
        met = [r <= problem.tol for r in relative]
        for i in range(self.k):
            if not met[i]:
                self._met[i] = None
            elif self._met[i] is None:
                self._met[i] = self.iterations
        largest = worst(relative[: self.k])
        if problem.callback:
            problem.callback(self.iterations, worst(norms[: self.k]))
        self._watch(worst(norms[: self.k]))
        status: Status | None = None
        if not math.isfinite(largest):
            status = "not_finite"
        elif largest <= problem.tol:
            status = "converged"
        elif self.iterations >= problem.max_iterations:
            status = "max_iterations"
        elif self.iterations - self._best_at > _PATIENCE:
            status = "stagnated"
        return torch.tensor(relative) / problem.tol, status

    def _watch(self, norm: float) -> None:
        """Note when it last got better."""
        total = self.problem.sign * float(self.values[: self.k].sum())
        lower = self._lowest - total > 1e-8 * abs(total)
        if norm < self._best or lower:
            self._best_at = self.iterations
        if lower:
            self._lowest = total
        self._best = min(self._best, norm)

    def _directions(self, active: torch.Tensor) -> None:
        """W = M^-1 R of the active pairs, in the space's room."""
        problem = self.problem
        R = self._R
        if not bool(active.all()):
            which = active.nonzero().squeeze(1).to(R.device)
            R = R.index_select(1, which).mul_(self._rescale.index_select(0, which))
        else:
            R.mul_(self._rescale)
        W = self.space.room(R.shape[1])
        apply(problem.precond, R, W)
        if problem.constraints:
            problem.constraints.remove_from(W)

    def _step(self, gram_A: torch.Tensor, gram_B: torch.Tensor, active: torch.Tensor) -> None:
        """The Ritz pairs in [X | P | W] become the next X. **Collective.**"""
        space, problem = self.space, self.problem
        mixed, found = self._decided(gram_A, gram_B, active)
        if mixed is not None:
            space.new.addmm_(space.kept, mixed.to(space.new), alpha=-1)
            norms = problem.all_sum(space.new.double().square().sum(dim=0)).sqrt()
            space.new.mul_(torch.where(norms > 0, 1 / norms, 0.0).to(space.new.dtype))
            space.multiply()
            gram_A, gram_B, _ = space.grams(torch.empty(0, device=space.new.device))
            _, found = self._decided(gram_A, gram_B, active, again=True)
        assert found is not None
        self.values = found.values
        space.combine(found.coefficients)

    def _decided(
        self, gram_A: torch.Tensor, gram_B: torch.Tensor, active: torch.Tensor, again: bool = False
    ) -> tuple[torch.Tensor | None, Ritz | None]:
        """What of W lies in [X | P], if nearly all of it does and not `again`; else the Ritz pairs.

        **Collective.** By rank 0: of the same numbers LAPACK may make others on another processor,
        by rounding, and ranks that keep different directions would wait for each other for ever.
        """

        def decide() -> list[np.ndarray]:
            chosen = self._select(gram_B)
            if chosen.kept < _MIXED and not again:
                kept = self.space.kept.shape[1]
                old = chosen.basis[:, : chosen.before]
                return [(old[:kept] @ (old.T @ gram_B[:, kept:])).numpy()]
            ritz = rayleigh_ritz(gram_A, chosen, self.m, active, self.problem.sign)
            return [ritz.values.numpy(), ritz.coefficients.numpy()]

        found = [torch.from_numpy(a) for a in self.problem.A.world.on_root(decide)]
        return (found[0], None) if len(found) == 1 else (None, Ritz(*found))

    def _select(self, gram_B: torch.Tensor) -> Selection:
        space = self.space
        if not bool(gram_B.isfinite().all()):
            raise InputError(
                "products with A or B are not finite", field="A", remedy="Look at its entries"
            )
        kept, m = space.kept.shape[1], self.m
        sizes = [m, kept - m, space.new.shape[1]] if self._history else [kept]
        # Sums are in double precision; what single precision spoilt are the vectors alone.
        chosen = select(gram_B, sizes, self.problem.eps)
        if not chosen.definite or chosen.basis.shape[1] < m:
            raise InputError(
                "B is not positive definite" if self.problem.B else "the vectors are dependent",
                field="B" if self.problem.B else "x0",
            )
        return chosen

    # The end

    def _final(self, status: Status) -> bool:
        """Hold what the loop claims against fresh products; whether it is the end."""
        if status != "not_finite":
            self.space.refresh()
            self._history.pop()
            _, true = self._judge(self.problem.all_sum(self._residuals()))
            if status == "converged" and true is None:
                # The images had drifted. Go on from the fresh ones, as long as that helps.
                claim = worst(
                    n / s for n, s in zip(self._norms[: self.k], self._scales, strict=False)
                )
                if claim <= 0.5 * self._last_claim:
                    self._last_claim = claim
                    return False
        return True

    def _found(self, status: Status | None) -> Found:
        k, problem = self.k, self.problem
        norms, scales = self._norms[:k], self._scales[:k]
        ended: Status = "stagnated" if status in (None, "converged") else status
        statuses: list[Status] = [
            "converged"
            if norm <= problem.tol * scale
            else (ended if math.isfinite(norm) else "not_finite")
            for norm, scale in zip(norms, scales, strict=True)
        ]
        return Found(
            self.values[:k].clone(),
            self.space.kept[:, :k].contiguous(),
            statuses,
            norms,
            scales,
            [self.iterations if met is None else met for met in self._met],
            self._history,
            float(self.values[k]) if self.m > k else None,
        )
