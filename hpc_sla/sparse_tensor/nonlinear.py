"""The nonlinear solves of a SparseTensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from hpc_sla.errors import InputError, NotConvergedWarning, warn
from hpc_sla.kernels.modes import entry
from hpc_sla.nonlinear import MEANINGS, NonlinearInfo
from hpc_sla.nonlinear.solver import nonlinear_solve

if TYPE_CHECKING:
    from hpc_sla.sparse_tensor.tensor import SparseTensor


class NonlinearSolves:
    """What `SparseTensor` inherits."""

    @entry
    def nonlinear_solve(
        self, residual: Callable[..., torch.Tensor], u0: torch.Tensor, *theta: Any, **options: Any
    ) -> torch.Tensor:
        """Find u with residual(u, S, *theta) = 0. As `nonlinear_solve_with_info`, without the info.

        Warns
        -----
        NotConvergedWarning
            Where it did not converge; it names the status. u is the last iterate.
        """
        u, info = self.nonlinear_solve_with_info(residual, u0, *theta, **options)
        if not info.converged:
            warn(
                f"the nonlinear solve did not converge by {info.method}: {info.status} "
                f"({MEANINGS[info.status]}); relative residual {info.relative_residual:.1e}. "
                "nonlinear_solve_with_info tells more",
                NotConvergedWarning,
            )
        return u

    @entry
    def nonlinear_solve_with_info(
        self, residual: Callable[..., torch.Tensor], u0: torch.Tensor, *theta: Any, **options: Any
    ) -> tuple[torch.Tensor, NonlinearInfo]:
        """Find u with residual(u, S, *theta) = 0, and say how it went.

        S is this matrix: one matrix, square. Differentiable in its values and in theta.

        Parameters
        ----------
        residual : callable(u, S, *theta) -> r [n]
            Differentiable torch code, with products `S @ u`.
        u0 : torch.Tensor [n]
            Where to start; of the matrix's dtype and on its device.
        *theta, **options
            As of `hpc_sla.nonlinear_solve`; `pattern` is this matrix unless given.

        Raises
        ------
        InputError
            A batch, a rectangular matrix, u0 that does not fit, or as `hpc_sla.nonlinear_solve`.
        """
        S = cast("SparseTensor", self)
        matrix = S.matrix
        u0 = S._given(u0, "u0")
        if S.shape[0] != S.shape[1]:
            raise InputError(f"a {S.shape[0]} x {S.shape[1]} matrix is not square")
        if options.get("pattern") is None:
            options["pattern"] = matrix.with_values(matrix.values.detach())
        for name in ("jacobian", "fixed_point"):
            if callable(options.get(name)):
                options[name] = _of_tensor(options[name], S)
        with torch.cuda.device_of(S.values):
            return nonlinear_solve(
                _of_tensor(residual, S),
                u0,
                S.values,
                *theta,
                layout=matrix.layout,
                **options,
            )


def _of_tensor(function: Callable[..., Any], S: SparseTensor) -> Callable[..., Any]:
    """function(u, S, *theta) as one of S's values; a SparseTensor it gives as a DSparseMatrix."""

    def of_values(u: torch.Tensor, values: torch.Tensor, *theta: Any) -> Any:
        found = function(u, S.with_values(values), *theta)
        return cast("SparseTensor", found).matrix if isinstance(found, NonlinearSolves) else found

    return of_values
