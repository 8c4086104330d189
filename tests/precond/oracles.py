"""Preconditioners by their definitions, as dense arrays in stored row order."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev as T

import hpc_sla as hs
from hpc_sla.precond import CHOICES, Preconditioner
from hpc_sla.precond.options import options_of, parse_options
from tests.collective import dense
from tests.kernels.dense import dense_ic0, dense_ilu0


def stored(A: hs.DSparseMatrix) -> np.ndarray:
    """The matrix in stored row order, on every rank."""
    order = np.concatenate(A.world.comm.allgather(A.layout.rows))
    return dense(A)[np.ix_(order, order)]


def inverse_of(spec: str, a: np.ndarray, offsets: np.ndarray, M: Preconditioner) -> np.ndarray:
    """`M^-1` of the preconditioner that `spec` names; of M itself only the eigenvalue is taken."""
    name, _, text = spec.partition(":")
    options = parse_options(name, text, options_of(CHOICES.load(name).__init__))
    if name == "chebyshev":
        options["largest"] = M.largest
    return ORACLES[name](a.astype(np.float64), offsets, **options)


def _none(a, offsets):
    return np.eye(len(a))


def _jacobi(a, offsets):
    return np.diag(1 / np.diag(a))


def _l1_jacobi(a, offsets):
    d = np.diag(a).copy()
    for i in range(len(a)):
        away = abs(a[i]).sum() - abs(a[i, _block(offsets, i)]).sum()
        d[i] += np.sign(d[i]) * away
    return np.diag(1 / d)


def _amg(a, offsets, dtype):
    return np.linalg.inv(a)  # so small a matrix is solved directly; tests/precond/amg has the rest


def _direct(a, offsets, shift=0.0):
    return np.linalg.inv(a + shift * np.diag(np.diag(a)))


def _block(offsets, i):
    rank = np.searchsorted(offsets, i, side="right") - 1
    return slice(offsets[rank], offsets[rank + 1])


def _chebyshev(a, offsets, largest, degree=4, eigenvalue_ratio=30.0):
    """(I - T_d(shifted) / T_d(theta / delta)) A^-1, without the recurrence of the solver."""
    scaled = a / np.diag(a)[:, None]
    theta, delta = (
        largest * (1 + 1 / eigenvalue_ratio) / 2,
        largest * (1 - 1 / eigenvalue_ratio) / 2,
    )
    basis = [0] * degree + [1]
    power, residual = np.eye(len(a)), np.zeros_like(a)
    for c in T.cheb2poly(basis):
        residual += c * power
        power = power @ (theta * np.eye(len(a)) - scaled) / delta
    return (np.eye(len(a)) - residual / T.chebval(theta / delta, basis)) @ np.linalg.inv(a)


def _symmetric_scaling(a):
    d = np.sqrt(abs(np.diag(a)))
    return abs(a) / d / d[:, None]


def _polynomial(a, offsets, degree=3):
    scaled = a / np.diag(a)[:, None]
    w = 1 / min(abs(scaled).sum(1).max(), _symmetric_scaling(a).sum(1).max())
    step = np.eye(len(a)) - w * scaled
    series = sum(np.linalg.matrix_power(step, i) for i in range(degree + 1))
    return w * series / np.diag(a)


def _factored(block, factor):
    if factor == "lu" or not len(block):
        return np.linalg.inv(block)
    if factor == "ilu0":
        L, U = dense_ilu0(block)
        return np.linalg.inv(L @ U)
    L = dense_ic0(block)
    return np.linalg.inv(L @ L.T)


def _schwarz(a, offsets, overlap=1, type="restrict", factor="ilu0", backend="auto"):
    total = np.zeros_like(a)
    for first, last in zip(offsets[:-1], offsets[1:], strict=True):
        own = np.arange(first, last)
        rows = own
        for _ in range(overlap):
            rows = np.union1d(rows, np.flatnonzero((a[rows] != 0).any(axis=0)))
        local = np.zeros_like(a)
        local[np.ix_(rows, rows)] = _factored(a[np.ix_(rows, rows)], factor)
        if type == "restrict":
            local[np.setdiff1d(rows, own)] = 0
        total += local
    return total


def _block_jacobi(a, offsets, factor="ilu0", backend="auto"):
    return _schwarz(a, offsets, 0, "basic", factor)


ORACLES = {
    "none": _none,
    "jacobi": _jacobi,
    "l1_jacobi": _l1_jacobi,
    "chebyshev": _chebyshev,
    "polynomial": _polynomial,
    "block_jacobi": _block_jacobi,
    "additive_schwarz": _schwarz,
    "amg": _amg,
    "direct": _direct,
}
