"""Factors of a rank's own block: what block Jacobi and additive Schwarz solve with. All local."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct import BACKENDS, Factorization, factorize
from hpc_sla.errors import InputError, SingularMatrixError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.incomplete import Block, ic0, ilu0
from hpc_sla.precond.options import check_choice
from hpc_sla.precond.workspace import Workspace

_INCOMPLETE = {"ilu0": ilu0, "ic0": ic0}
FACTORS = (*_INCOMPLETE, "lu")
"""The sub-solvers by name."""

_FAR = 1.5
"""A factor may be far from its block from here on, see `_away`: those of grids in any good order
are within 1, of grids numbered at random within 1.3."""


class LocalFactor(Protocol):
    """A factorised block."""

    shift: float

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can be made of `solve`, and is worth it. Of vectors on a GPU."""

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """The solution for b `[n]` or `[n, k]`, in `out` or in a new tensor.

        Raises nothing that depends on numbers: other ranks may be waiting.
        """


class DirectFactor:
    """A factor of one of `hpc_sla.direct`'s backends."""

    shift = 0.0

    def __init__(self, factorization: Factorization) -> None:
        self._factorization = factorization

    @property
    def capturable(self) -> bool:
        return self._factorization.capturable

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        return self._factorization.apply(b, transpose)


class ReorderedFactor:
    """A factor of a block whose rows and columns were put into another order.

    Parameters
    ----------
    factor : LocalFactor
        Of `block.reordered(order)`.
    order : int64 array [n]
    device : torch.device
        Where the vectors are.
    """

    def __init__(self, factor: LocalFactor, order: np.ndarray, device: torch.device) -> None:
        self.shift = factor.shift
        self._factor = factor
        self._order = torch.from_numpy(order).to(device)
        self._work = Workspace(2, len(order))

    @property
    def capturable(self) -> bool:
        return self._factor.capturable

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """As `LocalFactor.solve`; out may be b."""
        there, found = self._work.like(b)
        torch.index_select(b, 0, self._order, out=there)
        found = self._factor.solve(there, found, transpose)
        return out.index_copy_(0, self._order, found)


def check_factor(kind: str, factor: str, backend: str) -> None:
    """Raise InputError unless the preconditioner `kind` can be made with these. Local."""
    check_choice(kind, "factor", factor, FACTORS)
    check_choice(kind, "backend", backend, ("auto", *BACKENDS))
    if backend != "auto" and factor != "lu":
        raise InputError(
            f"factor={factor} has no backends",
            field=f"{kind}:backend",
            remedy="Leave it out, or use factor=lu",
        )


def _incomplete(
    block: Block, user_rows: np.ndarray, device: torch.device, factor: str
) -> LocalFactor:
    """An incomplete factor in the stored order of rows, or in the user's where that matters. Local.

    Rows are stored where products are fast, an order that mostly suits incomplete factors too. But
    a user may have put rows whose diagonal is zero behind those that fill it: where the factor in
    stored order exists with a shift only, or may be far from the block, the user's order is tried,
    and the closer factor kept.
    """
    make, order = _INCOMPLETE[factor], np.argsort(user_rows)
    if (np.diff(order) == 1).all():
        return make(block, device)
    found: list[tuple[float, LocalFactor]] = []
    for turn in (None, order):
        try:
            made: LocalFactor = make(block if turn is None else block.reordered(turn), device)
        except InputError:
            continue
        if turn is not None:
            made = ReorderedFactor(made, turn, device)
        away = _away(block, made, device)
        if made.shift == 0 and away <= _FAR:
            return made
        found.append((away, made))
    if not found:
        return make(block, device)  # which says what is wrong
    return min(found, key=lambda one: one[0])[1]


def _away(block: Block, factor: LocalFactor, device: torch.device) -> float:
    """How far A M^-1 v is from v, for a v that weighs all rows alike. Local.

    ||S (A M^-1 v - v)|| / ||S v|| with S v all ones, where S scales the diagonal to ones: next to 1
    for a factor that serves, thousands for one whose pivots are small by chance (after E. Chow and
    Y. Saad, J. Comput. Appl. Math. 86 (1997), section 3, who look at M^-1 e). Infinite where it is
    no number.
    """
    largest, size = block.row_maxima(), np.abs(block.values[block.diagonal])
    size = np.where(size > np.finfo(size.dtype).eps * largest, size, largest)
    v = np.sqrt(np.where(size > 0, size, 1))
    there = torch.from_numpy(v).to(device)
    solution = factor.solve(there, torch.empty_like(there)).cpu().numpy()
    matrix = sp.csr_matrix((block.values, block.indices, block.indptr), shape=(block.n, block.n))
    with np.errstate(all="ignore"):
        away = float(np.linalg.norm((matrix @ solution) / v - 1)) / max(1, block.n) ** 0.5
    return away if np.isfinite(away) else np.inf


def options_to_name(factor: str) -> tuple[str, ...]:
    """The options that say how blocks are solved, where a string always tells them."""
    return ("factor", "backend") if factor == "lu" else ("factor",)


def make_factor(
    block: Block, user_rows: np.ndarray, device: torch.device, factor: str, backend: str
) -> LocalFactor:
    """Factorise a rank's block. Local; `check_factor` has been passed.

    Parameters
    ----------
    block : Block
    user_rows : int64 array [n]
        The user's row of each of the block's.
    device : torch.device
    factor, backend : str

    Raises
    ------
    InputError
        The block cannot be factorised so, or the backend cannot be used here. **Local**: callers
        agree.
    """
    if factor in _INCOMPLETE:
        return _incomplete(block, user_rows, device, factor)
    if not np.isfinite(block.values).all():
        return ilu0(block, device)  # whose answer to that is NaN, for the solver to see
    indptr, indices, values = (
        torch.from_numpy(a).to(device) for a in (block.indptr, block.indices, block.values)
    )
    pattern = CsrPattern(indptr, indices, block.n)
    # A backend may come back to them for the transpose, and they are the matrix's own until then.
    values = values.clone()
    try:
        direct = factorize(pattern, values, backend=backend, repeated=True)
        # Some backends know of a singular matrix only by its solutions, and a loop is too late.
        direct.solve(torch.cos(torch.arange(block.n, dtype=values.dtype, device=device)))
    except SingularMatrixError as error:
        raise InputError(
            f"a rank's block of {block.n} rows cannot be factorised: {error}",
            field="precond",
            remedy="Use factor=ilu0, which shifts its diagonal",
        ) from error
    return DirectFactor(direct)
