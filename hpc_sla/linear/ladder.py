"""What to try, one after another, where nothing was named: methods with preconditioners.

The first is what suits the matrix, by `MatrixFacts`. The others are for where that fails or does
not pay, each dearer and surer than the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_sla.direct.fill import Cost
from hpc_sla.linear.facts import MatrixFacts, look
from hpc_sla.linear.method import Method
from hpc_sla.precond.gathered import expected
from hpc_sla.sparse.matrix import DSparseMatrix

SMALL = 20_000
"""Rows up to which a factorisation is thought of first."""

LARGE = 200_000
"""Rows up to which it is, where iterations may not converge."""

_NAMED = 2000
"""Rows up to which, of a method that is named, Jacobi's iterations cost less than a set-up."""

_EASY = 0.8
"""Where the off-diagonal entries of each row sum to no more of its diagonal, Jacobi's iteration
gains a digit in ten steps, and what is around it more."""

_HUBS = 30
"""Times the entries of the mean row, the longest of a network's: those of meshes are within 10."""

_GRADED = 0.3
"""Part of the off-diagonal entries that may have the diagonal's sign, for multigrid of what is not
symmetric."""

# What things take, in seconds on one core: they only have to be right beside each other.
_FLOP, _FACTOR_ENTRY, _ENTRY = 2e-10, 2.5e-8, 2e-9

_PRODUCTS = {"definite": 200, "saddle": 550, "unsymmetric": 600, "indefinite": 3000}
"""How many products with the matrix iterations that converge take, by the kind of matrix, the
set-up of their preconditioner included."""

_AT_ONCE = 0.02
"""Seconds of a factorisation that nothing can do better than."""


_AROUND = "fgmres:restart=10"
"""What mends what rounding leaves of a factorisation."""


@dataclass(frozen=True)
class Rung:
    """A method with a preconditioner, and why.

    Attributes
    ----------
    method : str or Method
    precond : Any
        As `solve` takes it, or a Preconditioner that is set up.
    why : str
    patience : int or None
        Iterations that it is worth before the next has its turn (see `hopeless`); None for any
        number.
    """

    method: str | Method
    precond: Any
    why: str
    patience: int | None = None

    def __str__(self) -> str:
        # Of a preconditioner that was given there is nothing to tell.
        with_it = f" + {self.precond}" if isinstance(self.precond, str) else ""
        return f"{self.method}{with_it}"


def ladder(facts: MatrixFacts, cost: Cost | None) -> list[Rung]:
    """The rungs for a square matrix of which nothing is named but itself. Local; replicated.

    =================================  ==========================================================
    the matrix                         in this order
    =================================  ==========================================================
    small, cheap to factorise          direct, then as below
    symmetric, diagonal of one sign    cg + amg, direct, minres + jacobi
    symmetric, zeros on the diagonal   fgmres + schur, direct, minres + jacobi
    symmetric, signs that differ       direct, fgmres + schur, minres + jacobi
    not symmetric, zeros there         direct, fgmres + schur, gmres + additive_schwarz
    not symmetric                      gmres + amg, gmres + additive_schwarz, direct
    dominant diagonal, very long rows  jacobi first, with cg or bicgstab
    =================================  ==========================================================

    Direct comes twice: one that takes seconds early, one that takes what there is at the end; after
    that comes what was left before it. Multigrid of what is not symmetric wants a positive diagonal
    and few entries of that sign beside it. Every rung but the last is left after `ROOM` times its
    patience at the latest, which is no more than some 3000 products with the matrix.

    Parameters
    ----------
    facts : MatrixFacts
    cost : Cost or None
        Of factorising it, where that was worth a look.
    """
    kind, rungs = _iterations(facts)
    # A shift is a part of the diagonal, and does nothing for multipliers.
    if cost is not None and not facts.null_multipliers and _pays(cost, facts, kind):
        shift = "direct:shift=1e-9" if _singular(facts) else "direct"
        why = f"{_what(facts)}, and cheap to factorise"
        rungs = [Rung(_AROUND, shift, why, 15), *rungs]
    return rungs


def choices(A: DSparseMatrix, method: Method | None) -> list[Rung]:
    """The rungs for a square matrix, of a method where one is named. **Collective**; replicated."""
    return rungs_for(A, look(A), method)


def rungs_for(A: DSparseMatrix, facts: MatrixFacts, method: Method | None) -> list[Rung]:
    """The same, where the matrix was looked at. **Collective**; replicated."""
    if method is not None:
        return preconditioners(facts, method)
    return ladder(facts, expected(A) if worth_a_look(facts) else None)


def preconditioners(facts: MatrixFacts, method: Method) -> list[Rung]:
    """The rungs of a method that is named, its preconditioner left open. Local; replicated."""
    jacobi = Rung(method, "jacobi", "any matrix will do")
    if facts.rows <= _NAMED or facts.dominance <= _EASY or facts.zero or facts.negative:
        return [jacobi]
    if method.needs_symmetric and not facts.symmetric_rest:
        return [jacobi]
    return [Rung(method, "amg", _what(facts), 100), jacobi]


def _singular(facts: MatrixFacts) -> bool:
    """Whether it surely is: by its row or column sums, or for want of entries."""
    sums = facts.zero_row_sums or facts.zero_column_sums or bool(facts.null_components)
    return sums or facts.null_multipliers or bool(facts.empty_rows or facts.empty_columns)


def _what(facts: MatrixFacts) -> str:
    """What the choice goes by, in words."""
    if not facts.rest:
        what = "diagonal"
    elif not facts.symmetric_rest:
        what = "not symmetric"
    else:
        what = "symmetric" if facts.symmetric else "symmetric but for rows of a diagonal alone"
        if facts.zero:
            what += f", {facts.zero} zeros on its diagonal"
        elif facts.positive and facts.negative:
            what += ", its diagonal of both signs"
        else:
            what += f", its diagonal {'negative' if facts.negative else 'positive'}"
    return f"the matrix is {what}{', singular' if _singular(facts) else ''}"


def worth_a_look(facts: MatrixFacts) -> bool:
    """Whether to ask what a factorisation costs. Local; replicated."""
    sure = _kind(facts) == "definite" or min(facts.dominance, facts.column_dominance) < 1
    return facts.rows <= (SMALL if sure or _hubs(facts) else LARGE)  # and see `expected`


def _hubs(facts: MatrixFacts) -> bool:
    """Whether rows are of very different length: what is multiplied or factorised fills up."""
    return facts.largest_row * facts.rows > _HUBS * max(facts.entries, 1)


def _kind(facts: MatrixFacts) -> str:
    if not facts.symmetric_rest:
        return "unsymmetric"
    if facts.zero:
        return "saddle"
    return "indefinite" if facts.positive and facts.negative else "definite"


def _pays(cost: Cost, facts: MatrixFacts, kind: str) -> bool:
    """Whether to factorise first. Local."""
    factorise = cost.flops * _FLOP + cost.entries * _FACTOR_ENTRY
    iterate = facts.entries * _ENTRY * _PRODUCTS[kind]
    sure = 1.5 if facts.rows <= SMALL else 1  # it ends, whatever the spectrum
    return factorise <= max(sure * iterate, _AT_ONCE)


def _iterations(facts: MatrixFacts) -> tuple[str, list[Rung]]:
    """The kind of matrix, and the rungs without a factorisation at the start. Local."""
    kind, what = _kind(facts), _what(facts)
    easy = min(facts.dominance, facts.column_dominance) <= _EASY or _hubs(facts)
    # One that takes seconds before what may take longer, one that takes all there is at the end.
    shift = "shift=1e-9," if _singular(facts) else ""
    quick, whatever = (
        [] if facts.null_multipliers else [Rung(_AROUND, direct.strip(":,"), what, 15)]
        for direct in (f"direct:{shift}most=20", f"direct:{shift}")
    )
    why = f"{what}, with {'very long rows' if _hubs(facts) else 'a dominant diagonal'}"
    schur = Rung("fgmres:restart=50", "schur", what, 100)
    if kind == "definite":
        # Conjugate gradients are for a positive one.
        method = "gmres:restart=50" if facts.negative else "cg"
        jacobi = [Rung(method, "jacobi", why, 200)] if easy else []
        amg = Rung(method, "amg", what, 100)
        last = Rung("minres", "jacobi", what, 1000)
        return kind, [*jacobi, amg, *quick, last, *whatever, last]
    if kind in ("saddle", "indefinite"):
        last = Rung("minres", "jacobi", what, 1000)
        # A diagonal of both signs may be that of a stabilised saddle point.
        first = [schur, *quick] if kind == "saddle" else [*quick, schur]
        return kind, [*first, last, *whatever, last]
    schwarz = Rung("gmres:restart=50", "additive_schwarz", what, 200)
    if facts.zero:
        return kind, [*quick, schur, schwarz, *whatever, schwarz]
    first = [Rung("bicgstab", "jacobi", why, 200)] if easy else []
    if not facts.negative and facts.wrong_sign <= _GRADED:
        first.append(Rung("gmres:restart=50", "amg", what, 60))
    return kind, [*first, schwarz, *whatever, schwarz]
