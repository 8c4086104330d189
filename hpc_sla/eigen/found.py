"""What was found: pairs, and how they fare."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hpc_sla.linear.info import Status


@dataclass
class Eigenpairs:
    """The pairs, the wanted end first, and how they fare. All but `vectors` replicated.

    Attributes
    ----------
    values : float64 tensor [k]
    vectors : torch.Tensor [n_owned, k]
    statuses : list of Status
    norms, scales : list of float
        ||A v - lambda B v||, computed from v at the end, and what `tol` is relative to.
    iterations : list of int
        When each met the tolerance, or all there were.
    history : list of list of float
        Residual norms by iteration.
    following : (float, float) or None
        A value for the next pair, for the gap to it, and the norm of its residual: of a guard.
    rounding : list of bool
        Of those that converged, which are at the level of rounding only, above what `tol` says.
    guards : torch.Tensor [n_owned, m - k] or None
        The vectors beyond.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    statuses: list[Status]
    norms: list[float]
    scales: list[float]
    iterations: list[int]
    history: list[list[float]] = field(default_factory=list)
    following: tuple[float, float] | None = None
    rounding: list[bool] = field(default_factory=list)
    guards: torch.Tensor | None = None
