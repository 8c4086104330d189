"""The Krylov methods as `solve` takes them: by name, or as objects."""

from __future__ import annotations

import torch

from hpc_sla.errors import InputError
from hpc_sla.linear.choices import METHODS
from hpc_sla.linear.method import Method
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.operator import Operator
from hpc_sla.storage.limits import machine_memory

_WORTH_A_THOUGHT = 1000
"""Options up to this fit any machine that holds the matrix."""


def make_method(method: str | Method) -> Method:
    """The method asked for, but for "auto": its name, options after a colon; or itself. Local.

    Raises
    ------
    InputError
        An unknown name or option, a value that does not fit it, or neither.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise InputError(
            f"unknown method {method!r}",
            field="method",
            remedy="Pass a name such as 'gmres:restart=50', or an object such as GMRES(restart=50)",
        )
    made: Method = METHODS.make(method)
    return made


def check_shape(method: Method, shape: tuple[int, int], square: bool) -> None:
    """Raise InputError where the method cannot work on a matrix of that shape. Local."""
    if not square and method.solves != "any":
        raise InputError(
            f"{method.name} needs a square matrix with one layout of rows and columns, and this "
            f"one is {shape[0]} x {shape[1]}",
            field="method",
            remedy="Use lsqr or lsmr for a least-squares solution",
        )


def check_precond(method: Method, precond: Preconditioner) -> None:
    """Raise InputError where the method cannot work with the preconditioner. Local."""
    if method.transposes and not precond.transposable:
        raise InputError(
            f"{method.name} applies the preconditioner's transpose, and {precond.name} has none",
            field="precond",
            remedy="Pass an object with apply and apply_transpose",
        )
    if method.needs_symmetric and precond.of_nonsymmetric:
        raise InputError(
            f"{method.name} needs a symmetric matrix, and this one is not symmetric: its entries "
            f"were seen when {precond.name} was made",
            field="method",
            remedy="Use gmres or bicgstab",
        )
    if method.needs_symmetric and not precond.symmetric:
        raise InputError(
            f"{method.name} needs a symmetric preconditioner, and {precond.name} is not "
            "symmetric, whatever the matrix",
            field="precond",
            remedy="Choose another, or a method for non-symmetric systems such as gmres",
        )


def check_room(method: Method, operator: Operator, b: torch.Tensor) -> None:
    """Raise InputError where the method's options ask for more memory than there is.

    **Collective** where they are so large that it is worth a thought.
    """
    counts = [value for value in method.options.values() if isinstance(value, int)]
    if max(counts, default=0) <= _WORTH_A_THOUGHT:
        return
    with operator.world.agree():
        columns = 1 if b.dim() == 1 else b.shape[1]
        needed = method.room(operator, columns) * b.element_size()
        there = machine_memory()
        if b.is_cuda:
            there = torch.cuda.get_device_properties(b.device).total_memory
        if needed > there:
            raise InputError(
                f"{method!s} keeps {needed} bytes, and there are {there}",
                field="method",
                remedy="Choose a smaller restart, or bicgstab, which keeps a few vectors",
            )
