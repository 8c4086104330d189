"""Sparse products on a GPU by kernels of our own: where there are some, and how they are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from hpc_sla.errors import warn
from hpc_sla.kernels import device_steps, native
from hpc_sla.kernels.modes import lasting

Tensor = torch.Tensor

_MOST_LANES = 32

_MOST_TURNS = 256
"""How often the lanes of a row may go on to its next entries, while all others wait."""


@cache
def _load(device: torch.device) -> bool:
    """Register the operators, and try them. What ails the steps of cg has been told there."""
    if not device_steps.works("cg", device):
        return False
    try:
        import hpc_sla.kernels.triton_products as kernels  # registers them; Triton is optional

        ones = torch.ones(1, device=device)
        column = torch.zeros(1, dtype=torch.int32, device=device)
        ends = torch.tensor([0, 1], dtype=torch.int32, device=device)
        spare: dict[str, Any] = {}
        plain = DeviceRows("csr_rows", (ends, column, ones, 1), spare)
        plain(ones, ones.clone(), weights=ones, dot=torch.ones((), device=device))
        lanes = torch.full((kernels.HEIGHT,), -1, dtype=torch.int32, device=device)
        sliced = (ends, None, None, None, lanes, None, lanes.float(), None)
        DeviceRows("sliced_rows", sliced, spare)(ones, ones.clone(), b=ones)
    except Exception as error:  # of Triton, its compiler, its driver: whatever they raise
        warn(
            f"sparse products in Triton do not work on {device} ({type(error).__name__}: {error}): "
            "cuSPARSE takes their place, more slowly. HPC_SLA_NATIVE=0 asks for it in silence",
            RuntimeWarning,
        )
        return False
    return True


def serves(x: Tensor) -> bool:
    """Whether `DeviceRows` can multiply vectors like x: single ones, contiguous, on a GPU."""
    return (
        x.device.type == "cuda"
        and x.dim() == 1
        and x.is_contiguous()
        and x.dtype in native.DTYPES
        and _load(x.device)
    )


def looks(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at: those of a fake tensor cannot."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def lanes_of(indptr: Tensor, nnz: int) -> int:
    """How many lanes of a GPU a row is worth; 0 where one row would keep all waiting. Local.

    Waits for the device, to see the longest.
    """
    n = max(indptr.numel() - 1, 1)
    lanes = 1
    while 2 * lanes * n < nnz and lanes < _MOST_LANES:
        lanes *= 2
    if not nnz or not looks(indptr):
        return lanes
    longest, most = int(torch.diff(indptr).max()), min(8 * lanes, _MOST_LANES)
    while longest > _MOST_TURNS * lanes and lanes < most:
        lanes *= 2
    return lanes if longest <= _MOST_TURNS * lanes else 0


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """A rank-local matrix on a GPU as one launch takes it, in one of two forms. Local.

    Parameters
    ----------
    operator : {"csr_rows", "sliced_rows"}
        Of `triton_products.py`.
    parts : tuple
        What it takes of the matrix.
    cache : dict
        Where to keep the room for sums, with what lives as long as the matrix. It is for one
        launch at a time: products with a matrix belong on one stream.
    """

    operator: str
    parts: tuple[Any, ...]
    cache: dict[str, Any]

    def __call__(
        self,
        x: Tensor,
        out: Tensor,
        *,
        rows: Tensor | None = None,
        b: Tensor | None = None,
        inverse: Tensor | None = None,
        before: Tensor | None = None,
        after: Tensor | None = None,
        weights: Tensor | None = None,
        dot: Tensor | None = None,
        square: Tensor | None = None,
        scale: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """`out = b + scale A x`, or a step of a smoother, in one launch.

        Without `inverse`: the former (0 for b unless given), or `out[rows] += scale A x`. With it:
        `q = beta before + scale inverse (b - A x); out = x + q; after = q`, or, with `rows`,
        `out[rows]` and `after[rows]` are raised by `scale inverse[rows] (A x)`.

        Parameters
        ----------
        x : torch.Tensor [n_columns]
            All of the vectors contiguous, and of one dtype.
        out, b, inverse, before, after, weights : torch.Tensor [n_rows] or, with `rows`, longer
            out may be b. before and after may be one, and before may be x.
        rows : int32 tensor [n_rows]
            No row twice.
        dot, square : torch.Tensor []
            Overwritten with weights . out and out . out; with `rows`, raised by what out's change
            makes of them. Without `inverse` only. `dot` goes with `weights`.
        """
        sums = None
        if dot is not None or square is not None:
            sums = self._scratch(out)
        operator = getattr(torch.ops.hpc_sla, self.operator)
        ends = (rows, b, inverse, before, after, weights if dot is not None else None)
        operator(*self.parts, x, out, *ends, dot, square, sums, float(scale), float(beta))

    def _scratch(self, like: Tensor) -> Tensor:
        if "sums" not in self.cache:
            from hpc_sla.kernels.triton_products import scratch  # Triton is optional

            with lasting():
                self.cache["sums"] = scratch(like.device)
        found: Tensor = self.cache["sums"]
        return found
