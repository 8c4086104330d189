"""Every way to solve a linear system on one process: our own methods, and the direct backends."""

from __future__ import annotations

from hpc_sla import direct
from hpc_sla.direct import Backend
from hpc_sla.linear import METHODS as KRYLOV_METHODS

BACKENDS: dict[str, Backend] = {
    "torch": Backend(
        "torch",
        ("cpu", "cuda"),
        KRYLOV_METHODS,
        "large systems on any device; the only one that goes on over several ranks",
        lambda method: None,
    ),
    **direct.BACKENDS,
}
"""The backends by name; `torch` is `hpc_sla.solve`."""
