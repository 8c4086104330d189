"""factorize: choose a backend and a method, and factorise."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.direct.base import Empty, Factorization, LocalMatrix
from hpc_sla.direct.fill import elimination
from hpc_sla.direct.registry import BACKENDS, Backend
from hpc_sla.errors import InputError, MissingDependencyError, SingularMatrixError
from hpc_sla.kernels.modes import entry

METHODS = tuple(dict.fromkeys(method for b in BACKENDS.values() for method in b.methods))
"""Every method that some backend has."""

_ALIASES = {"cholesky": "llt"}
_SYMMETRIC = ("llt", "ldlt")
_SPARSE = 150
"""Operations of LU for each entry of the factors, up to which Eigen is faster than SuperLU: of
plane problems to 10^5 rows, and of small ones in space."""


@entry
def factorize(
    matrix: Any,
    values: torch.Tensor | None = None,
    *,
    backend: str = "auto",
    method: str = "auto",
    repeated: bool = False,
) -> Factorization:
    """Factorise a square sparse matrix that this process holds. Local.

    Parameters
    ----------
    matrix : CsrPattern, or SciPy sparse matrix or array [n, n]
        A pattern has its columns ascending and distinct within each row.
    values : torch.Tensor [nnz]
        Of a CsrPattern's entries: float64 or float32, on the pattern's device.
    backend : str
        One of `BACKENDS`, or `auto`. For a matrix on the CPU that is `eigen` where it is
        installed, Cholesky will do and there is little fill, else `scipy`; on a GPU `cudss`, else
        `cusolver`, else `scipy` on a copy. A backend that computes on the CPU takes a matrix on a
        GPU too, and copies it (and every b and x) through the host.
    method : str
        `lu`, `umfpack`, `qr`, `llt` (or `cholesky`), `ldlt`, or `auto`: `llt` where the matrix is
        symmetric with a positive diagonal and the backend has it, which costs half of LU; the
        backend's general method otherwise, and where Cholesky finds the matrix indefinite.
        `auto` never takes `ldlt`, which does not pivot and so may fail or lose digits.
    repeated : bool
        Whether many solves will follow, one after the other, as of a preconditioner. On a GPU
        without cuDSS `auto` then takes `triangular`: cuSOLVER factorises anew for each solve.

    Returns
    -------
    Factorization

    Raises
    ------
    SingularMatrixError
        A zero pivot; or, for `llt`, a matrix that is not positive definite.
    InputError
        Not square, not finite, an unknown backend or method, a method for symmetric matrices on
        one that is not. MissingDependencyError where the backend cannot be used here.

    Examples
    --------
    >>> import scipy.sparse as sp, torch
    >>> from hpc_sla.direct import factorize
    >>> factors = factorize(sp.eye(3, format="csr") * 2.0)
    >>> factors.solve(torch.ones(3, dtype=torch.float64))
    tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    method = _ALIASES.get(method, method)
    local = LocalMatrix.of(matrix, values)
    if method != "auto" and method not in METHODS:
        raise InputError(
            f"unknown method {method!r}",
            field="method",
            remedy=f"Choose one of auto, {', '.join(METHODS)}",
        )
    if backend == "auto":
        chosen = _choose(local, method, repeated)
    else:
        chosen = _named(backend, local, method)
    general = next(iter(m for m in chosen.methods if m not in _SYMMETRIC))
    if method != "auto":
        if method in _SYMMETRIC and not local.symmetric:
            raise InputError(
                f"{method} is for symmetric matrices, and this one is not",
                field="method",
                remedy=f"Use method={general!r}",
            )
        return _make(chosen, local, method)
    if "llt" in chosen.methods and local.positive_diagonal and local.symmetric:
        try:
            return _make(chosen, local, "llt")
        except SingularMatrixError:
            # SuperLU, in our order, takes a third of the time of Eigen's LU.
            if backend == "auto" and chosen.name == "eigen":
                return _make(BACKENDS["scipy"], local, "lu")
    return _make(chosen, local, general)


def _make(backend: Backend, local: LocalMatrix, method: str) -> Factorization:
    if local.n == 0:
        return Empty(local, method, backend.name)
    assert backend.make is not None
    return backend.make(local, method)


def _sparse(local: LocalMatrix) -> bool:
    """Whether Cholesky entry by entry is faster than LU by dense blocks. Local."""
    cost = elimination(local).cost
    return cost.flops <= _SPARSE * cost.entries


def _choose(local: LocalMatrix, method: str, repeated: bool) -> Backend:
    if method != "auto":
        order = ["scipy", "eigen"]
    elif local.positive_diagonal and local.symmetric and _sparse(local):
        order = ["eigen", "scipy"]
    else:
        order = ["scipy"]
    if local.values.device.type == "cuda":
        order = ["cudss", *(["triangular", "cusolver"] if repeated else ["cusolver"]), *order]
    asked = None if method == "auto" else method
    able = [BACKENDS[n] for n in order if asked is None or asked in BACKENDS[n].methods]
    for backend in able:
        if backend.available(asked):
            return backend
    raise MissingDependencyError(
        f"no backend for {method!r} can be used here: "
        + "; ".join(f"{backend.name}: {backend.why_not(asked)}" for backend in able),
        field="method",
    )


def _named(name: str, local: LocalMatrix, method: str) -> Backend:
    if name not in BACKENDS:
        raise InputError(
            f"unknown backend {name!r}",
            field="backend",
            remedy=f"Choose one of auto, {', '.join(BACKENDS)}",
        )
    backend = BACKENDS[name]
    if method != "auto" and method not in backend.methods:
        raise InputError(
            f"{name} has no method {method!r}",
            field="method",
            remedy=f"Choose one of auto, {', '.join(backend.methods)}",
        )
    if reason := backend.why_not(None if method == "auto" else method):
        raise MissingDependencyError(
            f"{name} cannot be used here: {reason}",
            field="backend",
            remedy="'python -m hpc_sla backends' lists those that can",
        )
    here = local.values.device.type
    if here not in backend.devices and "cpu" not in backend.devices:
        raise InputError(
            f"{name} computes on {', '.join(backend.devices)}, and the matrix is on the {here}",
            field="backend",
            remedy="Move it there, or use another backend",
        )
    return backend
