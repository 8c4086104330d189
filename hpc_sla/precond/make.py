"""The preconditioner that is asked for: by name, as an object, or as a callable."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from hpc_sla.kernels.modes import entry
from hpc_sla.precond.base import Preconditioner, Wrapped
from hpc_sla.precond.choices import CHOICES
from hpc_sla.precond.none import Identity
from hpc_sla.sparse.operators import as_operator


def needs_matrix(precond: Any) -> bool:
    """Whether it has yet to be set up: a name, or an object that was not put on a matrix. Local."""
    return isinstance(precond, str) or (
        isinstance(precond, Preconditioner) and precond.needs_matrix
    )


def check_known(precond: Any, *others: str) -> None:
    """Raise InputError unless it is one, by its name and options or as an object. Local.

    For calls that may turn out to need none, where a slip would go unnoticed.

    Parameters
    ----------
    precond : object
        As of `make_preconditioner`.
    *others : str
        Names that mean something where it is asked, such as "auto".
    """
    if isinstance(precond, str):
        if precond not in others:
            CHOICES.make(precond)
    elif not (precond is None or isinstance(precond, Preconditioner) or _applies(precond)):
        raise CHOICES.unknown(precond, ", or pass an object such as Chebyshev(degree=6)")


def _applies(precond: Any) -> bool:
    """Whether a user's own object can be applied: to call a class would make one. Local."""
    able = callable(precond) or hasattr(precond, "apply")
    return able and not isinstance(precond, type)


@entry
@torch.no_grad()
def make_preconditioner(precond: Any, A: Any, agreed: bool = False) -> Preconditioner:
    """The preconditioner asked for, ready to apply. **Collective.**

    Parameters
    ----------
    precond : str, None, callable, object with `apply`, or Preconditioner
        A name in `CHOICES`, with options as in `"chebyshev:degree=6"`, or an object such as
        `Chebyshev(degree=6)`; None is "none". A Preconditioner that was set up is used as it is.
        A callable (a torch module, say), or else an `apply` method, maps this rank's residual
        `[n_owned]` to its preconditioned residual.
    A : DSparseMatrix, its transpose, or LinearOperator
        Of the last two, "none", "jacobi" (given a `diagonal`), and preconditioners that are made
        already.
    agreed : bool
        Whether ranks know already that `precond` and the kind of A are the same on all.

    Raises
    ------
    InputError
        On every rank, for a name or an option that is not known, an option out of range, or a
        Preconditioner of another matrix.
    """
    if precond is None:
        return Identity()
    operator = as_operator(A)
    world = operator.world
    if isinstance(precond, (str, Preconditioner)):
        known = agreed and needs_matrix(precond)
        with nullcontext() if known else world.agree("make_preconditioner", precond=precond):
            M: Preconditioner = CHOICES.make(precond) if isinstance(precond, str) else precond
            if M.needs_matrix:
                M.check_matrix(A)
            else:
                M.check(operator.columns.n_owned, operator.dtype, operator.device)
        return M.made_on(A) if M.needs_matrix else M
    if not _applies(precond):
        with world.agree():
            check_known(precond)
    if callable(precond):
        return Wrapped(getattr(precond, "__name__", type(precond).__name__), precond)
    transpose = getattr(precond, "apply_transpose", None)
    return Wrapped(type(precond).__name__, precond.apply, transpose)
