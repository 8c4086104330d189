"""Factor each rank's own block (ilu0, ic0 or lu): a strong default on few ranks."""

from __future__ import annotations

import torch

from hpc_sla.kernels.incomplete import Block
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.local_solve import check_factor, make_factor, options_to_name
from hpc_sla.sparse.matrix import DSparseMatrix


class BlockJacobi(Preconditioner):
    """`M = blockdiag(A_00, A_11, ...)`, a block a rank, approximately factorised.

    PETSc's `bjacobi` with one block a rank. Applying it is local. The more ranks, the less of A
    is in the blocks. An incomplete factor that the stored order of rows does not suit is made in
    the user's order of the rank's rows.

    Parameters
    ----------
    factor : {"ilu0", "ic0", "lu"}
        Incomplete LU or Cholesky without fill, or a sparse direct factor (of Cholesky where the
        block and the backend allow it).
    backend : str
        Which of `hpc_sla.direct.BACKENDS` makes the direct factor; `auto` chooses by rank, see
        `hpc_sla.direct.factorize`.

    Attributes
    ----------
    shift : float
        The largest over ranks of what was added to a diagonal, relative to it, for the incomplete
        factor to exist; 0 where none was needed. Replicated; once it is set up.

    Raises
    ------
    InputError
        An unknown factor or backend; in `on`, on every rank, a backend that cannot be used here or
        a block that cannot be factorised.
    """

    name = "block_jacobi"
    petsc = "bjacobi"

    def __init__(self, factor: str = "ilu0", backend: str = "auto") -> None:
        self.factor, self.backend = factor, backend
        self.check_options()
        check_factor("block_jacobi", factor, backend)
        self.always = options_to_name(factor)

    def set_up(self, A: DSparseMatrix) -> None:
        """**Collective.**"""
        world = A.world
        with world.agree():
            arrays = A.pattern.owned.host_arrays()
            values = A.pattern.owned_values(A.values.detach()).cpu().numpy()
            block = Block.from_csr(*arrays, values)
            self._factor = make_factor(block, A.layout.rows, A.device, self.factor, self.backend)
        self.shift = world.max(self._factor.shift)
        self.of_nonsymmetric = self.factor != "ic0" and world.sum(not block.is_symmetric()) > 0
        self.symmetric = not self.of_nonsymmetric

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Where its factors are."""
        return self._factor.capturable

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        with self._turns:
            return self._factor.solve(r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        with self._turns:
            return self._factor.solve(r, out, transpose=True)
