"""Smoothed aggregation algebraic multigrid over ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import host_array
from hpc_sla.distributed.row_order import check_order
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.kernels.burst import CompiledApply
from hpc_sla.kernels.cycle import Units
from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond.amg.compiled import CompiledCycle, can_compile
from hpc_sla.precond.amg.costs import MEASURED
from hpc_sla.precond.amg.cycle import Cycle
from hpc_sla.precond.amg.device.hierarchy import hierarchy_for
from hpc_sla.precond.amg.hierarchy import Hierarchy
from hpc_sla.precond.amg.of_level import LevelSummary
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.amg.rigid_body import constant_modes, rigid_body_modes
from hpc_sla.precond.amg.scaled import ScaledMatrix
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.workspace import Workspace, scale
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.nodes import find_block_size
from hpc_sla.sparse.pattern import DistributedPattern

KEEP = ("prolongators", "aggregates")


@dataclass(repr=False, eq=False)
class AMG(AmgOptions, Preconditioner):
    """One cycle of smoothed aggregation multigrid, with the options of `AmgOptions`.

    Vanek, Mandel and Brezina, "Algebraic multigrid by smoothed aggregation for second and fourth
    order elliptic problems", Computing 56 (1996); one hierarchy for the whole matrix, its levels
    coupled through halos, as in Tuminaro and Tong, "Parallel smoothed aggregation multigrid:
    aggregation strategies on massively parallel machines", SC 2000. For matrices of elliptic
    problems; a mildly non-symmetric one is treated as if symmetric, with gmres or bicgstab
    around it, in the units that `row_factors` finds for its rows. Rows without a nonzero beside
    the diagonal, as Dirichlet conditions leave them, are solved exactly and take no part
    (`DecoupledRows`).

    Parameters
    ----------
    near_nullspace : tensor or array [n_owned, m], optional
        Per rank: what A hardly changes, such as rigid-body modes for elasticity
        (`hpc_sla.problems.rigid_body_modes`). Default: the matrix's own; else the rigid-body modes
        of its coordinates, where it annihilates them; else constants, one vector for each unknown
        of a node, or constants over the roots of the diagonal where A hardly changes those and
        does change the constants: unknowns in units of their own.

    Attributes
    ----------
    taken : str
        Of one that is set up: which nodes and which vectors, and where they are from.

    Raises
    ------
    InputError
        Options out of range; in `on`, on every rank, a near-nullspace of another shape or not
        finite, a rank that owns a part of a node.
    """

    near_nullspace: torch.Tensor | np.ndarray | None = None

    name = "amg"
    petsc = "gamg"
    capturable = True

    def __post_init__(self) -> None:
        """Raise InputError for an option that does not fit."""
        self.check_options()
        super().__post_init__()
        self.symmetric = self.transposable = self.cycle != "K"

    def replicated(self) -> str:
        """The options, and whether there is a near-nullspace."""
        return str(self) + ("" if self.near_nullspace is None else " with a near-nullspace")

    def agreed(self) -> dict[str, Any]:
        """As `replicated`, by name."""
        return {**self.options, "near_nullspace": self.near_nullspace is not None}

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        world = A.world
        size, B, nodes, vectors = self._taken_of(A)
        system = ScaledMatrix.of(A, size, AMG(block_size=1).on)
        self._constant = False
        if B is not None:
            B = system.in_its_units(B)
            about = f"{B.shape[1]} near-nullspace vector{'s' * (B.shape[1] > 1)} ({vectors})"
        elif (B := rigid_body_modes(system.matrix, size, system.mask)) is not None:
            about = f"{B.shape[1]} rigid-body modes (of the coordinates)"
        else:
            B, self._constant = system.in_units(constant_modes(A.layout.n_owned, size)), True
            about = "constants" + (", one for each unknown of a node" if size > 1 else "")
        self.taken = f"{nodes}; {about}"
        # Not self: the two would hold each other.
        options = AmgOptions(**{**self.options, "block_size": size})
        make = hierarchy_for(A.device)
        made = make(system.matrix, _near_one(world, B), options, system.mask)
        self._size = size
        self._use(A, made, system)
        self._work = Workspace(1, A.layout.n_owned)
        self._rest = Workspace(1, A.layout.n_owned)
        self._units = Workspace(1, A.layout.n_owned)

    @property
    def token(self) -> tuple[object, ...]:
        """As of each, which `update` changes."""
        return (self, self._cycle)

    @property
    def pattern(self) -> DistributedPattern:
        """That of the matrices that `update` takes."""
        return self._matrix.pattern

    def _use(self, A: DSparseMatrix, hierarchy: Hierarchy, system: ScaledMatrix) -> None:
        self._matrix, self._hierarchy = A, hierarchy
        self._scale, self._rows, self._columns = system.scale, system.rows, system.columns
        self._decoupled, self._of_symmetric = system.decoupled, system.symmetric
        self._cycle = Cycle(self._hierarchy.levels, self.cycle)
        self._transposed: Cycle | None = None
        self._compiled: dict[tuple[bool, torch.dtype, tuple[int, ...]], CompiledCycle] = {}

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
                    remedy="Pass with_values() of that matrix, or set up another one",
                )
            if keep not in KEEP:
                raise InputError(
                    f"unknown part {keep!r}",
                    field="keep",
                    remedy=f"Choose one of {', '.join(KEEP)}",
                )
        with torch.no_grad():
            system = ScaledMatrix.of(A, self._size, AMG(block_size=1).on, self._columns)
            B = None
            if self._constant and keep == "aggregates":
                B = system.in_units(constant_modes(A.layout.n_owned, self._size))
                B = _near_one(A.world, B)
            made = self._hierarchy.updated(system.matrix, keep, system.mask, B)
        with self._turns:
            self._use(A, made, system)
        return self

    def _taken_of(self, A: DSparseMatrix) -> tuple[int, np.ndarray | None, str, str]:
        """Unknowns of a node, near-nullspace, and who says them. **Collective.**

        Ranks may have set something else of their own A: what decides what follows is agreed on.
        """
        known, size, whence = A.unknowns, self.block_size, "given"
        if not size:
            size, found = known.block_size or 0, known.found
            whence = "found in the pattern" if found or not size else "of the matrix"
        given, vectors = self.near_nullspace, "given"
        if given is None and self.block_size in (0, A.block_size):
            given, vectors = A.near_nullspace, "of the matrix"
        with A.world.agree(
            "AMG", block_size=size, whence=whence, coordinates=A.coordinates
        ) as agreed:
            if size and (A.layout.offsets % size).any():
                raise InputError(
                    f"a rank owns a part of a node of {size} unknowns",
                    field="amg:block_size",
                    remedy="Partition the nodes and not the rows, or leave block_size out",
                )
            if isinstance(given, torch.Tensor):
                check_order(given, A.layout, "near_nullspace")
            B = None if given is None else _given(given, A.layout.n_owned)
            agreed.say(0 if B is None else B.shape[1])
        if len(set(agreed.heard)) > 1:
            raise InputError(
                f"{min(agreed.heard)} to {max(agreed.heard)} vectors, by rank",
                field="near_nullspace",
            )
        size = size or find_block_size(A)
        nodes = f"nodes of {size} unknowns ({whence})" if size > 1 else "single unknowns"
        return size, B, nodes, vectors

    @property
    def hierarchy(self) -> Hierarchy:
        """What cycles. This rank's part of it."""
        return self._hierarchy

    @property
    def levels(self) -> list[LevelSummary]:
        """The levels, finest first. Replicated."""
        return self._hierarchy.summaries

    @property
    def singular(self) -> bool:
        """Whether the coarsest level is, to rounding: then so is A. Replicated."""
        return self._hierarchy.singular

    @property
    def indefinite(self) -> bool:
        """Whether the last level shows that A is indefinite, if it is symmetric. Replicated."""
        return self._hierarchy.indefinite

    @property
    def operator_complexity(self) -> float:
        """Nonzeros of all levels over those of the finest. Replicated."""
        return sum(level.nonzeros for level in self.levels) / max(1, self.levels[0].nonzeros)

    @property
    def grid_complexity(self) -> float:
        """Rows of all levels over those of the finest. Replicated."""
        return sum(level.rows for level in self.levels) / max(1, self.levels[0].rows)

    def describe(self) -> list[str]:
        """What was taken, a line a level, and the complexities. Local; replicated."""
        costs = self._hierarchy.costs if self.costs == MEASURED else None
        return [
            self.taken,
            *(
                f"level {depth}: {level.rows} rows, {level.nonzeros} entries, {level.ranks} "
                f"rank{'s' if level.ranks > 1 else ''}"
                for depth, level in enumerate(self.levels)
            ),
            f"operator complexity {self.operator_complexity:.2f}, grid complexity "
            f"{self.grid_complexity:.2f}",
            *([] if costs is None else [f"levels went to fewer ranks by measured costs {costs}"]),
        ]

    @property
    def seconds(self) -> dict[str, float]:
        """This rank's time in each step of the set-up."""
        return dict(self._hierarchy.seconds)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            whole = self._whole(False, r, out)
            if whole is not None:
                return whole.apply(r, out)
            if self._decoupled is None:
                return self._solve(False, r, out)
            (b,) = self._rest.like(r)
            self._solve(False, self._decoupled.eliminate(r, b), out)
            return self._decoupled.solve(r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            whole = self._whole(True, r, out)
            if whole is not None:
                return whole.apply(r, out)
            if self._decoupled is None:
                return self._solve(True, r, out)
            (b,) = self._rest.like(r)
            self._solve(True, self._decoupled.clear(b.copy_(r)), out)
            return self._decoupled.solve_transpose(r, out)

    def compiles(self, r: torch.Tensor) -> bool:
        """Local."""
        return self._can_compile(False, r, r)

    def compiled(self, r: torch.Tensor) -> CompiledApply | None:
        """**Collective** at first."""
        whole = self._whole(False, r, r)
        return None if whole is None else whole.function(self._turns)

    def _can_compile(self, transpose: bool, r: torch.Tensor, out: torch.Tensor) -> bool:
        decoupled = self._decoupled
        if decoupled is not None and decoupled.coupled:
            return False
        inverse = None if decoupled is None else decoupled.alone[1]
        cycle, *units = self._sides(transpose)
        return can_compile(cycle, r, out, *units, inverse)

    def _whole(self, transpose: bool, r: torch.Tensor, out: torch.Tensor) -> CompiledCycle | None:
        """All of it in one compiled call, where there is one. **Collective** at first."""
        if not self._can_compile(transpose, r, out):
            return None
        key = (transpose, r.dtype, tuple(r.shape[1:]))
        if key not in self._compiled:
            cycle, before, after = self._sides(transpose)
            alone = (None, None) if self._decoupled is None else self._decoupled.alone
            units = Units(before, after, self._scale, *alone)
            self._compiled[key] = CompiledCycle(cycle, r, self._hierarchy.dtype, units)
        return self._compiled[key]

    def _sides(self, transpose: bool) -> tuple[Cycle, torch.Tensor | None, torch.Tensor | None]:
        """The cycle, and what comes and goes is multiplied by. Local.

        C times the cycle of S A C for S r, S and C the factors of rows and columns; S times the
        transposed cycle for C r.
        """
        if transpose:
            return self._cycle_transpose(), self._columns, self._rows
        return self._cycle, self._rows, self._columns

    def _solve(self, transpose: bool, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """For what is not decoupled, in steps. **Collective.**"""
        cycle, before, after = self._sides(transpose)
        if before is not None:
            (b,) = self._units.like(r)
            r = scale(r, before, b)
        self._apply(cycle, r, out)
        return out if after is None else scale(out, after, out)

    def _cycle_transpose(self) -> Cycle:
        """The transposed cycle, of a symmetric matrix the cycle itself. Local."""
        if self._of_symmetric:
            return self._cycle
        if self._transposed is None:
            self._transposed = Cycle(self._hierarchy.levels, self.cycle, transpose=True)
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


def _given(vectors: torch.Tensor | np.ndarray, n: int) -> np.ndarray:
    """A near-nullspace of n owned rows as float64 [n, m]. Local."""
    B = np.asarray(host_array(vectors))
    B = np.ascontiguousarray(B[:, None] if B.ndim == 1 else B, dtype=np.float64)
    if B.ndim != 2 or len(B) != n or not B.shape[1] or not np.isfinite(B).all():
        raise InputError(
            f"a near-nullspace of shape {B.shape} (or not finite) does not go with {n} rows",
            field="near_nullspace",
            remedy="Pass this rank's rows of each vector: [n_owned, m]",
        )
    return B


def _near_one(world: World, B: np.ndarray) -> np.ndarray:
    """B times a power of two: the prolongator has its size, and may be float32. **Collective.**"""
    largest = world.max(max(float(B.max(initial=0.0)), -float(B.min(initial=0.0))))
    power = round(math.log2(largest)) if largest > 0 else 0
    return B * 2.0**-power if power else B
