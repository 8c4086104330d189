"""Incomplete factorisations by their definitions, on dense arrays: the oracles."""

from __future__ import annotations

import numpy as np


def dense_ilu0(matrix):
    """The definition: Gaussian elimination that drops what is outside the pattern."""
    pattern, a = matrix != 0, matrix.astype(np.float64)
    n = len(a)
    for i in range(1, n):
        for k in range(i):
            if pattern[i, k]:
                a[i, k] /= a[k, k]
                for j in range(k + 1, n):
                    if pattern[i, j]:
                        a[i, j] -= a[i, k] * a[k, j]
    return np.tril(a, -1) + np.eye(n), np.triu(a)


def dense_ic0(matrix):
    """The definition, with square roots: what is outside the pattern is dropped."""
    a = np.tril(matrix).astype(np.float64)
    n = len(a)
    for k in range(n):
        a[k, k] = np.sqrt(a[k, k])
        for i in range(k + 1, n):
            if a[i, k] != 0:
                a[i, k] /= a[k, k]
        for j in range(k + 1, n):
            for i in range(j, n):
                if a[i, j] != 0:
                    a[i, j] -= a[i, k] * a[j, k]
    return np.tril(a)
