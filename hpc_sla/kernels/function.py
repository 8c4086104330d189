"""`torch.autograd.Function`, called without a look at its signature each time."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import transformed

unwrap: Any
try:
    from torch._C._functorch import unwrap_if_dead as unwrap
except ImportError:  # another torch: the long way is always there
    unwrap = None


class Function(torch.autograd.Function):
    """One whose `forward` takes all that `apply` is given, by position and without defaults.

    Torch inspects that with `inspect.signature` at every call, which takes longer than a small
    product. Where torch.func is at work its own `apply` does the rest; where nobody wants to know
    how a result came to be, as in most backward passes, `forward` is all there is to do.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if unwrap is None or transformed():
            return super().apply(*args)
        args = tuple([unwrap(a) if isinstance(a, torch.Tensor) else a for a in args])
        tracked = torch.is_grad_enabled() or getattr(forward_ad, "_current_level", 0) >= 0
        if not tracked and cls.setup_context is not torch.autograd.Function.setup_context:
            return cls.forward(*args)  # which takes no context
        direct: Any = super(torch.autograd.Function, cls)
        return direct.apply(*args)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """What torch.vmap calls, and jacrev and jacfwd, which are made of it.

        Raises
        ------
        InputError
        """
        raise InputError(
            "torch.vmap, and torch.func.jacrev and jacfwd, do not go through what communicates or "
            "solves",
            remedy="Pass several vectors as columns [n_owned, k], and take one derivative after "
            "another",
        )
