"""`torch.autograd.Function`, called without a look at its signature each time."""

from __future__ import annotations

from typing import Any

import torch

try:
    from torch._C import _are_functorch_transforms_active as transformed
    from torch._functorch.utils import unwrap_dead_wrappers
except ImportError:  # another torch: the long way is always there

    def transformed() -> bool:
        """Whether torch.func is at work, as far as is known."""
        return True


class Function(torch.autograd.Function):
    """One whose `forward` takes all that `apply` is given, by position and without defaults.

    Torch inspects that with `inspect.signature` at every call, which takes longer than a small
    product. Where torch.func is at work its own `apply` does the rest.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if transformed():
            return super().apply(*args)
        direct: Any = super(torch.autograd.Function, cls)
        return direct.apply(*unwrap_dead_wrappers(args))
