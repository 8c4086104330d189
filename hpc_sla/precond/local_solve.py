"""Factors of a rank's own block: what block Jacobi and additive Schwarz solve with. All local."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from hpc_sla.direct import BACKENDS, Factorization, factorize
from hpc_sla.errors import InputError, SingularMatrixError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.incomplete import Block, ic0, ilu0

_INCOMPLETE = {"ilu0": ilu0, "ic0": ic0}
FACTORS = (*_INCOMPLETE, "lu")
"""The sub-solvers by name."""


class LocalFactor(Protocol):
    """A factorised block."""

    shift: float

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """The solution for b `[n]` or `[n, k]`, in `out` or in a new tensor.

        Raises nothing that depends on numbers: other ranks may be waiting.
        """


class DirectFactor:
    """A factor of one of `hpc_sla.direct`'s backends."""

    shift = 0.0

    def __init__(self, factorization: Factorization) -> None:
        self._factorization = factorization

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        return self._factorization.apply(b, transpose)


def check_factor(kind: str, factor: str, backend: str) -> None:
    """Raise InputError unless the preconditioner `kind` can be made with these. Local."""
    if factor not in FACTORS:
        raise InputError(
            f"unknown factor {factor!r}",
            field=f"{kind}:factor",
            remedy=f"Choose one of {', '.join(FACTORS)}",
        )
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(
            f"unknown backend {backend!r}",
            field=f"{kind}:backend",
            remedy=f"Choose one of auto, {', '.join(BACKENDS)}",
        )
    if backend != "auto" and factor != "lu":
        raise InputError(
            f"factor={factor} has no backends",
            field=f"{kind}:backend",
            remedy="Leave it out, or use factor=lu",
        )


def factor_options(factor: str, backend: str) -> str:
    """How a preconditioner's name tells them."""
    return f"factor={factor}" + (f",backend={backend}" if factor == "lu" else "")


def make_factor(block: Block, device: torch.device, factor: str, backend: str) -> LocalFactor:
    """Factorise a rank's block. Local; `check_factor` has been passed.

    Raises
    ------
    InputError
        The block cannot be factorised so, or the backend cannot be used here. **Local**: callers
        agree.
    """
    if factor in _INCOMPLETE:
        return _INCOMPLETE[factor](block, device)
    if not np.isfinite(block.values).all():
        return ilu0(block, device)  # whose answer to that is NaN, for the solver to see
    indptr, indices, values = (
        torch.from_numpy(a).to(device) for a in (block.indptr, block.indices, block.values)
    )
    pattern = CsrPattern(indptr, indices, block.n)
    # A backend may come back to them for the transpose, and they are the matrix's own until then.
    values = values.clone()
    try:
        made = factorize(pattern, values, backend=backend, repeated=True)
        # Some backends know of a singular matrix only by its solutions, and a loop is too late.
        made.solve(torch.cos(torch.arange(block.n, dtype=values.dtype, device=device)))
    except SingularMatrixError as error:
        raise InputError(
            f"a rank's block of {block.n} rows cannot be factorised: {error}",
            field="precond",
            remedy="Use factor=ilu0, which shifts its diagonal",
        ) from error
    return DirectFactor(made)
