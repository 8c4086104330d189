"""A smooth function with its derivatives, to manufacture solutions from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Wave:
    """Values [n], gradients [n, d] and second derivatives [n, d, d] at points."""

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray

    @property
    def laplacian(self) -> np.ndarray:
        """[n]."""
        total: np.ndarray = np.trace(self.hessian, axis1=1, axis2=2)
        return total


def wave(points: np.ndarray, waves: tuple[int, ...] = (1, 2, 1)) -> Wave:
    """The product of sin(k_i pi x_i) at points [n, d]: zero on the boundary of the unit cube."""
    n, d = points.shape
    k = np.pi * np.array(waves[:d])
    factors = np.stack([np.sin(k * points), k * np.cos(k * points), -(k**2) * np.sin(k * points)])
    gradient, hessian = np.empty((n, d)), np.empty((n, d, d))
    for i in range(d):
        for j in range(d):
            order = np.zeros(d, dtype=int)
            order[i] += 1
            order[j] += 1
            hessian[:, i, j] = _product(factors, order)
        gradient[:, i] = _product(factors, np.eye(d, dtype=int)[i])
    return Wave(_product(factors, np.zeros(d, dtype=int)), gradient, hessian)


def _product(factors: np.ndarray, order: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.prod([factors[o, :, axis] for axis, o in enumerate(order)], axis=0)
    return found
