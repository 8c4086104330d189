"""What methods there are, and the defaults of a solve. Needs no torch: `--help` tells of both."""

from __future__ import annotations

from hpc_sla.precond.registry import Registry

AUTO = "auto"
"""The name of a choice that is left open."""

DEFAULT_METHOD, DEFAULT_PRECOND = AUTO, AUTO
"""What `solve`, `LinearSolver` and the commands take where none is named."""

DTOL = 1e5
"""PETSc's."""

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
        "lsmr": "LSMR",
    },
    kind="method",
    field="method",
    auto="Look at the matrix and choose: says what it chose and why.",
)
"""The methods `solve` accepts, with when to use each. Options follow a colon, by commas."""
