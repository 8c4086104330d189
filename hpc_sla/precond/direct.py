"""Factorise the whole matrix on one rank: small systems, or what nothing else solves."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct import Factorization, factorize
from hpc_sla.direct.base import LocalMatrix
from hpc_sla.direct.fill import elimination
from hpc_sla.errors import HpcSlaError, InputError, SingularMatrixError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.observe.memory import available_bytes
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.gathered import (
    expected,
    from_rank_0,
    gather,
    pattern_of,
)
from hpc_sla.sparse.matrix import DSparseMatrix

_SINGULAR = 1e15
"""Rows and columns scaled, a right-hand side of size 1 has a solution beyond this only where
nothing of it is known."""
_WRONG = 1e-4


class Direct(Preconditioner):
    """`M = A`, or next to it: a sparse direct solver, refined by the method around it.

    All entries and each residual go to rank 0, in the user's order of rows, so that neither the
    number of ranks nor the partition changes the result. There `hpc_sla.direct` factorises in
    double precision, on rank 0's GPU where it has one. The memory is rank 0's: `expected` says
    how much, beforehand. PETSc's `redundant`, of which every rank does the same.

    Parameters
    ----------
    shift : float
        What is added to the diagonal, as a part of it. 0 for A itself. A singular system that has
        a solution, such as one of a graph Laplacian or of pure Neumann conditions, needs a little,
        1e-9 say, and takes a few iterations.
    most : float
        Refuse what takes more than so many 10^9 operations; 0 for any number.

    Attributes
    ----------
    entries : int
        In the factors, where the backend tells; else what was expected. Replicated; once set up.

    Raises
    ------
    InputError
        A shift that is negative or not finite; in `on`, on every rank, a matrix that is singular,
        that takes more operations than `most`, or that rank 0 has no memory for.
    """

    name = "direct"
    petsc = "redundant"

    def __init__(self, shift: float = 0.0, most: float = 0.0) -> None:
        self.shift, self.most = shift, most
        self.check_options()
        for name, value in (("shift", shift), ("most", most)):
            if not 0 <= value < np.inf:
                raise InputError(f"{value} is not a number from 0 on", field=f"direct:{name}")

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        self._check_work(A)
        gathered = gather(A)
        matrix = gathered.matrix(A.values)
        factors: Factorization | None = None
        error: HpcSlaError | None = None
        told: dict[str, Any] = {}
        # Without the others, who sleep and hear of it when it is over.
        if matrix is not None and bool(torch.isfinite(matrix.values).all()):
            try:
                factors = _factorised(matrix, self.shift, A.device)
                told = _facts(matrix, factors)
            except HpcSlaError as caught:
                error = caught
        told = from_rank_0(A, told)
        with A.world.agree():
            if error is not None:
                raise error
        # Only now: what could not be updated serves on as it was.
        self._pattern, self._gathered, self._factors = A.pattern, gathered, factors
        self._finite = bool(told)
        self.entries: int = told.get("entries", 0)
        self.of_nonsymmetric = not told.get("symmetric", True)
        self._said: str = told.get("said", "not finite, so that nothing was factorised")

    def _check_work(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        if not self.most:
            return
        cost = expected(A)
        work = np.inf if cost is None else cost.flops
        if work > 1e9 * self.most:
            raise InputError(
                f"takes {work / 1e9:.3g} billion operations, more than {self.most:g}",
                field="direct:most",
                remedy="Leave it out, or choose amg",
            )

    def update(self, A: DSparseMatrix) -> Direct:
        """Factorise other values on the same pattern, in the order that is known. **Collective.**

        Raises
        ------
        InputError
            On every rank: another pattern, or as of `on`.
        """
        with A.world.agree("Direct.update", A=A.shape):
            if A.pattern is not self._pattern:
                raise InputError(
                    "the matrix has another pattern than the one that was factorised",
                    field="A",
                    remedy="Pass with_values() of that matrix, or set up another one",
                )
        with self._turns, torch.no_grad():
            self.set_up(A)
        return self

    def describe(self) -> list[str]:
        """What was factorised, where and how. Local; replicated."""
        return [f"gathered on rank 0: {self._said}"]

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        return self._solve(r, out, False)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        return self._solve(r, out, True)

    def _solve(self, r: torch.Tensor, out: torch.Tensor, transpose: bool) -> torch.Tensor:
        if not self._finite:
            return out.fill_(torch.nan)  # for the solver to see
        with self._turns:
            b = self._gathered.to_root(r)
            x = None
            if b is not None and self._factors is not None:
                x = self._factors.apply(b, transpose)
            return self._gathered.from_root(x, out)


def _facts(matrix: LocalMatrix, factors: Factorization) -> dict[str, Any]:
    """What every rank is to know. Local."""
    cost = elimination(matrix).cost if factors.method in ("lu", "llt") else None
    entries = getattr(factors, "entries", cost.entries if cost else 0)
    ordering = getattr(factors, "ordering", "")
    said = [f"{matrix.n} rows, factorised by {factors.backend} {factors.method}", ordering]
    said += [f"{entries:.2g} entries in the factors"] if entries else []
    return {
        "entries": entries,
        "symmetric": matrix.symmetric,
        "said": ", ".join(filter(None, said)),
    }


def _factorised(matrix: LocalMatrix, shift: float, device: torch.device) -> Factorization:
    """Local.

    Raises
    ------
    InputError
        Naming the cause.
    """
    n = matrix.n
    if device.type == "cpu":
        free, needed = available_bytes(), elimination(matrix).cost.bytes
        if free is not None and needed > free:  # a process that asks for too much is killed
            raise _no_memory(matrix, f", and {free / 1e9:.2g} GB are free")
    shifted = _shifted(matrix, shift) if shift else matrix
    try:
        factors = factorize(_on(shifted.pattern, device), shifted.values.to(device), repeated=True)
        _look_at(shifted, factors)
    except SingularMatrixError as error:
        raise InputError(
            f"the matrix of {n} rows cannot be factorised: {error}",
            field="precond",
            remedy="Where the system has solutions all the same, use direct:shift=1e-9"
            if not shift
            else "Use a larger shift, or another preconditioner",
        ) from error
    except MemoryError as error:
        raise _no_memory(matrix) from error
    return factors


def _no_memory(matrix: LocalMatrix, free: str = "") -> InputError:
    gigabytes = elimination(matrix).cost.bytes / 1e9
    return InputError(
        f"rank 0 has no memory for the factors of {matrix.n} rows, which take about "
        f"{gigabytes:.2g} GB{free}",
        field="precond",
        remedy='Choose "amg" or "additive_schwarz"',
    )


def _on(pattern: CsrPattern, device: torch.device) -> CsrPattern:
    if device.type == "cpu":
        return pattern
    return CsrPattern(pattern.indptr.to(device), pattern.indices.to(device), pattern.n_columns)


def _shifted(matrix: LocalMatrix, shift: float) -> LocalMatrix:
    """`A + shift diag(A)`, the diagonal of rows that have no entry that of the largest. Local."""
    n, data = matrix.n, matrix.values.numpy()
    indptr, indices = matrix.pattern.indptr.numpy(), matrix.pattern.indices.numpy()
    csr = sp.csr_matrix((data, indices, indptr), shape=(n, n))
    diagonal = csr.diagonal()
    added = shift * diagonal
    empty = np.bincount(np.repeat(np.arange(n), np.diff(indptr)), data != 0, n) == 0
    added[empty] = np.abs(diagonal).max(initial=0) or 1.0
    where = matrix.pattern.diagonal.numpy()
    if (where >= 0).all():
        values = data.copy()
        values[where] += added
        return LocalMatrix(matrix.pattern, torch.from_numpy(values))
    other = sp.csr_matrix(csr + sp.diags_array(added))
    other.sort_indices()
    pattern = pattern_of(other)
    return LocalMatrix(pattern, torch.from_numpy(other.data))


def _look_at(matrix: LocalMatrix, factors: Factorization) -> None:
    """Raise SingularMatrixError where one solve shows that the factors serve nobody. Local.

    Some backends know of a singular matrix only by its solutions, and rounding may leave something
    of a pivot that is zero. Rows and columns are measured by their largest entries.
    """
    n, size = matrix.n, np.abs(matrix.values.numpy())
    if n == 0:
        return
    rows = _largest(matrix.pattern.indptr.numpy(), size)
    other = matrix.transposed.pattern
    order = matrix.pattern.transposed[1].numpy()
    relative = size / np.repeat(rows, np.diff(matrix.pattern.indptr.numpy()))
    columns = _largest(other.indptr.numpy(), relative[order])
    b = torch.from_numpy(rows * np.cos(np.arange(n)))
    x = factors.solve(b).cpu()
    product = torch.empty_like(x)
    matrix.pattern.matmul(matrix.values, x, product)
    largest = float(np.abs(x.numpy() * columns).max())
    left = float((np.abs((b - product).numpy()) / rows).max())
    if largest > _SINGULAR:
        raise SingularMatrixError(
            f"{factors.backend} {factors.method}: the matrix is singular to working precision: "
            f"a solution grew to {largest:.1e} times its right-hand side"
        )
    if left > _WRONG * (largest + 1):
        raise SingularMatrixError(
            f"{factors.backend} {factors.method}: the factors are wrong: a residual of {left:.1e}"
        )


def _largest(indptr: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The largest of each row, none of which is empty: the factorisation has seen to that."""
    return np.maximum.reduceat(size, indptr[:-1])
