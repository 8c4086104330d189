"""The normal equations A^T A w = c, for the gradient of a least-squares solution."""

from __future__ import annotations

import torch

from hpc_sla.precond import Preconditioner
from hpc_sla.precond.workspace import Workspace
from hpc_sla.sparse.operator import Operator


class NormalOperator(Operator):
    """`A^T A`."""

    def __init__(self, operator: Operator) -> None:
        columns = operator.columns
        super().__init__(columns, columns, operator.dtype, operator.device)
        self._operator, self.capturable = operator, operator.capturable
        self._work = Workspace(1, operator.layout.n_owned)

    def settle(self, x: torch.Tensor) -> None:
        self._operator.settle(x)

    @property
    def token(self) -> tuple[object, ...]:
        return (*self._operator.token, "normal")

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        (image,) = self._work.like(x)
        self._operator(x, image)
        self._operator.adjoint(image, out)

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        self(y, out)

    def diagonal(self) -> torch.Tensor:
        raise NotImplementedError("its preconditioner is made of that of A")


class NormalPreconditioner(Preconditioner):
    """`M^T M` for the M of A: M^-1 M^-T."""

    symmetric = True

    def __init__(self, M: Preconditioner, n_owned: int) -> None:
        self._of, self.name = M, M.name
        self._work = Workspace(1, n_owned)

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        return self._of.capturable

    @property
    def token(self) -> tuple[object, ...]:
        return (*self._of.token, "normal")

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """**Collective** in general."""
        (middle,) = self._work.like(r)
        return self._of.apply(self._of.apply_transpose(r, middle), out)

    apply_transpose = apply
