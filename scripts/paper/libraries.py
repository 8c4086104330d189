"""The three operations of Table 3 in each library, and a count of what they solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

import hpc_sla as hs

RTOL = 1e-13
"""Asked of linear solves: what they miss, differences see magnified."""

OfMatrix = Callable[[torch.Tensor], torch.Tensor]
"""Of the values."""

OfBoth = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the values and b."""


class Library(ABC):
    """One library, for one pattern.

    Parameters
    ----------
    rows, columns : torch.Tensor [nnz]
        In row-major order.
    values : torch.Tensor [nnz]
        Of some matrix with that pattern.
    """

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
        self.rows, self.columns, self.values = rows, columns, values
        self.n = int(rows[-1]) + 1

    @abstractmethod
    def linear(self) -> dict[str, OfBoth]:
        """Ways to find x with A x = b."""

    @abstractmethod
    def eigenvalues(self) -> dict[str, OfMatrix]:
        """Ways to find the 6 smallest, ascending."""

    @abstractmethod
    def nonlinear(self) -> dict[str, OfBoth]:
        """Ways to find u with A u + u^3 = b, from u = 0."""

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """A block whose solves are counted by kind."""
        counts: Counter[str] = Counter()
        changed = []
        for kind, owner, name in self.solvers():
            original = getattr(owner, name)
            setattr(owner, name, _counting(original, kind, counts))
            changed.append((owner, name, original))
        try:
            yield counts
        finally:
            for owner, name, original in changed:
                setattr(owner, name, original)

    @abstractmethod
    def solvers(self) -> list[tuple[str, object, str]]:
        """What counts as one: its kind, and where the function is that does it."""


def _counting(function: Callable, kind: str, counts: Counter[str]) -> Callable:
    def counting(*arguments: object, **named: object) -> object:
        counts[kind] += 1
        return function(*arguments, **named)

    return counting


class Ours(Library):
    """This package, on one rank."""

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(rows, columns, values)
        world = hs.World.serial("cpu")
        self.A = hs.DSparseMatrix.from_coo(rows, columns, values, (self.n, self.n), world)

    def linear(self) -> dict[str, OfBoth]:
        def by(precond: str) -> OfBoth:
            def solve(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                x, info = hs.solve(self.A.with_values(values), b, "cg", precond, rtol=RTOL)
                return _converged(x, info)

            return solve

        return {f"cg + {precond}": by(precond) for precond in ("jacobi", "amg")}

    def eigenvalues(self) -> dict[str, OfMatrix]:
        def eigenvalues(values: torch.Tensor) -> torch.Tensor:
            A = self.A.with_values(values)
            w, _, info = hs.eigsh(A, k=6, precond="amg", tol=1e-11)
            return _converged(w, info)

        return {"eigsh, amg": eigenvalues}

    def nonlinear(self) -> dict[str, OfBoth]:
        def root(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            u, info = hs.nonlinear_solve(
                lambda u, A, b: A @ u + u**3 - b,
                torch.zeros_like(b, requires_grad=False),
                self.A.with_values(values),
                b,
                linear_method="cg",
                rtol=1e-12,
                adjoint_rtol=RTOL,
            )
            return _converged(u, info)

        return {"newton": root}

    def solvers(self) -> list[tuple[str, object, str]]:
        from hpc_sla.eigen.lobpcg import Lobpcg
        from hpc_sla.linear.driver import KrylovLoop

        return [("linear solve", KrylovLoop, "run"), ("LOBPCG", Lobpcg, "run")]


def _converged(result: torch.Tensor, info: object) -> torch.Tensor:
    assert info.converged, info.status
    return result


class TorchSla(Library):
    """torch-sla, in its own environment."""

    def linear(self) -> dict[str, OfBoth]:
        from torch_sla import spsolve

        def by(**how: object) -> OfBoth:
            def solve(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                atol = RTOL * float(torch.linalg.vector_norm(b.detach()))
                shape = (self.n, self.n)
                return spsolve(values, self.rows, self.columns, shape, b, atol=atol, **how)

            return solve

        cg = {"backend": "pytorch", "method": "cg", "is_symmetric": True, "is_spd": True}
        return {"its default (SuperLU)": by(), "cg + jacobi": by(**cg)}

    def eigenvalues(self) -> dict[str, OfMatrix]:
        return {"eigsh": lambda values: self._matrix(values).eigsh(k=6, which="SA")[0]}

    def nonlinear(self) -> dict[str, OfBoth]:
        def root(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self._matrix(values).nonlinear_solve(
                lambda u, A, b: A @ u + u**3 - b,
                torch.zeros(self.n, dtype=torch.float64),
                b,
                tol=1e-12,
            )

        return {"newton": root}

    def _matrix(self, values: torch.Tensor):
        from torch_sla import SparseTensor

        return SparseTensor(values, self.rows, self.columns, (self.n, self.n))

    def solvers(self) -> list[tuple[str, object, str]]:
        import torch_sla.backends.scipy_backend as of_scipy
        import torch_sla.linear_solve as linear
        import torch_sla.sparse_tensor.autograd as autograd

        return [
            ("linear solve", linear, "scipy_solve"),
            ("linear solve", linear, "pytorch_solve"),
            ("ARPACK", of_scipy, "scipy_eigsh"),
            ("dense eigh", autograd, "_eigh_dense_topk"),
        ]


LIBRARIES: dict[str, type[Library]] = {"hpc_sla": Ours, "torch-sla": TorchSla}
