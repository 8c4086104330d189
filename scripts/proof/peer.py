"""Another solver of the same system on the same card: what it must tell and do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class Peer(ABC):
    """One solver. It says itself whether it is there.

    Attributes
    ----------
    name : str
    takes_matrix : bool
        Whether it wants `A`; else None will do.
    """

    name: str
    takes_matrix = True

    def why_not(self, device: torch.device) -> str | None:
        """Why it cannot be used on that device; None where it can."""
        return None

    @abstractmethod
    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        """Take a system in: a CSR tensor, float64, and [n^2]. Not timed."""

    @abstractmethod
    def solve(self) -> tuple[torch.Tensor, int | None]:
        """Set up and solve: x [n^2], and the iterations where it tells. Timed."""

    def release(self) -> None:
        """Let go of the system."""
        vars(self).clear()


def coordinates(A: torch.Tensor) -> dict[str, Any]:
    """Values, rows and columns of a CSR tensor."""
    counts = A.crow_indices().diff()
    rows = torch.repeat_interleave(torch.arange(A.shape[0], device=A.device), counts)
    return {"val": A.values(), "row": rows, "col": A.col_indices().long(), "shape": tuple(A.shape)}
