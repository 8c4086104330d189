"""The cycle: smooth, correct on the next level, smooth."""

from __future__ import annotations

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.products import LevelOperator, Transfer, TransposedOperator
from hpc_sla.precond.amg.smoother import Steps
from hpc_sla.precond.workspace import Workspace

Tensor = torch.Tensor


class MultigridLevel:
    """A level of the hierarchy, ready to cycle. **Collective** in all it does.

    Attributes
    ----------
    layout : RowLayout
    operator : LevelOperator
    steps : Steps
        The smoother's.
    transfer : Transfer, optional
        To the next level, wherever that is; None on the last.
    direct : DenseSolve, optional
        On the last level; where there is none, smoothing has to do.
    """

    def __init__(self, layout: RowLayout, operator: LevelOperator, steps: Steps) -> None:
        self.layout, self.operator, self.steps = layout, operator, steps
        self.transfer: Transfer | None = None
        self.direct: DenseSolve | None = None
        self._work = Workspace(3, layout.n_owned)
        self._coarse: Workspace | None = None

    def correct_with(self, transfer: Transfer, kind: str) -> None:
        """Say how to reach the next level, and by which cycle it is solved. Local."""
        self.transfer = transfer
        self._coarse = Workspace(2 if kind == "V" else 5, transfer.plan.layout.n_owned)

    @property
    def bytes(self) -> int:
        """What values, transfers and the last level's inverse take on this rank."""
        parts = (self.operator, self.transfer, self.direct)
        return sum(part.bytes for part in parts if part is not None)

    def smooth(
        self, x: Tensor | None, b: Tensor, operator: LevelOperator | TransposedOperator
    ) -> Tensor:
        """The smoother's steps from x, or from zero; the result is one of this level's vectors."""
        first, second, direction = self._work.like(b)
        inverse, coefficients = self.steps.inverse, self.steps.coefficients
        before: Tensor | None = None
        if x is None:
            torch.mul(b, inverse if b.dim() == 1 else inverse.unsqueeze(1), out=first)
            x, before, coefficients = first, first, coefficients[1:]
        for i, (alpha, beta) in enumerate(coefficients):
            out = second if x is first else first
            after = direction if i + 1 < len(coefficients) else None
            operator.relax(x, b, inverse, alpha, beta, before, after, out)
            x, before = out, direction
        return x

    def work(self, b: Tensor) -> list[Tensor]:
        """Vectors of this level to work in. Local."""
        return self._work.like(b)

    def coarse_vectors(self, b: Tensor) -> list[Tensor]:
        """Vectors of the next level, without entries on ranks that take no part in it. Local."""
        assert self._coarse is not None
        return self._coarse.like(b)


class Cycle:
    """The multigrid cycle over levels, from the finest.

    Parameters
    ----------
    levels : list of MultigridLevel
        On each rank, those that it takes part in.
    kind : {"V", "W", "K"}
    transpose : bool
        The transposed cycle: as the smoother before and after is the same, and restriction the
        prolongation's transpose, the same with A^T. (Not for K, which is no linear map.)
    """

    def __init__(self, levels: list[MultigridLevel], kind: str, transpose: bool = False) -> None:
        self.levels, self.kind, self.transpose = levels, kind, transpose
        self._operators = [level.operator.T if transpose else level.operator for level in levels]

    def apply(self, b: Tensor, depth: int = 0) -> Tensor:
        """What it makes of b on the level of that depth: one of its vectors. **Collective.**"""
        level, operator = self.levels[depth], self._operators[depth]
        if level.direct is not None:
            out = level.work(b)[0]
            level.direct.solve(b, out, self.transpose)
            return out
        x = level.smooth(None, b, operator)
        if level.transfer is None:
            return x
        residual = level.work(b)[2]
        operator.residual(x, b, residual)
        vectors = level.coarse_vectors(b)
        level.transfer.restrict(residual, vectors[0])
        level.transfer.prolong_add(self._correction(depth, vectors), x)
        return level.smooth(x, b, operator)

    def _correction(self, depth: int, vectors: list[Tensor]) -> Tensor:
        """The next level's answer to `vectors[0]`. **Collective** where that level is."""
        here = depth + 1 < len(self.levels)
        return self._solve(depth + 1, vectors) if here else vectors[1]

    def _solve(self, depth: int, vectors: list[Tensor]) -> Tensor:
        """By one cycle, two, or two steps of flexible CG. **Collective.**"""
        b = vectors[0]
        e = self.apply(b, depth)
        if self.kind == "V" or self.levels[depth].direct is not None:
            return e
        operator = self._operators[depth]
        if self.kind == "W":
            _, x, residual, _, _ = vectors
            torch.mul(e, 1.0, out=x)
            operator.residual(x, b, residual)
            return x.add_(self.apply(residual, depth))
        return self._flexible_cg(depth, e, vectors)

    def _flexible_cg(self, depth: int, c: Tensor, vectors: list[Tensor]) -> Tensor:
        """Notay and Vassilevski, Numer. Linear Algebra Appl. 15 (2008), algorithm 3.2."""
        b, first, v, residual, w = vectors
        operator, level = self._operators[depth], self.levels[depth]
        torch.mul(c, 1.0, out=first)
        operator.matmul(first, v)
        energy, forced = self._dots(level, (first, v), (first, b))
        step = _ratio(forced, energy)
        torch.sub(b, v * step, out=residual)
        d = self.apply(residual, depth)
        operator.matmul(d, w)
        across, full, rest = self._dots(level, (d, v), (d, w), (d, residual))
        second = _ratio(rest, full - across * _ratio(across, energy))
        return first.mul_(step - _ratio(across, energy) * second).add_(d * second)

    @staticmethod
    def _dots(level: MultigridLevel, *pairs: tuple[Tensor, Tensor]) -> Tensor:
        """Inner products by columns, in one reduction. **Collective.**"""
        sums = torch.stack([(x * y).sum(dim=0) for x, y in pairs])
        level.layout.world.transport.all_reduce_sum(sums)
        return sums


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)
