"""Vectors that a matrix takes to zero, or almost: rigid motions, and their removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.partition.rigid_body import displacements, evaluated

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World

Points = TypeVar("Points", np.ndarray, "torch.Tensor")


def rigid_body_modes(coordinates: Points, component: Any = None) -> Points:
    """Translations and rotations of the unknowns at points, for elasticity. Local.

    The displacements of a node must be unknowns of their own, as many as it has coordinates.
    They span what an unclamped body does without strain: the near-nullspace that an algebraic
    multigrid for elasticity needs.

    Parameters
    ----------
    coordinates : ndarray or torch.Tensor [n, d], floating, d = 2 or 3
        The point of every row, so that a node's point occurs d times: a matrix file's
        coordinates, and `LinearProblem.coordinates`, are this way.
    component : int array [n], optional
        Along which axis row i is a displacement. Default: i modulo d, which is so for rows in the
        user's order, and on every rank of a matrix whose `block_size` is d, since its nodes are
        kept whole. ``A.layout.rows % d`` says it for any partition.

    Returns
    -------
    ndarray or torch.Tensor [n, 6], or [n, 3] of points in the plane
        As `coordinates` in kind, dtype and device. First the translations along the axes, then
        the rotations about the origin from axis 0 to 1, 0 to 2 and 1 to 2. Neither orthogonal
        nor normalised.

    Raises
    ------
    InputError
        Not points in the plane or in space, or a component that does not fit them.
    """
    n, d = coordinates.shape if coordinates.ndim == 2 else (0, 0)
    if d not in (2, 3):
        raise InputError(
            f"has shape {tuple(coordinates.shape)}",
            field="coordinates",
            remedy="Give the point of every row: [n, 2] or [n, 3].",
        )
    along = np.arange(n) % d if component is None else np.asarray(component)
    if along.shape != (n,) or (n and not (along.min() >= 0 and along.max() < d)):
        raise InputError(
            f"has shape {along.shape}" if along.shape != (n,) else "names an axis there is not",
            field="component",
            remedy=f"Give an axis, 0 to {d - 1}, for each of the {n} rows.",
        )
    if isinstance(coordinates, np.ndarray):
        return evaluated(displacements(d), coordinates, along)
    import torch  # here, so that `partition`, which builds problems too, does without

    found = torch.from_numpy(evaluated(displacements(d), coordinates.detach().cpu().numpy(), along))
    return found.to(coordinates.device)


def project_out(b: torch.Tensor, kernel: torch.Tensor, world: World) -> torch.Tensor:
    """Take from b its part in the span of `kernel`. **Collective.**

    Of a symmetric matrix with that kernel, what is left is in its range: a right-hand side for
    which the system has solutions.

    Parameters
    ----------
    b : torch.Tensor [n_owned] or [n_owned, k]
        Per rank.
    kernel : torch.Tensor [n_owned, m]
        Per rank, on b's device; of any length, not necessarily independent.
    world : World

    Returns
    -------
    torch.Tensor
        As b in shape and dtype. Sums are in double precision.
    """
    import torch  # as above

    basis, vectors = kernel.double(), b.double()
    gram = world.all_sum(basis.T @ basis)
    inverse = torch.linalg.pinv(gram, hermitian=True)
    # What rounding leaves of a large part the second pass takes out.
    for _ in range(2):
        vectors = vectors - basis @ (inverse @ world.all_sum(basis.T @ vectors))
    return vectors.to(b.dtype)
