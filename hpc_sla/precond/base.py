"""What a preconditioner is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Preconditioner(Protocol):
    """Maps a residual to a preconditioned residual."""

    name: str

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`M^-1 r`, for r `[n_owned]` or `[n_owned, k]`. **Collective** in general.

        May write to `out` and return it, or return another tensor (even `r` itself), so that
        nothing is copied for its own sake.
        """


class Identity:
    """No preconditioner."""

    name = "none"

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return r


class Wrapped:
    """A user's callable."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
        self._function = function
        self.name = name

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self._function(r)
