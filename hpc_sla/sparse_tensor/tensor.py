"""SparseTensor: sparse linear algebra on one process, without a launcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hpc_sla import direct, eigen
from hpc_sla.distributed.arguments import empty_result
from hpc_sla.errors import InputError, NotConvergedWarning, warn
from hpc_sla.kernels.modes import entry
from hpc_sla.linear import SolveInfo
from hpc_sla.linear.method import Method
from hpc_sla.linear.unconverged import raise_unconverged
from hpc_sla.nonlinear import MEANINGS, NonlinearInfo, solver
from hpc_sla.observe.monitors import named_once
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse_tensor.backends import choose_backend
from hpc_sla.sparse_tensor.forms import SparseForms
from hpc_sla.sparse_tensor.numbers import SparseNumbers
from hpc_sla.sparse_tensor.shapes import for_each_system, take_apart
from hpc_sla.sparse_tensor.solve import by_factorization, by_iteration, warn_unconverged


class SparseTensor(SparseNumbers, SparseForms):
    """A sparse matrix [m, n], or a batch that shares its pattern, on one device.

    For one process: no launcher, no World, no MPI. Underneath each matrix is a `DSparseMatrix` of
    one rank (`matrix`), so what works on one works on many.

    Parameters
    ----------
    values : torch.Tensor or array [nnz], or [*batch, nnz] for a batch of any dimensions
        float64 or float32, on any device; may require grad.
    row, col : integer tensor or array [nnz]
        0-based, in any order. Entries given twice are summed, differentiably.
    shape : (int, int)
        m and n.

    Attributes
    ----------
    values : torch.Tensor [nnz] or [*batch, nnz]
        In row-major order, one for each distinct (row, column); an explicit zero stays.
    row, col : int64 tensor [nnz]
    shape : (int, int)
        Of one matrix.

    Raises
    ------
    InputError
        Lengths that differ, an index out of range, another dtype.

    Examples
    --------
    >>> import hpc_sla as hs, torch
    >>> values = torch.tensor([2.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    >>> S = hs.SparseTensor(values, [0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    >>> S.solve(torch.tensor([1.0, 0.0], dtype=torch.float64))
    tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    @entry
    def factorize(self, backend: str = "auto", method: str = "auto") -> direct.Factorization:
        """Factors of one matrix, to solve with many times: see `hpc_sla.direct.factorize`."""
        matrix = self.matrix
        return direct.factorize(matrix.pattern.owned, matrix.values, backend=backend, method=method)

    @entry
    def solve(
        self, b: torch.Tensor, *args: Any, throw: bool = False, **kwargs: Any
    ) -> torch.Tensor:
        """Find x with A x = b. As `solve_with_info`, whose parameters it takes, without the info.

        Parameters
        ----------
        throw : bool
            Whether a system that did not converge is an exception, and not a warning.

        Raises
        ------
        NotConvergedError
            With `throw`: of the first system that did not.

        Warns
        -----
        NotConvergedWarning
            Where a system did not converge; it names the status. x is the best there is.
        """
        x, infos = self.solve_with_info(b, *args, **kwargs)
        if throw:
            for info in infos:
                raise_unconverged("the solve", info, x)
        warn_unconverged(infos)
        return x

    @entry
    def solve_with_info(
        self,
        b: torch.Tensor,
        backend: str = "auto",
        method: str | Method = "auto",
        precond: Any = "auto",
        rtol: float | None = None,
        atol: float = 0.0,
        max_iterations: int | None = None,
        x0: torch.Tensor | None = None,
        adjoint_rtol: float | None = None,
        monitor: Any = None,
    ) -> tuple[torch.Tensor, list[SolveInfo]]:
        """Solve A x = b, and say how it went. Differentiable in b and the values, as `hs.solve`.

        Parameters
        ----------
        b : torch.Tensor [m], [m, k] or [B, m, k]; for a batch [m], [B, m] or [B, m, k]
            As for `@`; of the matrix's dtype and on its device.
        backend : str
            One of `hpc_sla.sparse_tensor.backends.BACKENDS`: `torch` is `hpc_sla.solve`, the others
            factorise.
            `auto` factorises a square matrix on the CPU with up to `DIRECT_ROWS` (20 000) rows,
            and iterates otherwise, or where `method` or an option of an iteration says so.
        method : str or Method
            Of that backend: `lu`, `llt`, `ldlt` ..., or a Krylov method. With `auto` as the
            backend it also decides which kind. `auto`: what suits the matrix.
        precond : str, callable or object with `apply`
            Of an iteration; `auto` is the default of `hpc_sla.solve`.
        rtol, atol : float
            Each system has converged where ||b - A x||_2 <= max(rtol ||b||_2, atol), the residual
            computed from x. rtol is 1e-8 unless given, 1e-5 in float32. A direct solution that
            misses it is refined with the same factors.
        max_iterations : int, optional
            Of an iteration.
        x0 : torch.Tensor like b, optional
            Initial guess of an iteration.
        adjoint_rtol : float, optional
            What the solves for derivatives must reach. Default: rtol, or what rounding leaves.
        monitor : str, callable, or a list of these, optional
            Of an iteration: as of `hpc_sla.solve`, of one system after another.

        Returns
        -------
        x : torch.Tensor
            [n], [n, k] or [B, n, k]; for a batch [*batch, n] or [*batch, n, k].
        infos : list of SolveInfo
            One for each system: those of the first member of the batch by columns, and so on.

        Raises
        ------
        InputError
            Shapes, dtypes or devices that do not fit, unknown names, an iteration's options for a
            direct backend.
        SingularMatrixError
            From a direct backend.
        AdjointSolveError
            In backward or forward mode: the solve for a derivative did not converge.
        """
        b = self._given(b, "b")
        limits = {"max_iterations": max_iterations, "x0": x0, "monitor": monitor}
        given = [] if isinstance(precond, str) and precond == "auto" else ["precond"]
        given += [name for name, value in limits.items() if value is not None]
        chosen = choose_backend(backend, method, self.shape, self.device, tuple(given))
        rhs = take_apart(b, self.batch_shape, self.shape[0], "b")
        columns = [rhs.columns]
        if x0 is not None:
            x0 = self._given(x0, "x0")
            columns.append(take_apart(x0, self.batch_shape, self.shape[1], "x0").columns)
            if x0.dim() != b.dim() or len(columns[1]) not in (
                1,
                1 if rhs.batch is None else rhs.batch,
            ):
                raise InputError(
                    f"shape {tuple(x0.shape)} does not go with b's {tuple(b.shape)}", field="x0"
                )
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_iterations": max_iterations}
        options["adjoint_rtol"] = adjoint_rtol
        if monitor is not None:
            options["monitor"] = named_once(monitor)
        if "precond" in given:
            options["precond"] = precond
        infos: list[SolveInfo] = []

        def solve_one(A: DSparseMatrix, b: torch.Tensor, *guess: torch.Tensor) -> torch.Tensor:
            if chosen == "torch":
                x, solved = by_iteration(A, b, guess[0] if guess else None, method, options)
            else:
                x, solved = by_factorization(A, b, chosen, str(method), rtol, atol, adjoint_rtol)
            infos.extend(solved)
            return x

        with torch.cuda.device_of(self.values):
            x = for_each_system(
                solve_one,
                self._matrices(),
                self.shape[1],
                rhs.batch,
                *columns,
                values=self.values,
            )
        return rhs.join(x), infos

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
                "nonlinear_solve_with_info gives the whole history",
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
        matrix = self.matrix
        u0 = self._given(u0, "u0")
        if self.shape[0] != self.shape[1]:
            raise InputError(
                f"a {self.shape[0]} x {self.shape[1]} matrix is not square",
                remedy="Pass as many equations as unknowns",
            )
        if options.get("pattern") is None:
            options["pattern"] = matrix.with_values(matrix.values.detach())
        for name in ("jacobian", "fixed_point"):
            if callable(options.get(name)):
                options[name] = _of_tensor(options[name], self)
        with torch.cuda.device_of(self.values):
            return solver.nonlinear_solve(
                _of_tensor(residual, self),
                u0,
                self.values,
                *theta,
                layout=matrix.layout,
                **options,
            )

    @entry
    def eigsh(
        self, k: int = 6, which: str = "smallest", **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k smallest or largest eigenpairs of a symmetric matrix, or of each of a batch.

        As `hpc_sla.eigsh`, differentiable likewise.

        Parameters
        ----------
        k : int
        which : {"smallest", "largest"}
        **options
            Of `hpc_sla.eigsh`: `precond`, `tol`, `max_iterations`, `guard`, `adjoint_rtol`; for one
            matrix also `x0` and `deflate` [n, m]. `B` is a SparseTensor of any pattern, of one
            matrix or a batch where this is one, or an operator on one matrix's layout.

        Returns
        -------
        w : torch.Tensor [k] or [*batch, k]
        V : torch.Tensor [n, k] or [*batch, n, k]

        Raises
        ------
        InputError
            Not square, not symmetric, options out of range.

        Warns
        -----
        NotConvergedWarning
            Where a pair did not converge. w and V are the best there are.
        """
        B = options.pop("B", None)
        options["monitor"] = named_once(options.get("monitor"))
        masses: list[Any] = [B] * (1 if self.batch_size is None else self.batch_size)
        if isinstance(B, SparseTensor):
            masses = self._masses(B)
        found = []
        with torch.cuda.device_of(self.values):
            for A, mass in zip(self._matrices(), masses, strict=True):
                found.append(eigen.eigsh(A, k, which, B=mass, **options))
        warn_unconverged([column for _, _, info in found for column in info.columns])
        if self.batch_size is None:
            w, V, _ = found[0]
            return w, V
        if not found:
            nothing = [(*self.batch_shape, k), (*self.batch_shape, self.shape[0], k)]
            w, V = (empty_result(shape, self.values) for shape in nothing)
            return w, V
        parts = [w for w, _, _ in found], [V for _, V, _ in found]
        w, V = (torch.stack(part).unflatten(0, self.batch_shape) for part in parts)
        return w, V

    def _masses(self, B: SparseTensor) -> list[DSparseMatrix]:
        """B as a matrix for each of `_matrices`."""
        if B.shape != self.shape or B.batch_shape not in ((), self.batch_shape):
            raise InputError(
                f"of shape {B.shape} and batch {B.batch_size} does not go with shape {self.shape} "
                f"and batch {self.batch_size}",
                field="B",
                remedy="Pass one matrix, or a batch of as many, of the same shape",
            )
        found = B._matrices()
        return found * (self.batch_size or 1) if B.batch_size is None else found


def _of_tensor(function: Callable[..., Any], S: SparseTensor) -> Callable[..., Any]:
    """function(u, S, *theta) as one of S's values; a SparseTensor it gives as a DSparseMatrix."""

    def of_values(u: torch.Tensor, values: torch.Tensor, *theta: Any) -> Any:
        found = function(u, S.with_values(values), *theta)
        return found.matrix if isinstance(found, SparseTensor) else found

    return of_values
