"""What sums, checks and replicated values need of a World, which is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from hpc_sla.distributed.agreement import Agreement
from hpc_sla.distributed.transport import Transport

if TYPE_CHECKING:
    from mpi4py import MPI


class Ranks(Protocol):
    """The part of `World` that those below it see."""

    comm: MPI.Comm
    rank: int
    size: int
    device: torch.device
    transport: Transport

    def sum(self, value: float, /) -> float:
        """As of `World`. **Collective.**"""

    def all(self, ok: bool, /) -> bool:
        """As of `World`. **Collective.**"""

    def offsets(self, count: int, /) -> np.ndarray:
        """As of `World`. **Collective.**"""

    def agree(self, function: str = "", /, **arguments: Any) -> Agreement:
        """As of `World`. **Collective.**"""
