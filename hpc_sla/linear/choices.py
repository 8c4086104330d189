"""What methods there are. Needs no torch, so that `--help` can tell."""

from __future__ import annotations

from hpc_sla.precond.registry import Registry

METHODS = Registry(
    "hpc_sla.linear",
    {
        "cg": "CG",
        "pipelined_cg": "PipelinedCG",
        "minres": "MINRES",
        "bicgstab": "BiCGStab",
        "gmres": "GMRES",
        "fgmres": "FGMRES",
        "richardson": "Richardson",
        "lsqr": "LSQR",
    },
    kind="method",
    field="method",
    auto="Look at the matrix and choose: says what it chose and why.",
)
"""The methods `solve` accepts, with when to use each. Options follow a colon, by commas."""
