"""What users pass where a tensor belongs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from hpc_sla.errors import InputError, InputTypeError, warn


def tensor_of(
    given: Any,
    field: str,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """A tensor as it is; an array, a list or a number as a tensor, of `dtype` if given. Local.

    Arrays of other libraries come by DLPack (CuPy's, JAX's ...), from wherever they are.

    Raises
    ------
    InputTypeError
        Neither, or not of real numbers.
    InputError
        Within torch.vmap.
    """
    if isinstance(given, torch.Tensor):
        if torch._C._functorch.is_batchedtensor(given):
            raise InputError(
                "torch.vmap does not go through a solve",
                field=field,
                remedy="Pass several vectors as columns [n_owned, k]",
            )
        return given
    foreign = by_dlpack(given)
    if foreign is not None:
        if foreign.dtype.is_complex:
            raise InputTypeError(f"an array of {foreign.dtype} is not of real numbers", field=field)
        return foreign.to(device=device, dtype=dtype)
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # ragged, say
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise InputTypeError(
            f"a {type(given).__name__} is not a tensor, nor an array of real numbers",
            field=field,
            remedy="Pass a torch.Tensor",
        )
    return torch.tensor(array, dtype=dtype, device=device)


def by_dlpack(given: Any) -> torch.Tensor | None:
    """The array of another library as a tensor that shares its memory; None for others. Local.

    NumPy's own are left to NumPy, which knows other byte orders and what may not be written to.
    """
    if isinstance(given, (torch.Tensor, np.ndarray, np.generic)):
        return None
    if not hasattr(type(given), "__dlpack__"):
        return None
    try:
        return torch.from_dlpack(given)
    except (TypeError, ValueError, RuntimeError, BufferError):
        return None


def host_array(given: Any) -> Any:
    """A tensor, or an array of another library, as a NumPy array; others as they are. Local."""
    foreign = given if isinstance(given, torch.Tensor) else by_dlpack(given)
    return given if foreign is None else foreign.detach().cpu().numpy()


def tensor_if(
    given: Any, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Any:
    """`tensor_of`, or what was given where that is none: for what ranks agree on first. Local."""
    try:
        return tensor_of(given, "", dtype, device)
    except InputTypeError:
        return given


def number_of(given: Any, field: str) -> float:
    """A real number. Local.

    Raises
    ------
    InputTypeError
    """
    if isinstance(given, (str, bytes)) or given is None:
        number = None
    else:
        try:
            number = float(given)
        except (TypeError, ValueError, RuntimeError):
            number = None
    if number is None:
        raise InputTypeError(f"{given!r} is not a number", field=field)
    return number


def check_flag(given: Any, field: str) -> None:
    """Raise InputTypeError for text where True or False belongs: any would be true. Local."""
    if isinstance(given, (str, bytes)):
        raise InputTypeError(
            f"{given!r} is neither True nor False", field=field, remedy="Give one of these"
        )


def check_count(given: Any, field: str, least: int = 0) -> None:
    """Raise InputError unless a limit is a whole number from `least` on, or infinite. Local."""
    number = number_of(given, field)
    if number < least:
        what = "negative" if least == 0 else f"below {least}"
        raise InputError(f"{given} is {what}", field=field)
    if math.isnan(number) or (math.isfinite(number) and number != int(number)):
        raise InputError(f"{given} is not a whole number", field=field)


def empty_result(shape: tuple[int, ...], *inputs: torch.Tensor | None) -> torch.Tensor:
    """Zeros, or rather nothing, in the graph of `inputs`: a gradient there is 0, not None. Local.

    Parameters
    ----------
    shape : tuple of int
        With a 0 in it.
    """
    given = [t for t in inputs if t is not None]
    return given[0].new_zeros(shape) + sum(t.sum() for t in given)


_LOOKED_AT: weakref.WeakSet[Any] = weakref.WeakSet()


def warn_of_trainable(precond: Any) -> None:
    """Say, once, that a preconditioner's parameters get no gradient. Local.

    One of this package is looked at once, as a look takes longer than a small solve: what it holds
    was made without a graph. Parameters of others may be thawed later.
    """
    if precond is None or isinstance(precond, str) or not torch.is_grad_enabled():
        return
    ours = type(precond).__module__.startswith("hpc_sla.")
    with suppress(TypeError):  # where it cannot be held weakly
        if precond in _LOOKED_AT:
            return
    learns = any(t.requires_grad for t in _tensors_in(precond))
    if learns or ours:
        with suppress(TypeError):
            _LOOKED_AT.add(precond)
    if not learns:
        return
    name = getattr(precond, "__name__", type(precond).__name__)
    warn(
        f"the preconditioner {name} computes with tensors that require a gradient, and a solution "
        "does not depend on its preconditioner: they get none. Train them by a loss of "
        "their own, such as ||r - A M(r)||, or solve under torch.no_grad()",
        UserWarning,
    )


def _tensors_in(thing: Any, depth: int = 2) -> Iterator[torch.Tensor]:
    """Those that a callable shows to hold."""
    if isinstance(thing, torch.Tensor):
        yield thing
        return
    if isinstance(thing, torch.nn.Module):
        yield from thing.parameters()
        return
    if depth == 0 or isinstance(thing, type):
        return
    cells = getattr(thing, "__closure__", None) or ()
    inner = [cell.cell_contents for cell in cells if _filled(cell)]
    inner += [getattr(thing, "__self__", None), getattr(thing, "func", None)]
    inner += getattr(thing, "args", None) or () if hasattr(thing, "func") else ()
    if not inner or not callable(thing) or hasattr(thing, "apply"):
        inner += list(getattr(thing, "__dict__", {}).values())
    for part in inner:
        yield from _tensors_in(part, depth - 1)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
