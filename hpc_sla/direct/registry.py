"""Which backends there are, what each can do, and whether it can be used here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpc_sla.direct import cudss, cusolver, eigen, scipy, triangular
from hpc_sla.direct.base import Factorization, LocalMatrix


@dataclass(frozen=True)
class Backend:
    """A library that solves linear systems on one process.

    Attributes
    ----------
    name : str
    devices : tuple of str
        Where it computes: `cpu`, `cuda`.
    methods : dict of str to str
        What it offers, with when to use each.
    best_use : str
        In one line.
    probe : callable(method or None) -> str or None
        Why it, or that method of it, cannot be used here; None where it can.
    make : callable(LocalMatrix, method) -> Factorization, or None
        Factorise; None where it does not.
    """

    name: str
    devices: tuple[str, ...]
    methods: Mapping[str, str]
    best_use: str
    probe: Callable[[str | None], str | None]
    make: Callable[[LocalMatrix, str], Factorization] | None = None

    def why_not(self, method: str | None = None) -> str | None:
        """Why it (or one of its methods) cannot be used here; None where it can."""
        return self.probe(method)

    def available(self, method: str | None = None) -> bool:
        """Whether it (or one of its methods) can be used here."""
        return self.why_not(method) is None


_LLT = "Cholesky: symmetric positive definite; half the work and memory of LU"
_LDLT = "LDL^T: symmetric, indefinite too where no pivot vanishes"

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "scipy",
            ("cpu",),
            {
                "lu": "SuperLU with partial pivoting: any nonsingular matrix",
                "umfpack": "UMFPACK: often faster than SuperLU; needs cvxopt",
            },
            "any matrix on the CPU; always there",
            scipy.why_not,
            scipy.make,
        ),
        Backend(
            "eigen",
            ("cpu",),
            {"llt": _LLT, "ldlt": _LDLT, "lu": "SparseLU: any nonsingular matrix"},
            "symmetric positive definite matrices on the CPU",
            eigen.why_not,
            eigen.make,
        ),
        Backend(
            "triangular",
            ("cpu", "cuda"),
            {"lu": "SuperLU's factor, applied by our own sweeps; on a GPU by levels"},
            "many solves with one matrix, where a GPU has no cuDSS",
            triangular.why_not,
            triangular.make,
        ),
        Backend(
            "cudss",
            ("cuda",),
            {"lu": "LU: any nonsingular matrix", "llt": _LLT, "ldlt": _LDLT},
            "any matrix on a GPU",
            cudss.why_not,
            cudss.make,
        ),
        Backend(
            "cusolver",
            ("cuda",),
            {"qr": "QR: any nonsingular matrix", "llt": _LLT},
            "a single solve on a GPU without cuDSS: it keeps no factors",
            cusolver.why_not,
            cusolver.make,
        ),
    )
}
"""The direct backends by name."""
