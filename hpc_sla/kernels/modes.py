"""What every public entry shares: it runs outside of inference mode, and outside of torch.compile.

What is made at a matrix's first use (buffers, transposes, a hierarchy) serves later uses too.
Made under `torch.inference_mode`, it would be refused for ever after where a gradient is wanted.
And a tracer sees neither messages nor what compiled loops write: to it an entry is one opaque call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` as if there were neither of the two; whether gradients are on stays so."""

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        # Imported by torch.compile, and by little else: it takes seconds.
        run = _untraced(function) if "torch._dynamo" in sys.modules else function
        if torch.is_inference_mode_enabled():
            with lasting():
                return run(*args, **kwargs)
        return run(*args, **kwargs)

    # What torch.compiler.disable sets, which would import torch._dynamo here.
    outside._torchdynamo_disable = True  # type: ignore[attr-defined]
    return outside


@contextmanager
def lasting() -> Iterator[None]:
    """Tensors made within are ordinary ones, in inference mode too; gradients stay on or off."""
    enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of one made in inference mode, which autograd could not save."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return tensor.clone()
    return tensor


_TRANSFORMED = getattr(torch._C, "_are_functorch_transforms_active", None)


def transformed() -> bool:
    """Whether a transform of torch.func is at work; where torch does not say, it may be."""
    return _TRANSFORMED is None or bool(_TRANSFORMED())


def untracked(x: torch.Tensor) -> bool:
    """Whether nobody wants to know how anything came from x: no graph, tangent or transform."""
    if transformed() or (torch.is_grad_enabled() and x.requires_grad):
        return False
    return forward_ad.unpack_dual(x).tangent is None


_UNTRACED: dict[Callable[..., Any], Callable[..., Any]] = {}


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    if function not in _UNTRACED:
        import torch._dynamo  # loaded already, see above

        _UNTRACED[function] = torch._dynamo.disable(function)
    return _UNTRACED[function]
