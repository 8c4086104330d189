# mypy: disable-error-code="no-untyped-def"
"""What the kernels in Triton share: how they are registered, sized and launched.

Each is a torch operator of our own, so that FakeTensorMode knows its shapes. Programs go over
vectors in blocks; what they sum, they sum in a fixed order (a program's own blocks one after
another, then one tree over programs), so that a run is repeatable bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import triton

LIBRARY = torch.library.Library("hpc_sla", "FRAGMENT")

BLOCK = 1024
"""Rows that a program does at a time. For 4096 there are not registers enough."""

PROGRAMS = 1024
"""Programs at most, each with blocks so far apart: what they sum, one program can sum."""


_NUMBERS = (
    "alpha_old", "c", "c_old", "curvature", "delta", "eta", "gamma", "gamma_old", "live", "new",
    "new_live", "rho", "rho_old", "row", "rr", "s", "s_old", "shadow_square", "slope", "target",
    "ts", "tt", "zaz",
)  # fmt: skip

of_numbers = triton.jit(do_not_specialize_on_alignment=[f"{name}_ptr" for name in _NUMBERS])
"""`triton.jit` of a kernel whose scalars may lie anywhere, side by side or not: one compiled form
serves all, so that none is compiled while a graph is captured."""


def programs_for(n: int) -> int:
    """How many programs go over n rows: at least one, which has sums to tell. Local."""
    return min(max(triton.cdiv(n, BLOCK), 1), PROGRAMS)


def on_device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of its arguments."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def check_one_device(*arguments: torch.Tensor | float | None) -> None:
    """Raise where the tensors among them are on several. Local."""
    devices = {t.device for t in arguments if isinstance(t, torch.Tensor)}
    torch._check(len(devices) == 1, lambda: f"tensors on {devices}")


def register(
    name: str,
    arguments: str,
    function: Callable[..., None],
    check: Callable[..., None] = check_one_device,
) -> None:
    """Make `torch.ops.hpc_sla.NAME` of a function that launches; arguments as torch has them."""
    LIBRARY.define(f"{name}({arguments}) -> ()")
    for key in ("CUDA", "CPU"):  # on the CPU only under TRITON_INTERPRET=1, for the tests
        LIBRARY.impl(name, function, key)
    torch.library.register_fake(f"hpc_sla::{name}", check, lib=LIBRARY)
