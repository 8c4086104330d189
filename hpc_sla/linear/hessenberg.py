"""The small matrix of GMRES: its columns, the residual norm, the least-squares problem.

On the CPU in NumPy, whose calls cost a fraction of torch's; on an accelerator in tensors that the
host does not look at. The two classes say the same, line by line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Hessenberg:
    """What delayed Gram-Schmidt makes of its inner products. Local; columns each by itself.

    With u_j the next basis vector before its second pass and normalisation, and w = A M^-1 u_j,
    a step is given V^T u, u.u, u.w, V^T w, w.w and returns how to combine vectors.

    Parameters
    ----------
    restart : int
    like : torch.Tensor [n_owned] or [n_owned, k]
    target : scalar
        Of the residual norm: [] or [k].
    """

    def __init__(self, restart: int, like: torch.Tensor, target: Any) -> None:
        shape = like.shape[1:]
        self.shape = shape
        self.matrix = like.new_zeros((restart + 1, restart, *shape))
        # Orthogonal to every column: its norm is that of b over that of the residual.
        self.null = like.new_zeros((restart + 1, *shape))
        self.target = torch.as_tensor(target, dtype=like.dtype, device=like.device)

    def begin(self, square: Any, active: Any) -> None:
        """A new cycle whose residual has that square norm."""
        like = self.target
        self.beta = torch.as_tensor(square, dtype=like.dtype, device=like.device).sqrt()
        self.matrix.zero_()
        self.null.zero_()
        self.null.select(0, 0).fill_(1.0)
        self.length = torch.zeros_like(self.beta)
        active = torch.as_tensor(active, device=like.device)
        self.live = active & (self.beta > self.target) & (self.beta < torch.inf)

    def keep(self, which: Any) -> None:
        """Go on with these columns only."""
        self.live = self.live & which

    # narrow() and select(), not slicing: see hpc_sla.pattern.

    def step(self, j: int, sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take in the sums `[2, j + 2]` of step j.

        Returns
        -------
        s, c : [j]
            `q_j = (u - sum_i s_i q_i) inverse`,
        last, inverse : []
            and `u_(j+1) = (w - sum_i c_i q_i - last q_j) inverse`.
        norm : []
            Of the residual after this step.
        """
        with_u, with_w = sums.unbind()
        s, uu, uw = with_u.narrow(0, 0, j), with_u.select(0, j), with_u.select(0, j + 1)
        c, ww = with_w.narrow(0, 0, j), with_w.select(0, j + 1)
        alpha = self.complete(j, s, uu)
        inverse = torch.where(self.live & (alpha > 0), 1.0 / alpha, 0.0)
        # A q_j = (w - V t) / alpha, and its projection on q_0 .. q_j is h.
        t = (self.matrix.narrow(0, 0, j + 1).narrow(1, 0, j) * s).sum(dim=1)
        last = (uw - (s * c).sum(dim=0)) * inverse
        g = torch.cat([c, last.unsqueeze(0)])
        h = (g - t) * inverse
        below = (ww - (g * g).sum(dim=0)).clamp(min=0.0).sqrt() * inverse
        column = self.matrix.select(1, j).narrow(0, 0, j + 2)
        torch.mul(torch.cat([h, below.unsqueeze(0)]), 1.0, out=column)
        self._extend_null(j)
        self.length = self.length + self.live
        norm = self.beta / self.null.narrow(0, 0, j + 2).square().sum(dim=0).sqrt()
        norm = torch.where(below > 0, norm, 0.0)
        self.live = self.live & (norm > self.target) & (alpha > 0)
        return s, c, last, inverse, norm

    def complete(self, j: int, s: torch.Tensor, uu: torch.Tensor) -> torch.Tensor:
        """Make the column before the j-th final, now that u_j's second pass is known: its norm."""
        alpha = (uu - (s * s).sum(dim=0)).clamp(min=0.0).sqrt()
        if j:
            made = self.length >= j
            column = self.matrix.select(1, j - 1)
            above, below = column.narrow(0, 0, j), column.select(0, j)
            above.add_(torch.where(made, s, 0.0))
            torch.mul(torch.where(made, alpha, below), 1.0, out=below)
            self._extend_null(j - 1)
        return alpha

    def _extend_null(self, j: int) -> None:
        column = self.matrix.select(1, j)
        below = column.select(0, j + 1)
        total = -(self.null.narrow(0, 0, j + 1) * column.narrow(0, 0, j + 1)).sum(dim=0)
        entry = torch.where(below > 0, total / below, 0.0)
        torch.mul(entry, 1.0, out=self.null.select(0, j + 1))

    def least_squares(self, j: int) -> np.ndarray:
        """The coefficients `[j]` or `[j, k]` of the least residual: waits for the device."""
        return least_squares(
            self.matrix.cpu().numpy(), self.beta.cpu().numpy(), self.length.cpu().numpy(), j
        )


class HostHessenberg:
    """`Hessenberg` in NumPy, for vectors on the CPU."""

    def __init__(self, restart: int, like: torch.Tensor, target: Any) -> None:
        shape, dtype = tuple(like.shape[1:]), like.new_empty(0).numpy().dtype
        self.shape = shape
        self.matrix = np.zeros((restart + 1, restart, *shape), dtype)
        self.null = np.zeros((restart + 1, *shape), dtype)
        self.target = np.asarray(target, dtype)
        self._one, self._zero = dtype.type(1), dtype.type(0)

    def begin(self, square: Any, active: Any) -> None:
        self.beta = np.sqrt(np.asarray(square, self.target.dtype))
        self.matrix.fill(0)
        self.null.fill(0)
        self.null[0] = 1
        self.length = np.zeros(self.shape, int)
        self.live = np.asarray(active) & (self.beta > self.target) & (self.beta < np.inf)

    def keep(self, which: Any) -> None:
        self.live = self.live & np.asarray(which)

    def step(self, j: int, sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (with_u, with_w) = sums.numpy()
        s, uu, uw = with_u[:j], with_u[j], with_u[j + 1]
        c, ww = with_w[:j], with_w[j + 1]
        with np.errstate(all="ignore"):
            alpha = self.complete(j, s, uu)
            inverse = np.where(self.live & (alpha > 0), self._one / alpha, self._zero)
            t = (self.matrix[: j + 1, :j] * s).sum(axis=1)
            last = (uw - (s * c).sum(axis=0)) * inverse
            g = np.concatenate([c, last[None]])
            below = np.sqrt(np.maximum(ww - (g * g).sum(axis=0), self._zero)) * inverse
            self.matrix[: j + 1, j] = (g - t) * inverse
            self.matrix[j + 1, j] = below
            self._extend_null(j)
            self.length = self.length + self.live
            norm = self.beta / np.sqrt((self.null[: j + 2] ** 2).sum(axis=0))
            norm = np.where(below > 0, norm, self._zero)
            self.live = self.live & (norm > self.target) & (alpha > 0)
        return tuple(torch.from_numpy(np.asarray(a)) for a in (s, c, last, inverse, norm))

    def complete(self, j: int, s: Any, uu: Any) -> Any:
        s, uu = np.asarray(s), np.asarray(uu)
        alpha = np.sqrt(np.maximum(uu - (s * s).sum(axis=0), self._zero))
        if j:
            made = self.length >= j
            column = self.matrix[:, j - 1]
            column[:j] += np.where(made, s, self._zero)
            column[j] = np.where(made, alpha, column[j])
            self._extend_null(j - 1)
        return alpha

    def _extend_null(self, j: int) -> None:
        column = self.matrix[:, j]
        total = -(self.null[: j + 1] * column[: j + 1]).sum(axis=0)
        below = column[j + 1]
        with np.errstate(all="ignore"):
            self.null[j + 1] = np.where(below > 0, total / below, self._zero)

    def least_squares(self, j: int) -> np.ndarray:
        return least_squares(self.matrix, self.beta, self.length, j)


def least_squares(matrix: np.ndarray, beta: np.ndarray, length: np.ndarray, j: int) -> np.ndarray:
    """Min ||beta e_1 - H y|| for each right-hand side, over as many columns as it has made."""
    count = int(np.prod(matrix.shape[2:], dtype=int))
    H = matrix[: j + 1, :j].reshape(j + 1, j, count).astype(np.float64)
    beta, length = beta.reshape(count).astype(np.float64), length.reshape(count).astype(int)
    y = np.zeros((j, count))
    for column, m in enumerate(length):
        top, right = H[: m + 1, :m, column], np.zeros(m + 1)
        if m and np.isfinite(top).all() and np.isfinite(beta[column]):
            right[0] = beta[column]
            y[:m, column] = np.linalg.lstsq(top, right, rcond=None)[0]
    return y.reshape(j, *matrix.shape[2:])
