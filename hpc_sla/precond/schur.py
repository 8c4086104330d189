"""Blocks of a saddle point (Stokes, mixed methods, ties), one after the other; with fgmres."""

from __future__ import annotations

import torch

from hpc_sla.errors import InputError
from hpc_sla.precond.amg.amg import AMG
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.complement import Complement, Trial
from hpc_sla.precond.make import check_known, make_preconditioner
from hpc_sla.precond.options import check_choice
from hpc_sla.precond.saddle import SaddlePoint, translations
from hpc_sla.precond.workspace import Workspace
from hpc_sla.sparse.matrix import DSparseMatrix

APPROXIMATIONS = ("auto", "diagonal", "lumped", "lsc", "dense")
FORMS = ("lower", "diagonal")
MOST_DENSE = 2000
"""Constraints of a dense Schur complement: each costs a product with the inverse of A."""

_FEW = 64
"""So few constraints are dense unasked."""

_MORE = 500
"""So many are, where nothing else is good."""

_STEPS = 8
"""Those of GMRES that tell how good an approximation is."""

_SHIFT = 1e-5
"""The least that a singular A is shifted by, relative to its diagonal; multigrid is in float32."""

_GOOD, _BAD = 0.42, 0.5
"""A step that leaves so much of the residual ends the search for better ones, or for dear ones."""

_WORTH = 0.8
"""What takes more work must reach the same in this part of the steps."""


class Schur(Preconditioner):
    """`M = [A 0; C -S]` of a saddle point `[A B; C -D]`, or `diag(A, S)`; S about C A^-1 B + D.

    The rows of the constraints are those whose diagonal is zero, or missing, or of the other sign
    than most. Murphy, Golub and Wathen, "A note on preconditioning for indefinite linear systems",
    SIAM J. Sci. Comput. 21 (2000); Elman, Silvester and Wathen, Finite Elements and Fast Iterative
    Solvers, 2nd ed., chapters 4 and 9.

    Parameters
    ----------
    approximation : {"auto", "diagonal", "lumped", "lsc", "dense"}
        Of S. "lumped": C diag(A)^-1 B + D, by amg, as for mixed Poisson. "diagonal": the diagonal
        of that, which is about a mass matrix's where A is of second order (Stokes). "lsc": the
        least-squares commutator, for flows. "dense": all entries of C A^-1 B, for few
        constraints. "auto": dense up to 64 of them, else what a few steps of GMRES on S show to
        be the best.
    form : {"lower", "diagonal"}
        With "diagonal" it is symmetric and positive definite, for minres.
    inner : str
        The preconditioner of A: "auto" is amg with the nodes that the pattern shows, others by
        their names, with one option at most.

    Attributes
    ----------
    chosen : str
        The approximation that "auto" chose. Replicated.
    trials : dict of str to Trial
        What a few steps of GMRES on S made of those that were looked at. Replicated.

    Raises
    ------
    InputError
        Options out of range; in `on`, on every rank, a matrix that is no saddle point.
    """

    name = "schur"

    def __init__(
        self, approximation: str = "auto", form: str = "lower", inner: str = "auto"
    ) -> None:
        self.approximation, self.form, self.inner = approximation, form, inner
        self.check_options()
        check_choice("schur", "approximation", approximation, APPROXIMATIONS)
        check_choice("schur", "form", form, FORMS)
        check_known(inner, "auto")
        self.symmetric = form == "diagonal"

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        self._saddle = saddle = SaddlePoint(A)
        count = saddle.second.layout.n_global
        with A.world.agree():
            if self.approximation == "dense" and count > MOST_DENSE:
                raise InputError(
                    f"dense with {count} constraints, more than {MOST_DENSE}",
                    field="schur:approximation",
                    remedy="Choose another, such as auto",
                )
        self._inner = self._of_first(saddle.A)
        self._long = Workspace(2, saddle.first.layout.n_owned)
        self._short = Workspace(2, saddle.second.layout.n_owned)
        self._choose(Complement(saddle, self._inner), min(_STEPS, count))
        self.symmetric = self.symmetric and self._inner.symmetric and self._second.symmetric
        self.transposable = self._inner.transposable and self._second.transposable

    def _of_first(self, A: DSparseMatrix) -> Preconditioner:
        """About A^-1. **Collective.**"""
        if self.inner != "auto":
            return make_preconditioner(self.inner, A)
        modes = translations(A)  # as block_size has them, but nodes need not be whole on a rank
        made = AMG(near_nullspace=modes).on(A)
        if not made.singular:
            return made
        # Bodies that float until they are tied: what they may move by must not be lost.
        values = A.values.detach().clone()
        where = A.pattern.owned.diagonal
        values[where[where >= 0].long()] *= 1 + max(1 / A.shape[0], _SHIFT)
        return AMG(near_nullspace=modes).on(A.with_values(values))

    def _choose(self, S: Complement, steps: int) -> None:
        """The best approximation of S, and the factor that brings it to scale. **Collective.**"""
        count, asked = S.layout.n_global, self.approximation
        if asked == "auto" and count <= _FEW:
            asked = "dense"
        names = [asked]
        if asked == "auto":
            names = ["diagonal", "lumped", *(() if self._saddle.penalised else ("lsc",))]
            names += ["dense"] if count <= _MORE else []
        best = 1.0
        self.trials: dict[str, Trial] = {}
        for name in names:
            if best < (_GOOD if name == "lumped" else _BAD):
                continue  # not worth to look at
            made = S.approximate(name)
            self.trials[name] = trial = S.attempt(made, steps)
            if name == names[0] or trial.reduction < best ** (1 / _WORTH):
                self.chosen, best = name, trial.reduction
                self._second, self._factor = made, 1 / trial.scale
        self._second = S.deflated(self._second, self._factor)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        s, sign = self._saddle, self._saddle.sign
        with self._turns:
            (u, v), (p, q) = self._long.like(r), self._short.like(r)
            u = self._inner.apply(s.first.take(r, u), v)
            s.second.take(r, p)
            if self.form == "lower":
                s.C.pattern.matmul(s.C.values, u, q)
                torch.sub(q, p, out=p)
                sign = 1.0
            p = self._second.apply(p, q)
            s.second.put(torch.mul(p, sign * self._factor, out=q), out)
            return s.first.put(u if sign > 0 else torch.neg(u, out=v), out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        s, sign = self._saddle, self._saddle.sign
        with self._turns:
            (u, v), (p, q) = self._long.like(r), self._short.like(r)
            p = self._second.apply_transpose(s.second.take(r, p), q)
            s.first.take(r, u)
            if self.form == "lower":
                p = torch.mul(p, -self._factor, out=q)
                s.C.pattern.rmatmul(s.C.values, p, v)
                torch.sub(u, v, out=u)
                sign = 1.0
            else:
                p = torch.mul(p, sign * self._factor, out=q)
            s.second.put(p, out)
            u = self._inner.apply_transpose(u, v)
            return s.first.put(u if sign > 0 else torch.neg(u, out=v), out)

    def describe(self) -> list[str]:
        """What the blocks are, and what was chosen for them. Local; replicated."""
        s, left = self._saddle, self.trials[self.chosen].reduction
        return [
            f"first block: {s.first.layout.n_global} rows, {self._inner.name}",
            f"constraints: {s.second.layout.n_global} rows, Schur complement {self.chosen} "
            f"(a step of GMRES leaves {left:.2g} of its residual)",
        ]
