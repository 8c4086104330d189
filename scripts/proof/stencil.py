"""The 5-point Laplacian without a matrix: what A x is, from nothing of the package's own."""

from __future__ import annotations

import torch

import hpc_sla as hs


def entries(n: int) -> int:
    """Stored entries of the matrix on an n x n grid."""
    return 5 * n * n - 4 * n


def csr_bytes(n: int) -> int:
    """Bytes of a product's matrix in compressed rows: 8 for an entry, 4 for its column, 4 a row."""
    return 12 * entries(n) + 4 * n * n


def relative_residual(
    world: hs.World, n: int, start: int, x: torch.Tensor, b: torch.Tensor
) -> float:
    """||b - A x|| / ||b|| in float64. **Collective.**

    Parameters
    ----------
    world : hpc_sla.World
    n : int
        Points along a side; no rank owns fewer of them.
    start : int
        This rank's first row.
    x, b : torch.Tensor [n_owned]
    """
    x, b = x.double(), b.double()
    ends = world.comm.allgather((x[:n].cpu(), x[-n:].cpu()))
    nothing = torch.zeros(n, dtype=torch.float64)
    before = ends[world.rank - 1][1] if world.rank else nothing
    after = ends[world.rank + 1][0] if world.rank + 1 < world.size else nothing
    wide = torch.cat([before.to(x.device), x, after.to(x.device)])
    size = len(x)
    r = b - 4 * x
    r += wide[:size]
    r += wide[2 * n :]
    column = torch.arange(start, start + size, device=x.device).remainder_(n)
    r += wide[n - 1 : n - 1 + size].where(column != 0, 0.0)
    r += wide[n + 1 : n + 1 + size].where(column != n - 1, 0.0)
    squares = torch.stack([torch.dot(r, r), torch.dot(b, b)]).tolist()
    return (world.sum(squares[0]) / world.sum(squares[1])) ** 0.5
