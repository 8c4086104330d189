"""What a nonlinear model problem offers: its equations on this rank's part of a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.partition.offsets import even_offsets
from hpc_sla.problems.base import parameter_text
from hpc_sla.problems.grid import check_size

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.layout import RowLayout
    from hpc_sla.distributed.world import World
    from hpc_sla.sparse.matrix import DSparseMatrix

Offsets = list[tuple[int, ...]]


@dataclass
class NonlinearSystem:
    """A nonlinear problem on the ranks of a World: the arguments of `nonlinear_solve`.

    Attributes
    ----------
    A : DSparseMatrix
        The pattern of the Jacobian.
    residual : callable(u, *theta) -> r [n_owned]
        **Collective.** theta are the replicated parameters; their gradient comes out whole.
    theta : tuple of torch.Tensor []
        The parameters' values.
    u0 : torch.Tensor [n_owned]
        A start from which Newton converges.
    jacobian : callable(u, *theta) -> DSparseMatrix, or None
        dF/du, where it is written out.
    exact : torch.Tensor [n_owned] or None
        The solution of the differential equation, where that was manufactured.
    """

    A: DSparseMatrix
    residual: Callable[..., torch.Tensor]
    theta: tuple[torch.Tensor, ...]
    u0: torch.Tensor
    jacobian: Callable[..., DSparseMatrix] | None = None
    exact: torch.Tensor | None = field(default=None, repr=False)

    @property
    def layout(self) -> RowLayout:
        return self.A.layout


class NonlinearProblem(ABC):
    """A nonlinear equation on a regular grid with zero values around it, by finite differences.

    Numbering and points are those of `GridProblem`; the unknowns of a point follow one another.
    Equations are times h^2, as those of the linear problems.

    Parameters
    ----------
    name, parameters
        As in `LinearProblem`; `parameters` holds `n`, the interior points along each axis.
    dimensions : int
    offsets : list of tuple
        Of the points that a point's equations refer to.

    Attributes
    ----------
    n_rows, block_size : int
        Unknowns in all, and at a point.
    symmetric : bool
        Whether the Jacobian is symmetric and positive definite near the solution that Newton finds.
    """

    block_size = 1
    symmetric = True

    def __init__(
        self, name: str, parameters: Mapping[str, Any], dimensions: int, offsets: Offsets
    ) -> None:
        n = parameters["n"]
        check_size(name, n)
        self.name, self.parameters = name, dict(parameters)
        self.dimensions, self.offsets = dimensions, sorted(offsets)
        self.shape = (n,) * dimensions
        self.h = 1.0 / (n + 1)
        self.n_points = n**dimensions
        self.n_rows = self.n_points * self.block_size

    @property
    def spec(self) -> str:
        """The text that `make_nonlinear` builds this problem from."""
        return f"{self.name}:{parameter_text(self.parameters)}"

    @abstractmethod
    def on(self, world: World, dtype: torch.dtype | None = None) -> NonlinearSystem:
        """The equations of this rank's rows, even contiguous runs of them. **Collective.**"""

    def coordinates(self, p0: int, p1: int) -> np.ndarray:
        """The points p0:p1, float64 ``[p1 - p0, dimensions]``."""
        point = np.unravel_index(np.arange(p0, p1), self.shape)
        return (np.stack(point, axis=1) + 1.0) * self.h

    def neighbours(self, p0: int, p1: int) -> np.ndarray:
        """The point at each of `offsets` from the points p0:p1, -1 for one on the boundary."""
        point = np.stack(np.unravel_index(np.arange(p0, p1), self.shape), axis=1)
        there = point[:, None, :] + np.array(self.offsets)
        inside = ((there >= 0) & (there < self.shape[0])).all(axis=2)
        strides = self.shape[0] ** np.arange(self.dimensions)[::-1]
        return np.where(inside, there @ strides, -1)

    def place(self, world: World, dtype: torch.dtype | None) -> Placed:
        """The grid on these ranks. **Collective.**"""
        return Placed(self, world, dtype)


class Placed:
    """A problem's grid on this rank: the Jacobian's pattern and the values around each point.

    **Collective.**

    Attributes
    ----------
    A : DSparseMatrix
        The pattern; its values are zero.
    points : float array [n_points_owned, dimensions]
    """

    def __init__(self, problem: NonlinearProblem, world: World, dtype: Any) -> None:
        # Here, so that what only names problems, as `--help` does, does without torch.
        import torch

        from hpc_sla.distributed.layout import RowLayout
        from hpc_sla.sparse.matrix import DSparseMatrix

        block = problem.block_size
        cuts = even_offsets(problem.n_points, world.size)
        p0, p1 = int(cuts[world.rank]), int(cuts[world.rank + 1])
        around = problem.neighbours(p0, p1)
        inside = around >= 0
        counts = inside.sum(axis=1) * block
        starts = np.concatenate([[0], np.cumsum(counts)])
        columns = around[inside][:, None] * block + np.arange(block)
        # Each of a point's equations refers to all unknowns of the points around it.
        by_point = sp.csr_array(
            (np.ones(columns.size), columns.reshape(-1), starts),
            shape=(p1 - p0, problem.n_rows),
        )
        by_row = by_point[np.repeat(np.arange(p1 - p0), block)]
        indptr, indices = by_row.indptr.astype(np.int64), by_row.indices.astype(np.int64)
        layout = RowLayout(world, cuts * block)
        numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        data = np.zeros(len(indices), dtype=numpy_dtype)
        self.A = DSparseMatrix._from_rows(layout, layout, indptr, indices, data)
        self.A.block_size = block
        self.points = problem.coordinates(p0, p1)
        self._block, self._like = block, self.A.values
        halo = self.A.pattern.plan.halo[::block] // block
        mine = (around >= p0) & (around < p1)
        there = np.searchsorted(halo, around) + p1 - p0
        local = np.where(mine, around - p0, np.where(inside, there, p1 - p0 + len(halo)))
        self._local = torch.from_numpy(local).to(self._like.device)

    def tensor(self, values: Any) -> torch.Tensor:
        """An array as this rank's tensor."""
        return self._like.new_tensor(np.ascontiguousarray(values, dtype=np.float64))

    def around(self, u: torch.Tensor) -> torch.Tensor:
        """Values u around each owned point, zero on the boundary. **Collective.** Differentiable.

        [n_points_owned, offsets], or [n_points_owned, offsets, block_size].
        """
        import torch  # as above

        known = torch.nn.functional.pad(self.A.with_halo(u), (0, self._block))
        if self._block > 1:
            known = known.view(-1, self._block)
        return known[self._local]


def star(dimensions: int) -> Offsets:
    """A point and its neighbours along the axes."""
    axes = [
        tuple(s * (k == a) for k in range(dimensions)) for a in range(dimensions) for s in (-1, 1)
    ]
    return [(0,) * dimensions, *axes]
