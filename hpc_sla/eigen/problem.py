"""A x = lambda B x, with what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_sla.eigen.space import inner
from hpc_sla.errors import InputError
from hpc_sla.kernels.vectors import copy_
from hpc_sla.operators import Operator, noise
from hpc_sla.precond import Preconditioner

if TYPE_CHECKING:
    from hpc_sla.eigen.resume import Resume

Callback = Callable[[int, float], None]

_ROUNDING = 32.0
"""Units of rounding error, in A v and lambda B v, below which no residual is asked to fall."""


@dataclass
class Problem:
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
    constraints : Constraints or None
        What the eigenvectors are to be B-orthogonal to.
    callback : callable or None
    resume : Resume or None
        Of a checkpoint.
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
    constraints: Constraints | None = None
    callback: Callback | None = None
    resume: Resume | None = None

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    def noise(self, columns: int, seed: int = 1) -> torch.Tensor:
        """[n_owned, columns] in [-1, 1), by the user's rows: the same on any rank count. Local."""
        rows = self.A.layout.rows
        block = torch.empty((len(rows), columns), dtype=torch.float64)
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


class Yardstick:
    """How large a residual may be: what `tol` and a residual's size are relative to.

    The scale of a pair is |lambda| ||B v||; but where tol times that is below what rounding leaves
    of A v - lambda B v, 32 eps (||A|| + |lambda| ||B||) ||v|| takes its place (eps of the dtype;
    the norms estimated by random vectors, J. A. Duersch et al., section 2.2). So the zeros of a
    singular matrix converge as soon as the others.
    """

    def __init__(self, problem: Problem, x: torch.Tensor, images: list[torch.Tensor]) -> None:
        """**Collective.** x [n_owned, m] is random; images are A x and, unless it is x, B x."""
        vectors = [x, *images]
        squares = problem.all_sum(torch.stack([v.double().square().sum() for v in vectors]))
        x_square, *rest = squares.tolist()
        sizes = [(square / x_square) ** 0.5 if x_square else 0.0 for square in rest]
        self.A_size, self.B_size = (*sizes, 1.0)[:2]
        self._floor, self._tol = _ROUNDING * problem.eps, problem.tol

    def scales(self, values: list[float], norms: list[float], B_norms: list[float]) -> list[float]:
        """One a pair: of eigenvalues, norms of v and of B v."""
        return [
            max(
                abs(value) * B_norm,
                self._floor / self._tol * (self.A_size + abs(value) * self.B_size) * norm,
            )
            for value, norm, B_norm in zip(values, norms, B_norms, strict=True)
        ]


class Constraints:
    """Vectors that the eigenvectors are to be B-orthogonal to. **Collective.**

    Parameters
    ----------
    problem : Problem
    given : torch.Tensor [n_owned, c]
        Made orthonormal; dependent ones count once.

    Attributes
    ----------
    Y, B_Y : torch.Tensor [n_owned, c]
    """

    def __init__(self, problem: Problem, given: torch.Tensor) -> None:
        self._problem = problem
        Y = given.detach().to(torch.float64)
        for _ in range(2):
            B_Y = problem.B_times(Y.to(problem.dtype).contiguous()).double()
            change = self._orthonormal(problem.all_sum(inner(Y, B_Y)).cpu())
            Y = Y @ change.to(Y.device)
        self.Y = Y.to(problem.dtype).contiguous()
        self.B_Y = problem.B_times(self.Y)

    def _orthonormal(self, gram: torch.Tensor) -> torch.Tensor:
        """Coefficients of an orthonormal basis, for a Gram matrix; by rank 0. **Collective.**"""

        def decide() -> np.ndarray:
            if not bool(gram.isfinite().all()):
                raise InputError("has entries that are not finite", field="deflate")
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
