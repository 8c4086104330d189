"""What preconditioners there are. Needs no torch, so that `--help` can tell."""

from __future__ import annotations

from hpc_sla.precond.registry import Registry

CHOICES = Registry(
    "hpc_sla.precond",
    {
        "none": "Identity",
        "jacobi": "Jacobi",
        "l1_jacobi": "L1Jacobi",
        "chebyshev": "Chebyshev",
        "polynomial": "Polynomial",
        "block_jacobi": "BlockJacobi",
        "additive_schwarz": "AdditiveSchwarz",
        "amg": "AMG",
        "schur": "Schur",
        "direct": "Direct",
    },
    kind="preconditioner",
    field="precond",
)
"""The preconditioners `solve` accepts, with when to use each. Options follow a colon, by commas."""
