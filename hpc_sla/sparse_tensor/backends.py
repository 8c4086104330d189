"""Every way to solve a linear system on one process, and which one where the caller leaves it open.

They are our own methods, and the direct backends.
"""

from __future__ import annotations

import torch

from hpc_sla import direct
from hpc_sla.direct import Backend
from hpc_sla.errors import InputError
from hpc_sla.linear import METHODS as KRYLOV_METHODS
from hpc_sla.linear.method import Method

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

DIRECT_ROWS = 20_000
"""Up to so many rows `backend="auto"` takes a direct solver on the CPU."""


def choose_backend(
    backend: str,
    method: str | Method,
    shape: tuple[int, int],
    device: torch.device,
    options: tuple[str, ...],
) -> str:
    """`torch`, or a name that `hpc_sla.direct.factorize` accepts.

    Parameters
    ----------
    backend, method : str
        As asked for.
    shape : (int, int)
    device : torch.device
    options : tuple of str
        Those given that only an iteration has.

    Raises
    ------
    InputError
        An unknown backend; a direct one with an iteration's options, or for a matrix that is not
        square.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(
            f"unknown backend {backend!r}",
            field="backend",
            remedy=f"Choose one of auto, {', '.join(BACKENDS)}",
        )
    square = shape[0] == shape[1]
    if backend == "auto":
        if isinstance(method, Method):
            return "torch"
        if method != "auto" and method.split(":")[0] in KRYLOV_METHODS:
            return "torch"
        if method != "auto":
            if method not in (*direct.METHODS, "cholesky"):
                raise InputError(
                    f"unknown method {method!r}",
                    field="method",
                    remedy=f"Choose one of {', '.join((*KRYLOV_METHODS, *direct.METHODS))}",
                )
        elif options or not square or device.type != "cpu" or shape[0] > DIRECT_ROWS:
            return "torch"
    if backend == "torch":
        return backend
    if not square:
        raise InputError(
            f"a {shape[0]} x {shape[1]} matrix cannot be factorised",
            field="backend",
            remedy="Use backend='torch', with a method for least squares",
        )
    if options:
        raise InputError(
            f"a direct solver has no {' or '.join(options)}",
            field=options[0],
            remedy="Leave it out, or use backend='torch'",
        )
    return backend
