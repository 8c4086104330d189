"""The small matrix of GMRES: its columns, the residual norm, the least-squares problem.

In tensors that the host does not look at, for an accelerator's sake; on the CPU in C
(`hessenberg.c`) where there is a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import native


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

    found: torch.Tensor
    """What `step` of `HostHessenberg` returns."""

    _kept = ("beta", "matrix", "null", "length", "live")

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a step hands to the next, by name: waits for the device."""
        return {name: getattr(self, name).double().cpu().numpy() for name in self._kept}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` gave."""
        for name in self._kept:
            array = torch.from_numpy(state[name])
            if name in ("matrix", "null"):
                kept = getattr(self, name)
                if array.numel() != kept.numel():
                    raise ValueError(f"{name} of shape {tuple(array.shape)}")
                kept.copy_(array.reshape(kept.shape))
            else:
                array = array.reshape(self.shape).to(self.target.device)
                setattr(self, name, array.to(torch.bool if name == "live" else self.target.dtype))

    # narrow() and select(), not slicing: see hpc_sla.sparse.pattern.

    def step(self, j: int, sums: torch.Tensor) -> torch.Tensor:
        """Take in the sums `[2, j + 2]` of step j, the first j of which are s and c.

        Returns
        -------
        torch.Tensor [3]
            last and inverse, with which `q_j = (u - sum_i s_i q_i) inverse` and
            `u_(j+1) = (w - sum_i c_i q_i - last q_j) inverse`; and the norm of the residual after
            this step.
        """
        with_u, with_w = sums.unbind()
        s, uu, uw = with_u.narrow(0, 0, j), with_u.select(0, j), with_u.select(0, j + 1)
        c, ww = with_w.narrow(0, 0, j), with_w.select(0, j + 1)
        alpha = self._complete(j, s, uu)
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
        return torch.stack([last, inverse, norm])

    def finish(self, j: int, sums: torch.Tensor) -> None:
        """Make the last of j columns final, with the inner products `[j + 1]` of V and u_j."""
        self._complete(j, sums.narrow(0, 0, j), sums.select(0, j))

    def _complete(self, j: int, s: torch.Tensor, uu: torch.Tensor) -> torch.Tensor:
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


class HostHessenberg(Hessenberg):
    """`Hessenberg` in C, for vectors on the CPU: a step is one call."""

    def __init__(self, restart: int, like: torch.Tensor, target: Any) -> None:
        super().__init__(restart, like, target)
        self._restart, self._like = restart, like
        self.found = like.new_empty((3, *self.shape))
        self._room = like.new_empty((restart + 2) * (restart + 1), dtype=torch.float64)

    def step(self, j: int, sums: torch.Tensor) -> torch.Tensor:
        state = (self.beta, self.target, self.matrix, self.null, self.length, self.live)
        native.call("hessenberg_step", self._like, self._restart, j, sums, *state, self.found)
        return self.found

    def finish(self, j: int, sums: torch.Tensor) -> None:
        state = (self.matrix, self.null, self.length)
        native.call("hessenberg_complete", self._like, self._restart, j, sums, *state)

    def least_squares(self, j: int) -> np.ndarray:
        y = torch.empty((j, *self.shape), dtype=torch.float64, device="cpu")
        state = (self.beta, self.matrix, self.length, self._room, y)
        if native.call("hessenberg_solve", self._like, self._restart, j, *state):
            return y.numpy()
        return super().least_squares(j)


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
