"""A step of gmres on a distributed matrix, in one sweep over its basis."""

from __future__ import annotations

import torch

from hpc_sla.kernels.basis import Basis
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.sweep import BasisSweep, Phase
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.values import Values

Pending = tuple[torch.Tensor, torch.Tensor]
"""What `Basis.update` takes of a step: sums and found."""


class Arnoldi:
    """Steps of the Arnoldi process: the product of one with the update that the last one left.

    Local; a step is not.

    Parameters
    ----------
    pattern : DistributedPattern
    values : torch.Tensor [nnz_owned] or Values
    basis : Basis
    inverse : torch.Tensor [n_owned] or None
        The pointwise preconditioner.
    packed : Packed or None
        The owned block in fewer bytes.
    """

    def __init__(
        self,
        pattern: DistributedPattern,
        values: torch.Tensor | Values,
        basis: Basis,
        inverse: torch.Tensor | None,
        packed: Packed | None,
    ) -> None:
        self._pattern, self._basis = pattern, basis
        matrix, self._halo_values = pattern.blocks(values, basis.vectors[0], packed)
        sent = pattern.plan.send_index
        self.sweep = BasisSweep(basis, pattern.owned, matrix, inverse, sent, pattern.boundary)

    def step(self, j: int, pending: Pending | None) -> torch.Tensor:
        """`basis[j + 1] = A M^-1 basis[j]`, and this rank's `Basis.dots` of both. **Collective.**

        Parameters
        ----------
        pending : (torch.Tensor [2, j + 1], torch.Tensor [3]) or None
            Of step j - 1; None where its update has been made.
        """
        pattern, sweep = self._pattern, self.sweep
        sums, found = pending or (None, None)
        out, part = self._basis.room(2, j + 2), sweep.part
        channel = pattern.plan.forward_channel(self._basis.vectors[j])
        sweep(Phase.SEND, j, sums, found, channel.send_buffer)
        channel.start()
        sweep(Phase.MAIN, j, sums, found)
        channel.finish()
        pattern.halo.fused_matmul(self._halo_values, channel.recv_buffer, part)
        sweep(Phase.RECEIVE, j, None, None, part, out)
        return out

    def update(self, j: int, pending: Pending) -> None:
        """Make the update of step j - 1 that `step` would make. Local."""
        self.sweep(Phase.UPDATE, j, *pending)

    def last(self, j: int, pending: Pending | None) -> torch.Tensor:
        """The same, and this rank's `Basis.dots` of vector j alone. Local."""
        out = self._basis.room(1, j + 1)
        sums, found = pending or (None, None)
        self.sweep(Phase.END, j, sums, found, None, out)
        return out
