"""Locally optimal block preconditioned conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.eigen.basis import rayleigh_ritz, select
from hpc_sla.eigen.found import Eigenpairs
from hpc_sla.eigen.problem import EigenProblem, ResidualScale, apply, column_norms
from hpc_sla.eigen.progress import Progress
from hpc_sla.eigen.refusals import refuse_indefinite, refuse_not_finite
from hpc_sla.eigen.scaling import unit_columns
from hpc_sla.eigen.space import Space, inner, symmetric
from hpc_sla.eigen.together import Decision, Together
from hpc_sla.linear.info import Status, worst
from hpc_sla.linear.method import fill

_STALL = 5
"""Iterations without progress after which the images are computed afresh."""

_MIXED = 1e-8
"""Squared part of a new direction outside the old ones, below which sums cannot tell it."""

_DRIFT = 0.5
"""How much of the residual asked for may be due to images that have drifted."""

_OVERLAP = 100.0
"""Units of rounding error that X may have of vectors it is to be orthogonal to."""

_REFILL = 301
"""Seed of vectors that stand in for lost ones."""

_SAVED = ("refreshed_at", "tolerated", "doubt", "allowed")
"""Numbers that an iteration hands to the next."""


class Lobpcg:
    """LOBPCG: Ritz pairs of the last vectors X, their changes P and new directions W.

    **Collective.** A. V. Knyazev, SIAM J. Sci. Comput. 23 (2001), in the form of Duersch, Shao,
    Yang and Gu, SIAM J. Sci. Comput. 40 (2018).

    An iteration makes two reductions. One is of all inner products: orthogonality within
    [X | P | W] is kept in coefficients, from the Gram matrices of the vectors as they are, so that
    rounding does not accumulate. Only where a new direction lies almost in [X | P] is it made
    orthogonal for good, and summed anew. The other is of the norms of the residuals, lest an
    application of the preconditioner be wasted. Every rank solves the small dense problem for
    itself, and a digest of what it found rides on the second reduction: where another processor's
    LAPACK found something else, ranks hear of it before they have done more with it than to combine
    their own rows, and go back to what rank 0 found. What has met the tolerance stays in X and gets
    no new direction (soft locking).

    Guesses may be eigenvectors already, of other values than those wanted: no residual tells. So
    beside them the last of the guards starts from what they leave out, and nothing is claimed
    before it has come down to an eigenvector.

    Parameters
    ----------
    problem : EigenProblem
    x0 : torch.Tensor [n_owned, j] or None
        Guesses, of any length; then m > k.

    Attributes
    ----------
    observe : callable(lobpcg) -> bool, or None
        Called on every rank after each iteration: whether to stop.
    """

    state_is_small = True

    def __init__(self, problem: EigenProblem, x0: torch.Tensor | None) -> None:
        self.problem = problem
        self.m, self.k = problem.m, problem.k
        start = problem.noise(self.m)
        width = self.m + max(self.m, 0 if x0 is None else x0.shape[1])
        self.space = Space(problem.A, problem.B, start, width, self.m)
        self.residual_scale = ResidualScale(problem)
        self.progress = Progress(problem, self.residual_scale, probed=x0 is None)
        if x0 is not None:
            guesses = unit_columns(x0, problem.A.world, "x0")
            start = torch.cat([guesses.to(start), start], dim=1)
        if problem.constraints:
            problem.constraints.remove_from(start)
        self.space.keep(start)
        self.observe: Callable[[Lobpcg], bool] | None = None
        self.unobserved = 1.0
        self.active = torch.zeros(self.m, dtype=torch.bool, device="cpu")
        self.values = torch.zeros(self.m, dtype=torch.float64, device="cpu")
        self._before = self.values
        self._started = False
        self._refreshed_at, self._tolerated = 0, 1.0
        self._doubt, self._allowed = 0.0, math.inf
        self._R = torch.empty_like(start[:, : self.m].contiguous())
        self._rescale = torch.ones(self.m, dtype=problem.dtype, device=start.device)
        self._none = torch.empty(0, device=start.device)
        self._squares: torch.Tensor | None = None  # of the residuals of X as it is, if known
        measured = self.m * (1 if problem.B is None else 3)
        self._together = Together(problem, measured, start.device)

    @property
    def iterations(self) -> int:
        """Done so far (replicated)."""
        return self.progress.iterations

    def run(self) -> Eigenpairs:
        """Iterate until the true residuals of the wanted pairs are small, or it cannot."""
        if self.problem.attach:
            self.problem.attach(self)
        ready = self._started
        if not ready:
            ready = self._step(*self._grams())
            self.active[:] = True
        elif self.problem.callback:
            self.problem.callback(self.iterations, worst(self.progress.norms[: self.k]))
        self._started = True
        return self._found(self._iterate() if ready else self._final("breakdown"))

    def _iterate(self) -> Status | None:
        """Until the end, and what it is."""
        progress = self.progress
        while True:
            if self.iterations - max(progress.best_at, self._refreshed_at) >= _STALL:
                # Of images that have drifted no residual gets smaller.
                self._refresh()
            if self._squares is None:
                self._squares, _ = self._together.summed(self._residuals())
            if status := self._judge(self._squares.sqrt()):
                if end := self._final(status):
                    return end
                continue
            self._directions()
            self.space.multiply()
            if not self._step(*self._grams()):
                return self._final("breakdown")
            progress.iterations += 1
            if self.observe is not None and self.observe(self):
                return "preempted"

    # One iteration

    def _residuals(self) -> torch.Tensor:
        """R = A X - B X diag(values); this rank's squares of what is to be summed."""
        space, m = self.space, self.m
        X, A_X, B_X = (t.narrow(1, 0, m) for t in (space.kept, space.A_kept, space.B_kept))
        values = self.values.to(self._R.device, self._R.dtype)
        torch.addcmul(A_X, B_X, -values, out=self._R)
        measured = [self._R] if self.problem.B is None else [self._R, X, B_X]
        return torch.cat([t.double().square().sum(dim=0) for t in measured])

    def _judge(self, lengths: torch.Tensor) -> Status | None:
        """What the norms of residuals say, which pairs are to go on among it. Replicated."""
        status = self.progress.judge(self.values, lengths)
        rescale = [1.0 / norm if 0 < norm < math.inf else 1.0 for norm in self.progress.norms]
        self._rescale = torch.tensor(rescale, dtype=self.problem.dtype, device=self._R.device)
        self.active = ~torch.tensor(self.progress.small, device="cpu")
        return status

    def _directions(self) -> None:
        """W = M^-1 R of the active pairs, in the space's room."""
        problem = self.problem
        R = self._R
        if not bool(self.active.all()):
            which = self.active.nonzero().squeeze(1).to(R.device)
            R = R.index_select(1, which).mul_(self._rescale.index_select(0, which))
        else:
            R.mul_(self._rescale)
        W = self.space.room(R.shape[1])
        if R.shape[1]:
            apply(problem.precond, R, W)
            self._constrain(W)

    def _constrain(self, W: torch.Tensor) -> None:
        if self.problem.constraints:
            self.problem.constraints.remove_from(W)

    def _refresh(self) -> None:
        self._constrain(self.space.kept)
        self.space.refresh()
        self._refreshed_at, self._squares = self.iterations, None

    def _grams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The space's, of images that still are those of the vectors. **Collective.**

        S^T (A S) is symmetric; that it no longer is tells, for nothing, how far images have
        drifted from the vectors they belong to, while those of W are fresh. Left alone that grows
        as fast as the method finds low values among the errors. So does what X has of the vectors
        of `deflate`, which rides on the same reduction.
        """
        raw_A, raw_B, overlap = self.space.grams(self._overlap())
        drift = self._drift(raw_A, raw_B)
        if overlap.numel():
            drift = max(drift, float(overlap.abs().max()) / (_OVERLAP * self.problem.eps))
        if self._started and drift > self._tolerated:
            self._refresh()
            raw_A, raw_B, _ = self.space.grams(self._none)
            self._tolerated = max(1.0, 4 * self._drift(raw_A, raw_B))
        return symmetric(raw_A), symmetric(raw_B)

    def _overlap(self) -> torch.Tensor:
        """This rank's part of the products of X with vectors it is to be orthogonal to."""
        constraints = self.problem.constraints
        if not (constraints and self._started):
            return self._none
        return inner(constraints.B_Y, self.space.kept[:, : self.m]).reshape(-1)

    def _drift(self, raw_A: torch.Tensor, raw_B: torch.Tensor) -> float:
        """How much of what may be, of the pair that suffers most. Replicated."""
        lengths = raw_B.diagonal().clamp(min=0).sqrt()
        scale = torch.where(lengths > 0, 1 / lengths, 0.0)
        wrong_A, wrong_B = ((raw - raw.T).abs() * scale * scale[:, None] for raw in (raw_A, raw_B))
        self._doubt = float(wrong_B.max())
        sizes = self.values.abs()
        unit = self.residual_scale
        floors = torch.tensor(unit.floors(self.values.tolist()), device="cpu").double()
        allowed = torch.maximum(self.problem.tol * sizes, floors / (unit.B_size or 1.0))
        self._allowed = float(allowed[: self.k].min())
        wrong = (wrong_A[: self.m] + sizes[:, None] * wrong_B[: self.m]).amax(dim=1)
        shares = torch.where(allowed > 0, wrong / allowed, 0.0)
        return float(shares.max()) / _DRIFT

    def _step(self, gram_A: torch.Tensor, gram_B: torch.Tensor) -> bool:
        """The Ritz pairs in [X | P | W] become the next X. **Collective.**

        False where there are not enough vectors.
        """
        space, problem = self.space, self.problem
        refuse_not_finite(problem, space.new, gram_A, gram_B)
        again = trusted = filled = False
        while True:
            decide = partial(self._decide, gram_A, gram_B, again, trusted)
            decision, self._squares = self._together.go_on(decide, self._take, self._undo)
            what, *found = decision
            if what == "ritz":
                return True
            if what == "negative":
                refuse_indefinite(problem, space.combination(found[0].unsqueeze(1)))
                trusted = True
                self._refresh()
            elif what == "mixed":
                again = True
                space.new.addmm_(space.kept, found[0].to(space.new), alpha=-1)
                norms = problem.all_sum(space.new.double().square().sum(dim=0)).sqrt()
                space.new.mul_(torch.where(norms > 0, 1 / norms, 0.0).to(space.new.dtype))
                space.multiply()
            elif filled:
                return False
            else:
                again = filled = True
                space.room(self.m).copy_(problem.noise(self.m, _REFILL))
                self._constrain(space.new)
                space.multiply()
            gram_A, gram_B = self._grams()

    def _take(self, decision: Decision) -> torch.Tensor | None:
        """Go on with Ritz pairs; this rank's squares of their residuals. Local."""
        if decision[0] != "ritz":
            return None
        self._before, self.values = self.values, decision[1]
        self.space.combine(decision[2])
        return self._residuals()

    def _undo(self) -> None:
        """As if the last `_take` had not been. Local.

        What is summed next may be measured by the values, whatever rank 0 goes on with.
        """
        self.values = self._before
        self.space.uncombine()

    def _decide(
        self, gram_A: torch.Tensor, gram_B: torch.Tensor, again: bool, trusted: bool
    ) -> Decision:
        """The Ritz pairs, or what has to be done first. Local: see `Together`.

        Returns
        -------
        "ritz", values, coefficients
        "mixed", coefficients
            Nearly all of W lies in [X | P] (unless `again`): this.
        "negative", coefficients
            Of a vector that has a negative square (unless `trusted`).
        "short",
            There are fewer than m directions.
        """
        kept, q, m = self.space.kept.shape[1], gram_B.shape[0], self.m
        sizes = [m, kept - m, q - kept] if self._started and q > m else [q]
        # Sums are in double precision; what single precision spoilt are the vectors alone.
        chosen = select(gram_B, sizes, self.problem.eps, self._doubt)
        if chosen.negative is not None and not trusted:
            return "negative", chosen.negative.contiguous()
        if q > kept and chosen.kept < max(_MIXED, 10 * chosen.noise) and not again:
            old = chosen.basis[:, : chosen.before]
            return "mixed", (old[:kept] @ (old.T @ gram_B[:, kept:])).contiguous()
        if chosen.basis.shape[1] < m:
            return ("short",)
        probe = not (self._started or self.progress.probed)
        ritz = rayleigh_ritz(
            gram_A, chosen, m, self.active, self.problem.sign, self._allowed, probe
        )
        return "ritz", ritz.values.contiguous(), ritz.coefficients.contiguous()

    # The end

    def _final(self, status: Status) -> Status | None:
        """Hold what the loop claims against the vectors themselves: the end, or None to go on."""
        if status == "not_finite":
            return status
        self._settle()
        self.progress.forget_last()
        self._residuals()
        true = self._judge(self._lengths())
        if status != "converged" or true is not None:
            return true if true == "max_iterations" else status
        # Not so: images had drifted, or rounding allows more than it seemed to.
        return self.progress.refuted()

    def _settle(self) -> None:
        """X becomes orthonormal, its values Rayleigh quotients, of fresh images. **Collective.**

        And look at what rounding allows of these vectors.
        """
        space, problem, m = self.space, self.problem, self.m
        self._refresh()
        for columns in (m, space.kept.shape[1]):
            gram_A, gram_B, _ = space.grams(self._none, columns)
            refuse_not_finite(problem, space.new, gram_A, gram_B)
            grams = symmetric(gram_A), symmetric(gram_B)
            what, *found = self._together.decide(partial(self._decide, *grams, True, True))
            self._squares = None
            if what == "ritz":
                space.replace(found[1][:, :m])
                break
        X, A_X, B_X = (t.narrow(1, 0, m) for t in (space.kept, space.A_kept, space.B_kept))
        products = torch.stack([(X.double() * image).sum(dim=0) for image in (A_X, B_X)])
        over, under = problem.all_sum(products).cpu()
        self.values = torch.where(under > 0, over / under, self.values)
        self.residual_scale.measure(X.contiguous())

    def _lengths(self) -> torch.Tensor:
        """As `_residuals` gives them, but safe from under- and overflow. **Collective.**"""
        space, m = self.space, self.m
        X, B_X = (t.narrow(1, 0, m) for t in (space.kept, space.B_kept))
        vectors = [self._R] if self.problem.B is None else [self._R, X, B_X]
        return column_norms(self.problem, torch.cat(vectors, dim=1))

    def _found(self, status: Status | None) -> Eigenpairs:
        """The wanted pairs, by their values."""
        k, progress = self.k, self.progress
        order = torch.argsort(self.problem.sign * self.values[:k], stable=True)
        pick = order.tolist()
        ended: Status = "stagnated" if status in (None, "converged") else status
        guarded = self.m > k
        return Eigenpairs(
            self.values[:k][order],
            self.space.kept[:, :k].contiguous()[:, order.to(self._R.device)].contiguous(),
            [progress.status_of(i, ended) for i in pick],
            [progress.norms[i] for i in pick],
            [progress.scales[i] for i in pick],
            [progress.met_at(i) for i in pick],
            [[row[i] for i in pick] for row in progress.history],
            (float(self.values[k]), progress.norms[k]) if guarded else None,
            [progress.at_rounding(i) for i in pick],
            self.space.kept[:, k : self.m].contiguous() if guarded else None,
        )

    # To go on elsewhere

    def layout_of(self, name: str) -> RowLayout:
        """The layout of a tensor of the state. Local."""
        return self.problem.A.layout

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the very same iterates. Local.

        Tensors are this rank's rows of [X | P] and its images (which made again would not be the
        same to the last bit), as they are now. All else is replicated.
        """
        return {
            **self.space.blocks(),
            "values": self.values.double().cpu().numpy(),
            "rescale": self._rescale.double().cpu().numpy(),
            "active": self.active.double().cpu().numpy(),
            "measured": np.array(self.residual_scale.measured or [], dtype=np.float64),
            **{f"_{name}": getattr(self, f"_{name}") for name in _SAVED},
            **self.progress.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. **Collective.**

        Raises
        ------
        ValueError
            On every rank: it does not fit.
        """
        kept = state["kept"]
        self.space.hold(kept.shape[1])
        for name, block in self.space.blocks().items():
            fill(block, kept if name == "kept" else state[name])
        self.values = torch.from_numpy(state["values"])
        self._rescale = torch.from_numpy(state["rescale"]).to(self._rescale)
        self.active = torch.from_numpy(state["active"]) > 0
        self.residual_scale.measured = state["measured"].tolist() or None
        for name in _SAVED:
            setattr(self, f"_{name}", state[f"_{name}"])
        self.progress.load_state_dict(state)
        self._started = True
