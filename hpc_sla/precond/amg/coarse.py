"""The last level: solved directly, by every rank that still takes part."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.kernels.cycle import DenseInverse, dense
from hpc_sla.kernels.modes import lasting
from hpc_sla.sparse.matrix import DSparseMatrix

_SINGULAR = {torch.float64: 1e-11, torch.float32: 2e-6}
"""Singular values below this part of the largest are those of a nullspace, by the dtype that the
entries were rounded to: zero is some of its eps, and its inverse would drown all else."""


_SLACK = 1e-3
"""As a part of the diagonal: rounding and a nullspace are no sign of an indefinite matrix."""


class DenseSolve:
    """`A^+ b` by this rank's rows of the inverse, or of the pseudo-inverse. **Collective.**

    All ranks get the whole matrix and right-hand side, so n is to be small.

    Parameters
    ----------
    A : DSparseMatrix
    dtype : torch.dtype
        Of the vectors.

    Attributes
    ----------
    singular : bool
        Replicated.
    indefinite : bool
        Replicated. Whether A, taken for symmetric, is far from positive semidefinite: what it is
        the coarsest level of then is, too.
    """

    def __init__(self, A: DSparseMatrix, dtype: torch.dtype) -> None:
        layout = A.layout
        self._layout, self._world = layout, A.world
        dense = A.world.stacked(A.local_csr().toarray()).astype(np.float64)
        inverse, self.singular = _inverse(dense, _SINGULAR[A.dtype])
        self.indefinite = not _semidefinite(dense)
        mine = slice(layout.start, layout.start + layout.n_owned)

        def tensor(array: np.ndarray) -> torch.Tensor:
            own = np.ascontiguousarray(array)
            if A.world.size > 1 and own.base is not None:
                own = own.copy()  # a view would keep the whole on every rank
            return torch.from_numpy(own).to(A.device, dtype)

        self._rows, self._columns = tensor(inverse[mine]), tensor(inverse[:, mine].T)
        self._buffers: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def bytes(self) -> int:
        """What this rank holds."""
        return 2 * self._rows.numel() * self._rows.element_size()

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> None:
        """`out = A^+ b`, or `A^+T b`, for `[n_owned]` or `[n_owned, k]`. **Collective.**"""
        rows = self._columns if transpose else self._rows
        if self._world.size == 1 and b.is_contiguous():
            dense(rows, b, out)
            return
        shape = tuple(b.shape[1:])
        if shape not in self._buffers:
            with lasting():
                self._buffers[shape] = b.new_empty((self._layout.n_global, *shape))
        whole = self._buffers[shape].zero_()
        torch.mul(b, 1.0, out=whole.narrow(0, self._layout.start, self._layout.n_owned))
        self._world.transport.all_reduce_sum(whole)
        dense(rows, whole, out)

    def compiled(self, like: torch.Tensor) -> DenseInverse:
        """It as a compiled cycle takes it, for vectors with such columns. Local."""
        calls = self._world.transport.calls(like.dtype)
        assert calls is not None
        return DenseInverse(calls, self._rows, self._layout.start, like)


def _inverse(dense: np.ndarray, threshold: float) -> tuple[np.ndarray, bool]:
    n = len(dense)
    if n == 0 or not np.isfinite(dense).all():
        # Of a matrix that is not finite the answer is NaN, for the solver to see.
        return np.full((n, n), np.nan), False
    size = np.abs(dense).max()
    if size == 0:
        return np.zeros((n, n)), True
    # Scaled to a unit diagonal where it has one: nearly singular means something only then.
    root = np.sqrt(np.abs(dense.diagonal()))
    root[root == 0] = np.sqrt(size)
    scaled = dense / root / root[:, None]
    try:
        inverse = np.linalg.inv(scaled)
        singular = np.linalg.norm(scaled) * np.linalg.norm(inverse) * threshold > 1
    except np.linalg.LinAlgError:
        singular = True
    if singular:
        inverse = np.linalg.pinv(scaled, rcond=threshold)
    return inverse / root / root[:, None], bool(singular)


def _semidefinite(dense: np.ndarray) -> bool:
    """Whether x . A x >= 0 for all x but for what `_SLACK` of the diagonal makes up for.

    By Cholesky's factorisation of that much more. Nothing is said of what is not finite.
    """
    diagonal = dense.diagonal()
    if not np.isfinite(dense).all() or not (diagonal > 0).all():
        return not (diagonal < 0).any()
    root = np.sqrt(diagonal)
    scaled = dense / root / root[:, None]
    try:
        np.linalg.cholesky(scaled + _SLACK * np.eye(len(dense)))
    except np.linalg.LinAlgError:
        return False
    return True
