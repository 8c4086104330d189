"""A x = lambda B x, with what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_sla.eigen.scaling import NEAR_ONE, Exponents, unit_columns
from hpc_sla.eigen.space import inner
from hpc_sla.hashing import noise
from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.operator import Operator

Callback = Callable[[int, float], None]

_ROUNDING = 16.0
"""Units of rounding error, in A v and lambda B v, below which no residual is asked to fall."""

_UNIT = torch.finfo(torch.float64).eps

_PROBES = (51, 52)
"""Seeds of random signs."""


@dataclass
class EigenProblem:
    """What is to be found, and how well.

    Attributes
    ----------
    A : Operator
    B : Operator or None
        None is the identity.
    precond : Preconditioner
    k, m : int
        Pairs wanted, and iterated on: the others are guards.
    sign : {1.0, -1.0}
        1 for the smallest, -1 for the largest.
    tol : float
    max_iterations : int
    dtype : torch.dtype
    units : Exponents
        Powers of two that A and B were divided by: all here is in terms of what they are now.
    constraints : Constraints or None
        What the eigenvectors are to be B-orthogonal to.
    callback : callable or None
    attach : callable(solver) or None
        Called before LOBPCG runs: may give it a state, and something to `observe` it.
    """

    A: Operator
    B: Operator | None
    precond: Preconditioner
    k: int
    m: int
    sign: float
    tol: float
    max_iterations: int
    dtype: torch.dtype
    units: Exponents = NEAR_ONE
    constraints: Constraints | None = None
    callback: Callback | None = None
    attach: Callable[[Any], None] | None = None

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    def noise(self, columns: int, seed: int = 1) -> torch.Tensor:
        """[n_owned, columns] in [-1, 1), by the user's rows: the same on any rank count. Local."""
        rows = self.A.layout.rows
        block = torch.empty((len(rows), columns), dtype=torch.float64, device="cpu")
        for j in range(columns):
            block[:, j] = torch.from_numpy(noise(rows, seed + j))
        return block.to(self.A.device, self.dtype)

    def B_times(self, x: torch.Tensor) -> torch.Tensor:
        """B x, which is x itself where B is the identity. **Collective.**"""
        if self.B is None:
            return x
        out = torch.empty_like(x)
        self.B(x, out)
        return out

    def all_sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Summed over ranks in place. **Collective.**"""
        self.A.world.transport.all_reduce_sum(partial)
        return partial


class ResidualScale:
    """How large a residual may be: what `tol` and a residual's size are relative to.

    The scale of a pair is |lambda| ||B v||; but where tol times that is below what rounding leaves
    of A v - lambda B v, 16 eps (|| |A||v| || + |lambda| || |B||v| ||) takes its place (eps of the
    dtype): a bound row by row, in which a row counts by what v has there, so that one of huge
    entries hides nothing of the others. So the zeros of a singular matrix converge as soon as the
    others; those of rows without entries by a unit in the last place of that, of the whole of A.

    Until `measure` has seen vectors, those of a random one stand for them: an iteration has no
    product to spare.
    """

    def __init__(self, problem: EigenProblem) -> None:
        """**Collective.**"""
        self._problem = problem
        self._floor, self._tol = _ROUNDING * problem.eps, problem.tol
        (self.A_size,), (self.B_size,) = self._sizes(problem.noise(1))
        self.measured: list[list[float]] | None = None
        """|| |A||v| || and || |B||v| || of each pair, relative to ||v||."""

    def _sizes(self, V: torch.Tensor) -> list[list[float]]:
        problem = self._problem
        operators = [problem.A] + ([] if problem.B is None else [problem.B])
        sizes = [magnitudes(operator, V) for operator in operators]
        sums = torch.stack([x.double().square().sum(dim=0) for x in (V, *sizes)])
        v, *found = problem.all_sum(sums).sqrt().tolist()
        found += [v] * (2 - len(found))
        return [
            [size / norm if norm else 0.0 for size, norm in zip(image, v, strict=True)]
            for image in found
        ]

    def measure(self, V: torch.Tensor) -> None:
        """Look at the vectors themselves. **Collective**: a product with each matrix.

        Parameters
        ----------
        V : torch.Tensor [n_owned, m]
            Contiguous.
        """
        self.measured = self._sizes(V)

    def floors(self, values: list[float]) -> list[float]:
        """What rounding may leave of each pair's residual, for ||v|| = 1."""
        sizes = self.measured or [[self.A_size] * len(values), [self.B_size] * len(values)]
        least = _UNIT * self.A_size
        return [
            self._floor * (a + abs(value) * b + least)
            for value, a, b in zip(values, *sizes, strict=True)
        ]

    def scales(self, values: list[float], norms: list[float], B_norms: list[float]) -> list[float]:
        """One a pair: of eigenvalues, norms of v and of B v."""
        return [
            max(abs(value) * B_norm, floor / self._tol * norm)
            for value, norm, B_norm, floor in zip(
                values, norms, B_norms, self.floors(values), strict=True
            )
        ]


def magnitudes(operator: Operator, V: torch.Tensor) -> torch.Tensor:
    """|A||V|; of a matrix-free operator about that. **Collective.** [n_owned, m].

    There random signs of V show, by rows, the square root of the sum of the squares that add up.
    """
    out = torch.empty_like(V)
    if operator.absolute(V, out):
        return out
    found = torch.zeros_like(V)
    for seed in _PROBES:
        signs = torch.from_numpy(noise(operator.layout.rows, seed)).to(V).sign_().unsqueeze(1)
        operator((V * signs).contiguous(), out)
        found = torch.maximum(found, out.abs())
    return found.mul_(2.0)


def column_norms(problem: EigenProblem, x: torch.Tensor) -> torch.Tensor:
    """Norms of x [n_owned, m], whatever their size: float64 [m], on the host. **Collective.**"""
    x = x.double()
    mine = x.abs().amax(dim=0) if len(x) else x.new_zeros(x.shape[1])
    largest = torch.from_numpy(problem.A.world.largest(mine.cpu().numpy()))
    divisor = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    squares = problem.all_sum((x / divisor.to(x.device)).square().sum(dim=0))
    return squares.sqrt().cpu() * divisor


class Constraints:
    """Vectors that the eigenvectors are to be B-orthogonal to. **Collective.**

    Parameters
    ----------
    problem : EigenProblem
    given : torch.Tensor [n_owned, c]
        Made orthonormal; dependent ones count once.

    Attributes
    ----------
    Y, B_Y : torch.Tensor [n_owned, c]
    """

    def __init__(self, problem: EigenProblem, given: torch.Tensor) -> None:
        self._problem = problem
        Y = unit_columns(given, problem.A.world, "deflate")
        for _ in range(2):
            B_Y = problem.B_times(Y.to(problem.dtype).contiguous()).double()
            change = self._orthonormal(problem.all_sum(inner(Y, B_Y)).cpu())
            Y = Y @ change.to(Y.device)
        self.Y = Y.to(problem.dtype).contiguous()
        self.B_Y = problem.B_times(self.Y)

    def _orthonormal(self, gram: torch.Tensor) -> torch.Tensor:
        """Coefficients of an orthonormal basis, for a Gram matrix; by rank 0. **Collective.**"""

        def decide() -> np.ndarray:
            scale = gram.diagonal().clamp(min=0).sqrt()
            scale = torch.where(scale > 0, 1 / scale, 0.0)
            values, vectors = torch.linalg.eigh(gram * scale * scale.unsqueeze(1))
            keep = values > 8 * len(values) * self._problem.eps
            change = scale.unsqueeze(1) * vectors[:, keep] * values[keep].rsqrt()
            return change.numpy()

        return torch.from_numpy(self._problem.A.world.on_root(decide))

    @property
    def count(self) -> int:
        return self.Y.shape[1]

    def remove_from(self, x: torch.Tensor) -> None:
        """Make x B-orthogonal to them, in place. **Collective.**"""
        x.addmm_(self.Y, self._problem.all_sum(inner(self.B_Y, x)).to(x.dtype), alpha=-1)


def apply(precond: Preconditioner, r: torch.Tensor, out: torch.Tensor) -> None:
    """`out = M^-1 r`. **Collective** in general."""
    found = precond.apply(r, out)
    if found is not out:
        copy_(out, found)
