"""`torch.autograd.Function`, called without a look at its signature each time."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.kernels.modes import transformed

unwrap: Any
try:
    from torch._functorch.utils import unwrap_dead_wrappers as unwrap
except ImportError:  # another torch: the long way is always there
    unwrap = None


class Function(torch.autograd.Function):
    """One whose `forward` takes all that `apply` is given, by position and without defaults.

    Torch inspects that with `inspect.signature` at every call, which takes longer than a small
    product. Where torch.func is at work its own `apply` does the rest.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if unwrap is None or transformed():
            return super().apply(*args)
        direct: Any = super(torch.autograd.Function, cls)
        return direct.apply(*unwrap(args))
