"""Smoothed aggregation algebraic multigrid over ranks."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels.vectors import copy_
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.operators import as_operator
from hpc_sla.pattern import DistributedPattern
from hpc_sla.precond.amg.cycle import Cycle
from hpc_sla.precond.amg.hierarchy import Hierarchy, LevelSummary
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.decoupled import DecoupledRows, decoupled_rows
from hpc_sla.precond.workspace import Workspace
from hpc_sla.row_order import check_order

KEEP = ("prolongators", "aggregates")


class AMG(Preconditioner):
    """One cycle of smoothed aggregation multigrid. **Collective.**

    Vanek, Mandel and Brezina, "Algebraic multigrid by smoothed aggregation for second and fourth
    order elliptic problems", Computing 56 (1996); one hierarchy for the whole matrix, its levels
    coupled through halos, as in Tuminaro and Tong, "Parallel smoothed aggregation multigrid:
    aggregation strategies on massively parallel machines", SC 2000. For matrices of elliptic
    problems; a mildly non-symmetric one is treated as if symmetric, with gmres or bicgstab
    around it. Rows without a nonzero beside the diagonal, as Dirichlet conditions leave them,
    are solved exactly and take no part (`DecoupledRows`).

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    options : AmgOptions, optional
    near_nullspace : tensor or array [n_owned, m], optional
        Per rank: what A hardly changes, such as rigid-body modes for elasticity
        (`hpc_sla.problems.rigid_body_modes`). Default: constants, one vector for each unknown
        of a node.

    Raises
    ------
    InputError
        On every rank: options out of range, a near-nullspace of another shape or not finite,
        a rank that owns a part of a node.
    """

    def __init__(
        self,
        A: DSparseMatrix,
        options: AmgOptions | None = None,
        near_nullspace: torch.Tensor | np.ndarray | None = None,
    ) -> None:
        self.options = AmgOptions() if options is None else options
        self.name = str(self.options)
        self._belongs_to(A.layout.n_owned, A.values)
        given = near_nullspace is not None
        with A.world.agree("AMG", A=A.shape, options=self.options, near_nullspace=given):
            if isinstance(near_nullspace, torch.Tensor):
                check_order(near_nullspace, A.layout, "near_nullspace")
            B = self._near_nullspace(A, near_nullspace)
        vectors = A.world.comm.allgather(B.shape[1])
        with A.world.agree():
            if len(set(vectors)) > 1:
                raise InputError(
                    f"{min(vectors)} to {max(vectors)} vectors, by rank", field="near_nullspace"
                )
        largest = A.world.max(float(abs(B).max(initial=0.0)))
        if largest > 0:  # P has B's size, and may be float32
            B = B * 2.0 ** -round(math.log2(largest))
        with torch.no_grad():
            inner, scale, decoupled = self._inner(A)
            mask = None if decoupled is None else decoupled.mask
            made = Hierarchy(inner, B, self.options, mask)
        self.symmetric = self.options.cycle != "K"
        self.transposable = self.options.cycle != "K"
        self._use(A, made, scale, decoupled)
        self._work = Workspace(1, A.layout.n_owned)
        self._rest = Workspace(1, A.layout.n_owned)

    @property
    def pattern(self) -> DistributedPattern:
        """Of the matrices that `update` takes."""
        return self._matrix.pattern

    def _use(
        self,
        A: DSparseMatrix,
        hierarchy: Hierarchy,
        scale: float,
        decoupled: DecoupledRows | None,
    ) -> None:
        self._matrix, self._hierarchy = A, hierarchy
        self._scale, self._decoupled = scale, decoupled
        self._cycle = Cycle(self._hierarchy.levels, self.options.cycle)
        self._transposed: Cycle | None = None
        self._of_symmetric: bool | None = None

    _decoupled: DecoupledRows | None = None

    def _inner(self, A: DSparseMatrix) -> tuple[DSparseMatrix, float, DecoupledRows | None]:
        """What the levels are made of: A scaled, without its decoupled rows. **Collective.**"""
        decoupled = decoupled_rows(A)
        if decoupled is not None:
            A = decoupled.rest(A, self.options.block_size)
        scale, values = _scale(A), A.values.detach()
        return A.with_values(values if scale == 1 else values * scale), scale, decoupled

    def update(self, A: DSparseMatrix, keep: str = "prolongators") -> AMG:
        """Set up for other values on the same pattern, in less time. **Collective.**

        Parameters
        ----------
        A : DSparseMatrix
            With the pattern of the matrix this was set up with: `A.with_values(...)`.
        keep : {"prolongators", "aggregates"}
            Prolongators suit values that have changed by little, or all by one factor; after
            larger changes they may cost iterations, and smoothing the old aggregates' anew is
            the better choice. Eigenvalue estimates are brought up to date, and Galerkin products
            are always new.

        Returns
        -------
        AMG
            This one.

        Raises
        ------
        InputError
            On every rank: another pattern, or an unknown `keep`.
        """
        with A.world.agree("AMG.update", A=A.shape, keep=keep):
            if A.pattern is not self._matrix.pattern:
                raise InputError(
                    "the matrix has another pattern than the one multigrid was set up with",
                    field="A",
                    remedy="Pass with_values() of that matrix, or set up anew",
                )
            if keep not in KEEP:
                raise InputError(
                    f"unknown part {keep!r}",
                    field="keep",
                    remedy=f"Choose one of {', '.join(KEEP)}",
                )
        with torch.no_grad():
            inner, scale, decoupled = self._inner(A)
            mask = None if decoupled is None else decoupled.mask
            made = self._hierarchy.updated(inner, keep, mask)
        with self._turns:
            self._use(A, made, scale, decoupled)
        return self

    def _near_nullspace(
        self, A: DSparseMatrix, given: torch.Tensor | np.ndarray | None
    ) -> np.ndarray:
        n, block_size = A.layout.n_owned, self.options.block_size
        if (A.layout.offsets % block_size).any():
            raise InputError(
                f"a rank owns a part of a node of {block_size} unknowns",
                field="amg:block_size",
                remedy="Partition the nodes and not the rows, or leave block_size out",
            )
        if given is None:
            return np.tile(np.eye(block_size), (n // block_size, 1))
        B = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
        B = np.ascontiguousarray(B[:, None] if B.ndim == 1 else B, dtype=np.float64)
        if B.ndim != 2 or len(B) != n or not B.shape[1] or not np.isfinite(B).all():
            raise InputError(
                f"a near-nullspace of shape {B.shape} (or not finite) does not go with {n} rows",
                field="near_nullspace",
                remedy="Pass this rank's rows of each vector: [n_owned, m]",
            )
        return B

    @property
    def levels(self) -> list[LevelSummary]:
        """The levels, finest first. Replicated."""
        return self._hierarchy.summaries

    @property
    def operator_complexity(self) -> float:
        """Nonzeros of all levels over those of the finest. Replicated."""
        return sum(level.nonzeros for level in self.levels) / max(1, self.levels[0].nonzeros)

    @property
    def grid_complexity(self) -> float:
        """Rows of all levels over those of the finest. Replicated."""
        return sum(level.rows for level in self.levels) / max(1, self.levels[0].rows)

    @property
    def seconds(self) -> dict[str, float]:
        """This rank's time in each step of the set-up."""
        return dict(self._hierarchy.seconds)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            if self._decoupled is None:
                return self._apply(self._cycle, r, out)
            (b,) = self._rest.like(r)
            self._apply(self._cycle, self._decoupled.eliminate(r, b), out)
            return self._decoupled.solve(r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            cycle = self._cycle_transpose()
            if self._decoupled is None:
                return self._apply(cycle, r, out)
            (b,) = self._rest.like(r)
            self._apply(cycle, self._decoupled.clear(b.copy_(r)), out)
            return self._decoupled.solve_transpose(r, out)

    def _cycle_transpose(self) -> Cycle:
        """The transposed cycle, of a symmetric matrix the cycle itself. **Collective.**"""
        if self._of_symmetric is None:
            A = self._matrix
            inner = A if self._decoupled is None else self._decoupled.rest(A)
            self._of_symmetric = as_operator(inner).symmetric()
        if self._of_symmetric:
            return self._cycle
        if self._transposed is None:
            self._transposed = Cycle(self._hierarchy.levels, self.options.cycle, transpose=True)
        return self._transposed

    def _apply(self, cycle: Cycle, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        dtype = self._hierarchy.dtype
        b = r
        if r.dtype != dtype:
            (b,) = self._work.like(r.new_empty((0, *r.shape[1:]), dtype=dtype))
            torch.mul(r, 1.0, out=b)
        z = cycle.apply(b)
        if self._scale == 1:
            copy_(out, z)
            return out
        # In r's dtype: the cycle's may have no room for the scale.
        return torch.mul(z.to(out.dtype), self._scale, out=out)


def _scale(A: DSparseMatrix) -> float:
    """A power of two that brings A into float32's range, 1 where it is well inside. **Collective.**

    Negative where the diagonal is: multigrid is for positive definite matrices, and -A is one
    where A is negative definite.
    """
    values = A.values.detach()
    largest = A.world.max(max(map(abs, map(float, values.aminmax()))) if values.numel() else 0.0)
    negative = A.world.sum(int((A.diagonal().detach() < 0).sum())) == A.shape[0] > 0
    sign = -1.0 if negative else 1.0
    if not 0 < largest < math.inf or 1e-10 < largest < 1e10:
        return sign
    return sign * 2.0 ** min(-round(math.log2(largest)), 1000)


def amg(A: DSparseMatrix, **options: Any) -> AMG:
    """AMG with options as keywords. **Collective.**"""
    with A.world.agree():
        chosen = AmgOptions(**options)
    return AMG(A, chosen)


# The keywords, for those who list or parse them.
amg.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("A", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default)
            for f in dataclasses.fields(AmgOptions)
        ),
    ]
)
