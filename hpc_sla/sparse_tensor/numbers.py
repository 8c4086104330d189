"""Numbers that say what a SparseTensor is: norms, condition, determinants, symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hpc_sla import direct
from hpc_sla.direct.determinant import is_positive_definite, slogdet
from hpc_sla.errors import InputError, SingularMatrixError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse_tensor.algebra import SparseAlgebra

_DENSE = 100
"""Up to so many rows or columns singular values are those of a dense matrix."""


class SparseNumbers(SparseAlgebra):
    """What `SparseTensor` inherits: shape [*batch], the batch's, of all results."""

    @entry
    def norm(self, ord: str | float = "fro") -> torch.Tensor:
        """A norm. Differentiable where it is; at a zero matrix the gradient is 0.

        Parameters
        ----------
        ord : "fro", 1, inf or 2
            Frobenius; the largest sum of moduli of a column, of a row; the largest singular value,
            which is differentiable once, where it is simple.
        """
        if ord == "fro":
            return torch.linalg.vector_norm(self.values, dim=-1)
        if ord in (1, math.inf):
            sums = abs(self).sum(axis=0 if ord == 1 else 1)
            if not sums.shape[-1]:
                return sums.sum(-1)
            return sums.amax(-1)
        if ord == 2:
            return self._each(lambda A: _by_vectors(A, _largest(A)))
        raise InputError(f"{ord!r} is not 'fro', 1, 2 or inf", field="ord")

    @entry
    def cond(self, ord: float = 2) -> torch.Tensor:
        """The condition number ||A|| ||A^-1||; inf of a singular matrix. In double precision.

        Parameters
        ----------
        ord : 2, 1 or inf
            2: the quotient of the largest and the smallest singular value, of any shape; inf where
            it is 1 / eps of the dtype or more, of which rounding leaves no digit; differentiable
            once, where both are simple. 1 and inf, of square ones: ||A^-1|| as N. J.
            Higham and F. Tisseur estimate it (SIMAX 21, 2000), mostly exactly and never too large;
            not differentiable.
        """
        if ord not in (1, 2, math.inf):
            raise InputError(f"{ord!r} is not 1, 2 or inf", field="ord")
        if ord == 2:
            return self._each(_cond_2)
        self._require_square("cond")
        return self.detach()._each(lambda A: A.values.new_tensor(_cond_1(A, ord)))

    @entry
    def slogdet(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sign and logarithm of the modulus of the determinant, as `torch.linalg.slogdet`.

        From the factors of a direct solver, on the host. Differentiable any number of times: a
        gradient takes n solves with the factors, some columns at a time. 0 and -inf for a singular
        matrix, which has no gradient: SingularMatrixError in backward.
        """
        self._require_square("slogdet")
        found = [slogdet(A.pattern.owned, A.values) for A in self._matrices()]
        signs, logarithms = ([pair[i] for pair in found] for i in (0, 1))
        return self._stacked(signs), self._stacked(logarithms)

    @entry
    def logdet(self) -> torch.Tensor:
        """The logarithm of the determinant: NaN where that is negative. As `slogdet`."""
        sign, logarithm = self.slogdet()
        return torch.where(sign < 0, math.nan, logarithm)

    @entry
    def det(self) -> torch.Tensor:
        """The determinant, which leaves the range of a float soon. As `slogdet`."""
        sign, logarithm = self.slogdet()
        return sign * logarithm.exp()

    @entry
    def is_symmetric(self, rtol: float | None = None, atol: float = 0.0) -> torch.Tensor:
        """Whether it equals its transpose: bool.

        Parameters
        ----------
        rtol, atol : float
            ``|a_ij - a_ji| <= atol + rtol (|a_ij| + |a_ji|)`` at every entry. Default of rtol: a
            thousand units in the last place, by which solvers are chosen.
        """
        if self.shape[0] != self.shape[1]:
            return torch.zeros(self.values.shape[:-1], dtype=torch.bool, device=self.device)
        rtol = 1000 * torch.finfo(self.dtype).eps if rtol is None else rtol
        mine = self.detach()
        apart, size = mine - mine.T, abs(mine) + abs(mine.T)
        return (apart.values.abs() <= atol + rtol * size.values).all(-1)

    @entry
    def is_positive_definite(self) -> torch.Tensor:
        """Whether it is symmetric (to rounding) and positive definite: bool.

        By the signs of the pivots of a factorisation on the host.
        """
        if self.shape[0] != self.shape[1]:
            return torch.zeros(self.values.shape[:-1], dtype=torch.bool, device=self.device)
        found = [is_positive_definite(A.pattern.owned, A.values) for A in self._matrices()]
        kind = {"dtype": torch.bool, "device": self.device}
        return torch.tensor(found, **kind).reshape(self.values.shape[:-1])  # type: ignore[arg-type]

    def _each(self, function: Callable[[DSparseMatrix], torch.Tensor]) -> torch.Tensor:
        return self._stacked([function(A) for A in self._matrices()])

    def _stacked(self, found: list[torch.Tensor]) -> torch.Tensor:
        shape = self.values.shape[:-1]
        if not found:
            return self.values.sum(-1)
        return torch.stack(found).reshape(shape)

    def _require_square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise InputError(
                f"{what} of a {self.shape[0]} x {self.shape[1]} matrix, which is not square"
            )


Vectors = tuple[np.ndarray, np.ndarray]


def _by_vectors(A: DSparseMatrix, pair: Vectors | None) -> torch.Tensor:
    """The singular value of these vectors, in A's dtype and the graph of its values. Local.

    As u . A v, which does not change to first order with u and v.
    """
    if pair is None:
        return A.values.sum() * 0
    u, v = (torch.from_numpy(x).to(A.device, A.dtype) for x in pair)
    found: torch.Tensor = u @ (A @ v)
    return found


def _largest(A: DSparseMatrix) -> Vectors | None:
    """The singular vectors of the largest singular value; None for an empty matrix. Local."""
    matrix = A.local_csr().astype(np.float64)
    if not min(matrix.shape):
        return None
    if min(matrix.shape) <= _DENSE:
        u, _, v = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return u[:, 0], v[0]
    return _power(lambda x: matrix @ x, lambda y: matrix.T @ y, matrix.shape)


def _power(
    product: Callable[[np.ndarray], np.ndarray],
    transposed: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
) -> Vectors | None:
    """The vectors u, v of the largest singular value of an operator, by Lanczos. Local."""
    from scipy.sparse.linalg import LinearOperator, eigsh  # slow to load

    n = shape[1]
    normal: Any = LinearOperator(
        (n, n), matvec=lambda x: transposed(product(x.ravel())), dtype=np.float64
    )
    start = np.random.default_rng(0).standard_normal(n)
    if not product(start).any():  # of which Lanczos has no second vector
        return np.zeros(shape[0]), start / np.linalg.norm(start)
    v = eigsh(normal, k=1, v0=start, tol=0)[1][:, 0]
    u = product(v)
    size = np.linalg.norm(u)
    return (u / size, v) if size else (u, v)


def _cond_2(A: DSparseMatrix) -> torch.Tensor:
    # The sums of u . A v cancel to the smallest value: in single precision nothing would be left.
    double = A.to(torch.float64)
    largest = _largest(double)
    if largest is None:
        return A.values.sum() * 0 + 1.0
    smallest = _smallest(double)
    if smallest is not None:
        most, least = (_by_vectors(double, pair) for pair in (largest, smallest))
        if float(least.detach()) > torch.finfo(A.dtype).eps * float(most.detach()):
            return (most / least).to(A.dtype)
    return A.values.sum() * 0 + math.inf


def _smallest(A: DSparseMatrix) -> Vectors | None:
    """The vectors of the smallest singular value; None where factors show that it is 0. Local."""
    m, n = A.shape
    matrix = A.local_csr().astype(np.float64)
    if min(m, n) <= _DENSE:
        u, _, v = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return u[:, -1], v[-1]
    if m != n:
        raise InputError(
            f"the 2-norm condition of a {m} x {n} matrix with more than {_DENSE} of either is that "
            "of its Gram matrix",
            field="ord",
            remedy="Take the square root of (S.T @ S).cond(), if that is below 1e15",
        )
    try:
        factors = direct.factorize(matrix, backend="scipy", method="lu")

        def inverse(x: np.ndarray, transpose: bool) -> np.ndarray:
            return factors.solve(torch.from_numpy(x), transpose).numpy()

        # Of A^-1 the largest: A^-1 u = v / s.
        found = _power(lambda x: inverse(x, False), lambda y: inverse(y, True), (n, m))
    except SingularMatrixError:
        return None
    return None if found is None else (found[1], found[0])


def _cond_1(A: DSparseMatrix, ord: float) -> float:
    from scipy.sparse.linalg import LinearOperator, onenormest  # slow to load

    matrix: Any = A.local_csr().astype(np.float64)
    n = matrix.shape[0]
    if not n:
        return 1.0
    if ord == math.inf:
        matrix = matrix.T.tocsr()  # of which it is the 1-norm
    size = abs(matrix).sum(axis=0).max()
    try:
        factors = direct.factorize(matrix, backend="scipy", method="lu")

        def solve(x: np.ndarray, transpose: bool) -> np.ndarray:
            return factors.solve(torch.from_numpy(np.ascontiguousarray(x)), transpose).numpy()

        inverse = LinearOperator(
            (n, n),
            matvec=lambda x: solve(x.ravel(), False),
            rmatvec=lambda x: solve(x.ravel(), True),
            matmat=lambda x: solve(x, False),
            rmatmat=lambda x: solve(x, True),
            dtype=np.float64,
        )
        if n <= 4:  # which the estimator takes for a small dense matrix, and wants whole
            return float(size * abs(inverse @ np.eye(n)).sum(axis=0).max())
        state = np.random.get_state()  # noqa: NPY002 - of whose numbers the estimator takes some
        np.random.seed(0)  # noqa: NPY002
        try:
            found = onenormest(inverse)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    except SingularMatrixError:
        return math.inf
    return float(size * found)
