"""Approximations of a Schur complement S = C A^-1 B + D, and which of them is the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import noise
from hpc_sla.precond.amg.amg import AMG
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.jacobi import Jacobi, inverse_diagonal
from hpc_sla.precond.saddle import SaddlePoint
from hpc_sla.precond.workspace import Workspace, scale
from hpc_sla.sparse.matrix import DSparseMatrix

_CHUNK = 16
"""Columns of B at a time."""

_LOST, _NULL = 0.1, 1e-12
"""Constants are deflated where M^-1 S makes less than the first of them, and more than rounding."""


@dataclass(frozen=True)
class Trial:
    """What a few steps of GMRES make of `S M^-1`. Replicated.

    Attributes
    ----------
    reduction : float
        Of the residual, a step.
    scale : float
        The geometric mean of the Ritz values.
    """

    reduction: float
    scale: float


class LeastSquaresCommutator(Preconditioner):
    """`S^-1 = L^-1 (C M^-1 A M^-1 B) L^-1` with M = diag(A), L = C M^-1 B by multigrid.

    Elman, Howle, Shadid, Shuttleworth and Tuminaro, "Block preconditioners based on approximate
    commutators", SIAM J. Sci. Comput. 27 (2006).
    """

    name = "lsc"

    def __init__(self, saddle: SaddlePoint, inverse: torch.Tensor, L: Preconditioner) -> None:
        self._saddle, self._inverse, self._L = saddle, inverse, L
        self._long = Workspace(2, saddle.first.layout.n_owned)
        self._short = Workspace(2, saddle.second.layout.n_owned)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        s, (u, v), (p, q) = self._saddle, self._long.like(r), self._short.like(r)
        p = self._L.apply(r, p)
        s.B.pattern.matmul(s.B.values, p, u)
        scale(u, self._inverse, u)
        s.A.pattern.matmul(s.A.values, u, v)
        scale(v, self._inverse, v)
        s.C.pattern.matmul(s.C.values, v, q)
        return self._L.apply(q, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        s, (u, v), (p, q) = self._saddle, self._long.like(r), self._short.like(r)
        p = self._L.apply_transpose(r, p)
        s.C.pattern.rmatmul(s.C.values, p, u)
        scale(u, self._inverse, u)
        s.A.pattern.rmatmul(s.A.values, u, v)
        scale(v, self._inverse, v)
        s.B.pattern.rmatmul(s.B.values, v, q)
        return self._L.apply_transpose(q, out)


class Deflated(Preconditioner):
    """`M^-1 + e e^T / (e^T S e)`, with e = 1, which M takes for much larger than S does.

    Such is the pressure of an enclosed flow where one entry is held: all but a constant.
    """

    def __init__(self, M: Preconditioner, layout: RowLayout, square: float) -> None:
        self.name, self._M, self._layout, self._inverse = M.name, M, layout, 1 / square
        self.symmetric, self.transposable = M.symmetric, M.transposable

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        return self._with_mean(self._M.apply(r, out), r)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        return self._with_mean(self._M.apply_transpose(r, out), r)

    def _with_mean(self, z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        total = r.sum(dim=0)
        self._layout.world.transport.all_reduce_sum(total)
        return z.add_(total.mul_(self._inverse))


class Complement:
    """S, as far as it is known: products with `C inner B + D`, and approximations. **Collective.**

    Parameters
    ----------
    saddle : SaddlePoint
    inner : Preconditioner
        Of A.

    Attributes
    ----------
    layout : RowLayout
        Of the constraints.
    """

    def __init__(self, saddle: SaddlePoint, inner: Preconditioner) -> None:
        self._saddle, self._inner = saddle, inner
        self.layout = saddle.second.layout
        self._inverse = inverse_diagonal(saddle.A.diagonal())
        self._lumped = saddle.lumped(self._inverse)
        self._diagonal = self._lumped.diagonal()
        self._long = Workspace(2, saddle.first.layout.n_owned)
        self._short = Workspace(1, self.layout.n_owned)

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`out = (C inner B + D) x`. **Collective.**"""
        s, (u, v), (p,) = self._saddle, self._long.like(x), self._short.like(x)
        s.B.pattern.matmul(s.B.values, x, u)
        u = self._inner.apply(u, v)
        s.C.pattern.matmul(s.C.values, u, out)
        if s.penalised:
            s.corner.pattern.matmul(s.corner.values, x, p)
            out.sub_(p)
        return out

    @cached_property
    def _multigrid(self) -> Preconditioner:
        return AMG().on(self._lumped)

    def approximate(self, name: str) -> Preconditioner:
        """Something that applies about S^-1 but for a factor. **Collective.**

        Parameters
        ----------
        name : {"diagonal", "lumped", "lsc", "dense"}
        """
        if name == "dense":
            S = self._dense()
            return AMG(coarse_size=max(1, S.shape[0]), dtype="float64").on(S)
        if name == "diagonal":
            return Jacobi.of(self._diagonal)
        if name == "lumped":
            return self._multigrid
        return LeastSquaresCommutator(self._saddle, self._inverse, self._multigrid)

    def deflated(self, M: Preconditioner, scale: float) -> Preconditioner:
        """M, or what else it needs where `scale` M^-1 takes S for far too large. **Collective.**"""
        one = torch.ones_like(self._diagonal)
        image = self(one, torch.empty_like(one))
        seen = M.apply(image, torch.empty_like(one)) * scale
        sums = torch.stack([image.sum(), self._diagonal.abs().sum(), seen.square().sum()])
        square, usual, mean = self._saddle.A.world.all_sum(sums.double()).tolist()
        lost = mean < _LOST**2 * self.layout.n_global and abs(square) > _NULL * usual
        return Deflated(M, self.layout, square * scale) if lost else M

    def _dense(self) -> DSparseMatrix:
        """`C inner B + D`, all of its entries. **Collective.**"""
        layout, m = self.layout, self.layout.n_global
        n, start = layout.n_owned, layout.start
        rows = np.zeros((n, m), dtype=self._diagonal.cpu().numpy().dtype)
        unit = self._diagonal.new_empty((n, _CHUNK))
        for begin in range(0, m, _CHUNK):
            unit.zero_()
            for column in range(max(begin, start), min(begin + _CHUNK, start + n)):
                unit[column - start, column - begin] = 1
            found = self(unit, torch.empty_like(unit))
            width = min(_CHUNK, m - begin)
            rows[:, begin : begin + width] = found[:, :width].cpu().numpy()
        indptr, indices = np.arange(n + 1, dtype=np.int64) * m, np.tile(np.arange(m), n)
        return DSparseMatrix._from_rows(layout, layout, indptr, indices, rows.ravel())

    def attempt(self, M: Preconditioner, steps: int) -> Trial:
        """What some steps of GMRES make of `S M^-1`. **Collective.**

        From a vector in the range of S that looks random, and with S and M scaled to a unit
        diagonal of S, so that rows of any size count.
        """
        root = inverse_diagonal(self._diagonal.abs()).sqrt()
        start = torch.from_numpy(noise(self.layout.rows, 3)).to(root)
        x, z, w = (torch.empty_like(root) for _ in range(3))
        first = self(start * root, w) * root
        return _arnoldi(self.layout, lambda v: self(M.apply(v / root, z), x) * root, first, steps)


def _arnoldi(
    layout: RowLayout,
    product: Callable[[torch.Tensor], torch.Tensor],
    first: torch.Tensor,
    steps: int,
) -> Trial:
    """Arnoldi's method, from `first` [n_owned], with a product of one's own. **Collective.**"""
    size = float(layout.norm(first))
    if not 0 < size < math.inf:
        return Trial(1.0, 1.0)
    V = first.new_zeros((steps + 1, layout.n_owned))
    V[0] = first / size
    H = np.zeros((steps + 1, steps))
    taken = steps
    for j in range(steps):
        w = product(V[j])
        before = float(layout.norm(w))
        if not math.isfinite(before):
            return Trial(1.0, 1.0)
        for _ in range(2):  # once more for the digits that the first pass lost
            known = V[: j + 1]
            overlap = known @ w
            layout.world.transport.all_reduce_sum(overlap)
            w -= overlap @ known
            H[: j + 1, j] += overlap.double().cpu().numpy()
        H[j + 1, j] = float(layout.norm(w))
        if H[j + 1, j] <= 100 * torch.finfo(w.dtype).eps * before:  # an invariant subspace
            taken = j + 1
            break
        V[j + 1] = w / H[j + 1, j]
    H = H[: taken + 1, :taken]
    unit = np.eye(taken + 1)[0]
    left = float(np.linalg.norm(unit - H @ np.linalg.lstsq(H, unit, rcond=None)[0]))
    ritz = np.abs(np.linalg.eigvals(H[:taken]))
    ritz = ritz[ritz > 1e-12 * ritz.max(initial=0.0)]
    mean = float(np.exp(np.log(ritz).mean())) if len(ritz) else 1.0
    return Trial(max(left, 1e-16) ** (1 / taken), mean)
