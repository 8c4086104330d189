"""What a machine takes for a message, a byte and an entry of a matrix."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.transport import Neighbours
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern

TYPICAL, MEASURED = "typical", "measured"

_BOUNDS = (1e-8, 1e-2), (1e-13, 1e-7), (1e-13, 1e-7)
"""What is believed of a measurement: of a message, a byte, an entry."""

_TRIES = 20
_LARGE = 1 << 16
"""Numbers in a message that shows what a byte takes, and rows of a matrix for an entry."""

_ROW = 8


@dataclass(frozen=True)
class Costs:
    """Seconds. Replicated.

    Attributes
    ----------
    message : float
        Of a message to a neighbour, whatever its length: alpha.
    byte : float
        Of each byte of it: beta.
    entry : float
        Of each entry in a product.
    """

    message: float
    byte: float
    entry: float

    def __str__(self) -> str:
        """As the option takes it."""
        return "/".join(repr(float(each)) for each in (self.message, self.byte, self.entry))


_CPU = Costs(2e-6, 1e-10, 1e-9)
"""For ranks that are one core each, on nodes with a fast network."""

_DEVICE = Costs(2e-5, 5e-11, 5e-12)
"""For GPUs: a message waits for kernels, and memory is a hundred times as fast."""

_measured: weakref.WeakKeyDictionary[World, Costs] = weakref.WeakKeyDictionary()


def costs_in(text: str) -> Costs | None:
    """The numbers of an option, None for `typical` and `measured`. Local.

    Raises
    ------
    InputError
        Neither these nor three positive numbers.
    """
    if text in (TYPICAL, MEASURED):
        return None
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 < part < math.inf for part in parts):
        raise InputError(
            f"{text!r} says no costs",
            field="amg:costs",
            remedy="Choose typical, measured, or seconds of a message/a byte/an entry, such as "
            f"{_CPU}",
        )
    return Costs(*parts)


def costs_of(text: str, world: World) -> Costs:
    """What the option `costs` means here. **Collective** for `measured`, once a World."""
    given = costs_in(text)
    if given is not None:
        return given
    typical = _CPU if world.device.type == "cpu" else _DEVICE
    if text == TYPICAL or world.size == 1:
        return typical
    if world not in _measured:
        _measured[world] = measured(world)
    return _measured[world]


def measured(world: World) -> Costs:
    """Costs as they are found now, the same on every rank. **Collective.**

    The best of some exchanges of each rank with two others, half of all ranks away, of one number
    and of many, and of some products; of ranks the slowest. To powers of two: what is measured is
    no more certain.
    """
    short, long = (_exchange(world, n) for n in (1, _LARGE))
    found = [short, (long - short) / (4 * _LARGE), _product(world.device)]
    bounded = [min(max(each, low), high) for each, (low, high) in zip(found, _BOUNDS, strict=True)]
    # Of ranks the slowest; infinities and NaN cannot come out of bounds.
    slowest = [world.max(each) for each in bounded]
    return Costs(*(2.0 ** round(math.log2(each)) for each in slowest))


def _exchange(world: World, numbers: int) -> float:
    """Seconds of one message of so many numbers of 4 bytes. **Collective.**"""
    apart = max(1, world.size // 2)
    to, source = (world.rank + apart) % world.size, (world.rank - apart) % world.size
    channel = world.transport.channel(
        Neighbours((to,), (numbers,)), Neighbours((source,), (numbers,)), (), torch.float32
    )
    channel.send_buffer.zero_()

    def once() -> None:
        channel.start()
        channel.finish()

    best = _best(once, world.device)
    channel.close()
    return best


def _product(device: torch.device) -> float:
    """Seconds of an entry in a product of 32-bit numbers. Local."""
    indptr = torch.arange(0, _ROW * _LARGE + 1, _ROW, dtype=torch.int32, device=device)
    rows = np.arange(_LARGE)[:, None]
    columns = np.sort((rows + np.array([-300, -299, -1, 0, 1, 2, 299, 300])) % _LARGE, axis=1)
    indices = torch.from_numpy(columns.ravel().astype(np.int32)).to(device)
    pattern = CsrPattern(indptr, indices, _LARGE)
    matrix = CsrMatrix(pattern, torch.ones(len(indices), dtype=torch.float32, device=device))
    x = torch.ones(_LARGE, dtype=torch.float32, device=device)
    out = torch.empty_like(x)
    return _best(lambda: matrix.matmul(x, out), device) / len(indices)


def _best(function: Callable[[], None], device: torch.device) -> float:
    seconds = math.inf
    for _ in range(_TRIES):
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = min(seconds, time.perf_counter() - begin)
    return seconds
