"""Preconditioners by name."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry
from hpc_sla.precond.amg import amg
from hpc_sla.precond.base import Identity, Preconditioner, Wrapped
from hpc_sla.precond.block_jacobi import BlockJacobi
from hpc_sla.precond.chebyshev import Chebyshev
from hpc_sla.precond.choices import CHOICES
from hpc_sla.precond.jacobi import Jacobi, L1Jacobi
from hpc_sla.precond.options import options_of, parse_options
from hpc_sla.precond.polynomial import Polynomial
from hpc_sla.precond.schwarz import AdditiveSchwarz
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

_KINDS: dict[str, Any] = {
    "none": lambda A: Identity(),
    "jacobi": lambda A: Jacobi(A.diagonal()),
    "l1_jacobi": L1Jacobi,
    "chebyshev": Chebyshev,
    "polynomial": Polynomial,
    "block_jacobi": BlockJacobi,
    "additive_schwarz": AdditiveSchwarz,
    "amg": amg,
}


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of, say, `additive_schwarz:overlap=2,type=basic`. Local.

    Raises
    ------
    InputError
        An unknown name or option, naming those there are, or a value of another type.
    """
    name, _, options = spec.partition(":")
    if name not in CHOICES:
        raise InputError(
            f"unknown preconditioner {name!r}",
            field="precond",
            remedy=f"Choose one of {', '.join(CHOICES)}",
        )
    return name, parse_options(name, options, options_of(_KINDS[name]))


@entry
@torch.no_grad()
def make_preconditioner(precond: Any, A: Any, agreed: bool = False) -> Preconditioner:
    """The preconditioner asked for, ready to apply. **Collective.**

    Parameters
    ----------
    precond : str, None, callable, object with `apply`, or Preconditioner
        A name in `CHOICES`, with options as in `"chebyshev:degree=6"`; None is "none". A
        Preconditioner is used as it is. A callable (a torch module, say), or else an `apply`
        method, maps this rank's residual `[n_owned]` to its preconditioned residual.
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
    if isinstance(precond, Preconditioner):
        with world.agree():
            precond.check(operator.columns.n_owned, operator.dtype, operator.device)
        return precond
    if isinstance(precond, str):
        with nullcontext() if agreed else world.agree():
            name, options = parse(precond)
            if not isinstance(A, DSparseMatrix) and name not in ("none", "jacobi"):
                raise InputError(
                    f"{name} needs the entries of a matrix, and {type(A).__name__} has none",
                    field="precond",
                    remedy='Choose "none" or "jacobi", or pass a callable',
                )
            if not operator.square and name != "none":
                raise InputError(
                    f"{name} needs a square matrix",
                    field="precond",
                    remedy='Choose "none", or "jacobi" with method lsqr',
                )
        if name == "jacobi":
            return Jacobi(operator.diagonal())
        made: Preconditioner = _KINDS[name](A, **options)
        return made
    if callable(precond):
        return Wrapped(getattr(precond, "__name__", type(precond).__name__), precond)
    if hasattr(precond, "apply"):
        transpose = getattr(precond, "apply_transpose", None)
        return Wrapped(type(precond).__name__, precond.apply, transpose)
    with world.agree():
        raise InputError(
            f"unknown preconditioner {precond!r}",
            field="precond",
            remedy=f"Choose one of {', '.join(CHOICES)}, or pass a callable",
        )
    raise AssertionError("unreachable")
