"""What accuracy to ask for where the user does not say, by the numbers' dtype."""

from __future__ import annotations

import torch

_SINGLE, _DOUBLE = 1e-5, 1e-8
"""What every method reaches, unless the matrix is very badly conditioned: in float32, some 100
units in the last place."""


def default_rtol(dtype: torch.dtype) -> float:
    """The relative tolerance of a solve, and of those for derivatives, where none is given.

    1e-8 in float64, 1e-5 in float32.
    """
    return _SINGLE if dtype == torch.float32 else _DOUBLE
