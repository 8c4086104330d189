"""Block Jacobi on overlapping blocks: fewer iterations on many ranks; with cg type=basic."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.errors import InputError
from hpc_sla.kernels.vectors import copy_
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.local_solve import check_factor, make_factor, options_to_name
from hpc_sla.precond.options import check_choice
from hpc_sla.precond.overlap import overlapping_block
from hpc_sla.precond.workspace import Workspace
from hpc_sla.sparse.matrix import DSparseMatrix

TYPES = ("restrict", "basic")


class AdditiveSchwarz(Preconditioner):
    """`M^-1 = sum_i P_i^T A_i^-1 R_i` over ranks, their blocks overlapping.

    R_i takes a vector to rank i's rows and those that `overlap` steps along the matrix graph
    reach; A_i = R_i A R_i^T, factorised. `basic`: P_i = R_i (Dryja and Widlund, 1987).
    `restrict`: P_i keeps only what rank i owns, which halves the communication and mostly the
    iterations too, and is not symmetric (Cai and Sarkis, "A restricted additive Schwarz
    preconditioner for general sparse linear systems", SIAM J. Sci. Comput. 21, 1999). PETSc's
    `asm` with one block a rank.

    Parameters
    ----------
    overlap : int
        At least 0, which is block Jacobi.
    type : {"restrict", "basic"}
    factor : {"ilu0", "ic0", "lu"}
    backend : str
        As of `BlockJacobi`.

    Attributes
    ----------
    shift : float
        As of `BlockJacobi`.

    Raises
    ------
    InputError
        Options out of range; in `on` as of `BlockJacobi`.
    """

    name = "additive_schwarz"
    petsc = "asm"

    def __init__(
        self,
        overlap: int = 1,
        type: str = "restrict",
        factor: str = "ilu0",
        backend: str = "auto",
    ) -> None:
        self.overlap, self.type, self.factor, self.backend = overlap, type, factor, backend
        self.check_options()
        check_factor("additive_schwarz", factor, backend)
        if overlap < 0:
            raise InputError(f"{overlap} is negative", field="additive_schwarz:overlap")
        check_choice("additive_schwarz", "type", type, TYPES)
        self.always = ("overlap", "type", *options_to_name(factor))

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        world, n = A.world, A.layout.n_owned
        self._restrict = self.type == "restrict"
        rows, block = overlapping_block(A, self.overlap)
        self._plan = HaloPlan(A.layout, rows)
        self._n, self._extra = n, len(rows)
        # Rows are contiguous by rank, so a rank's own lie between those of others.
        self._below = int((rows < A.layout.start).sum())
        self._overlaps = world.sum(self._extra) > 0
        mine = torch.from_numpy(A.layout.rows.astype(np.int64)).to(A.device)
        there = self._plan.exchange(mine)
        parts = there[: self._below], mine, there[self._below :]
        user_rows = torch.cat(parts).cpu().numpy()
        with world.agree():
            self._factor = make_factor(block, user_rows, A.device, self.factor, self.backend)
        self.shift = world.max(self._factor.shift)
        self.of_nonsymmetric = self.factor != "ic0" and world.sum(not block.is_symmetric()) > 0
        self.symmetric = not (self.of_nonsymmetric or (self._restrict and self._overlaps))
        self._work = Workspace(2, n + self._extra)

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Where its factors are."""
        return self._factor.capturable

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            return self._apply(r, out)

    def _apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if not self._overlaps:
            return self._factor.solve(r, out)
        extended, solution = self._work.like(r)
        self._extend(r, extended)
        solution = self._factor.solve(extended, solution)
        if self._restrict:
            copy_(out, solution.narrow(0, self._below, self._n))
            return out
        return self._sum(solution, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        with self._turns:
            return self._apply_transpose(r, out)

    def _apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if not self._overlaps:
            return self._factor.solve(r, out, transpose=True)
        extended, solution = self._work.like(r)
        if self._restrict:
            extended.zero_()
            copy_(extended.narrow(0, self._below, self._n), r)
        else:
            self._extend(r, extended)
        return self._sum(self._factor.solve(extended, solution, transpose=True), out)

    def _extend(self, r: torch.Tensor, extended: torch.Tensor) -> None:
        """R r. **Collective.**"""
        channel = self._plan.start_exchange(r)
        channel.finish()
        others, above = channel.recv_buffer, self._extra - self._below
        torch.cat(
            [others.narrow(0, 0, self._below), r, others.narrow(0, self._below, above)],
            out=extended,
        )

    def _sum(self, solution: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`out = sum_i R_i^T solution_i`. **Collective.**"""
        channel = self._plan.reduce_channel(solution)
        above = self._extra - self._below
        below = solution.narrow(0, 0, self._below)
        torch.cat(
            [below, solution.narrow(0, self._below + self._n, above)], out=channel.send_buffer
        )
        channel.start()
        copy_(out, solution.narrow(0, self._below, self._n))
        self._plan.finish_reduce(channel, out)
        return out
