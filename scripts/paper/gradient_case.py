r"""Table 3 for one library: gradients beside central differences and beside dense formulas.

python scripts/paper/gradient_case.py '{"library": "hpc_sla", "n": 40}' FOUND.json

Three operations on the same matrices: c . x with A x = b; a weighted sum of the 6 smallest
eigenvalues; c . u with A u + u^3 = b. Each is differentiated in the stored values of A, and in b.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import SOLVED, WRONG, told
from gradient_errors import WEIGHTS, differences
from libraries import LIBRARIES, Library
from record import write

from hpc_sla.problems import make

PROBLEM = "jumps2d:n={n},contrast=100"
"""Symmetric positive definite; on a square's Laplacian eigenvalues coincide, and have no gradient.
"""

WITHIN = {"linear solve": 1e-6, "eigenvalues, k=6": 1e-5, "nonlinear solve": 1e-6}
"""By operation: what the published table allows."""


@dataclass
class Case:
    """A matrix by rows, columns and values, and vectors of its length, drawn once for all."""

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    turn: torch.Tensor
    push: torch.Tensor

    @classmethod
    def drawn(cls, n: int) -> Case:
        A = make(PROBLEM.format(n=n)).matrix().tocsr()
        A.sort_indices()
        rows = torch.from_numpy(np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)))
        columns = torch.from_numpy(A.indices.astype(np.int64))
        values = torch.from_numpy(A.data.astype(np.float64))
        generator = np.random.default_rng(5)
        b, c, d, push = torch.from_numpy(generator.standard_normal((4, A.shape[0])))
        # A change of A that keeps it symmetric.
        turn = 0.1 * values * (d[rows] + d[columns])
        return cls(rows, columns, values, b, c, turn, push)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        n = len(self.b)
        return values.new_zeros(n, n).index_put((self.rows, self.columns), values)


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the values and b."""


def main() -> None:
    spec, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    with told(path):
        case = Case.drawn(spec["n"])
        library = LIBRARIES[spec["library"]](case.rows, case.columns, case.values)
        write(path, {"status": SOLVED, "reason": "", "operations": list(lines(case, library))})


def lines(case: Case, library: Library) -> list[dict[str, Any]]:
    """One an operation and way of doing it."""
    found = []
    for way, solve in library.linear().items():
        # Bound now: the loop goes on.
        found.append(
            line(case, library, "linear solve", way, lambda v, b, solve=solve: case.c @ solve(v, b))
        )
    for way, eigenvalues in library.eigenvalues().items():
        found.append(
            line(
                case, library, "eigenvalues, k=6", way,
                lambda v, b, of=eigenvalues: (of(v) * WEIGHTS).sum(),
            )
        )  # fmt: skip
    for way, root in library.nonlinear().items():
        found.append(
            line(case, library, "nonlinear solve", way, lambda v, b, of=root: case.c @ of(v, b))
        )
    return found


def line(case: Case, library: Library, operation: str, way: str, loss: Loss) -> dict[str, Any]:
    """How exact its gradients are, and how many solves they take."""
    with_b = operation != "eigenvalues, k=6"
    values, b = (v.clone().requires_grad_() for v in (case.values, case.b))
    with library.counted() as counts:
        result = loss(values, b)
        forward = dict(counts)
        result.backward()
    backward = {name: count - forward.get(name, 0) for name, count in counts.items()}
    expected = dense_gradients(case, operation)
    slope = float((values.grad * case.turn).sum())
    slope += float((b.grad * case.push).sum()) if with_b else 0.0

    def at(h: float) -> float:
        with torch.no_grad():
            return float(loss(case.values + h * case.turn, case.b + h * case.push))

    error = differences(at, slope)
    of_values = beside(values.grad, expected[0])
    of_b = beside(b.grad, expected[1]) if with_b else None
    good = max(error, of_values, of_b or 0.0) <= WITHIN[operation]
    return {
        "operation": operation,
        "way": way,
        "rows": len(case.b),
        "status": SOLVED if good else WRONG,
        "from_differences": error,
        "from_dense_values": of_values,
        "from_dense_b": of_b,
        "forward": {name: count for name, count in forward.items() if count},
        "backward": {name: count for name, count in backward.items() if count},
    }


def beside(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def dense_gradients(case: Case, operation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """By torch's own autograd through LAPACK."""
    values, b = (v.clone().requires_grad_() for v in (case.values, case.b))
    A = case.dense(values)
    if operation == "linear solve":
        loss = case.c @ torch.linalg.solve(A, b)
    elif operation == "eigenvalues, k=6":
        loss = (torch.linalg.eigvalsh(A)[:6] * WEIGHTS).sum() + 0.0 * b.sum()
    else:
        u = torch.zeros_like(b)
        for _ in range(50):
            with torch.no_grad():
                step = torch.linalg.solve(A + torch.diag(3 * u**2), A @ u + u**3 - b)
                u -= step
            if step.abs().max() <= 1e-14 * u.abs().max():
                break
        # At the root one step of Newton's has the root's derivative.
        J = (A + torch.diag(3 * u**2)).detach()
        loss = case.c @ (u - torch.linalg.solve(J, A @ u + u**3 - b))
    return torch.autograd.grad(loss, (values, b))


if __name__ == "__main__":
    main()
