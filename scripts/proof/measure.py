"""Clocks that wait for the device, and how much memory was held at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

import hpc_sla as hs
from hpc_sla.observe.memory import (
    available_bytes,
    peak_rss_bytes,
    release_free_memory,
    reset_peak,
    rss_bytes,
)

T = TypeVar("T")

ENOUGH = 1.0
"""Seconds after which nothing is repeated."""


def wait(world: hs.World) -> None:
    """For this rank's device and for all ranks. **Collective.**"""
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    world.barrier()


def timed(world: hs.World, run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the slowest rank, and the result. **Collective.**"""
    wait(world)
    begin = time.perf_counter()
    result = run()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return world.max(time.perf_counter() - begin), result


def least(world: hs.World, run: Callable[[], T], repeats: int) -> tuple[float, int, T]:
    """The least of so many seconds, after how many repeats, and the last result. **Collective.**"""
    times: list[float] = []
    while True:
        seconds, result = timed(world, run)
        times.append(seconds)
        if len(times) >= repeats or sum(times) > ENOUGH:
            return min(times), len(times), result


def per_call(world: hs.World, run: Callable[[], Any], calls: int, repeats: int) -> float:
    """Seconds of a call, of many in a row. **Collective.**"""
    run()

    def many() -> None:
        for _ in range(calls):
            run()

    return least(world, many, repeats)[0] / calls


class Peak:
    """Bytes held at most, summed over ranks: torch's on GPUs, resident ones on CPUs.

    What was held when this was made is not counted. **Collective.**
    """

    def __init__(self, world: hs.World) -> None:
        self._world = world
        release_free_memory()
        self._told = True
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(world.device)
            self._before = torch.cuda.memory_allocated(world.device)
        else:
            self._told = reset_peak() is None
            self._before = rss_bytes() or 0

    def again(self) -> None:
        """Forget the peak so far, though not what is held. Local."""
        release_free_memory()
        if self._world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._world.device)
        else:
            reset_peak()

    def bytes(self) -> float | None:
        """Since then; None where the kernel does not tell. **Collective.**"""
        world = self._world
        if world.device.type == "cuda":
            return world.sum(torch.cuda.max_memory_allocated(world.device) - self._before)
        total = world.sum(peak_rss_bytes() - self._before)
        return total if world.sum(int(self._told)) == world.size else None


def free_bytes(world: hs.World) -> float:
    """What each rank can still have on its device, at the least. **Collective.**

    On a CPU, and where ranks share a GPU, an even share.
    """
    release_free_memory()
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
        free = float(torch.cuda.mem_get_info(world.device)[0])
        sharing = -(-world.ranks_on_node // torch.cuda.device_count())
    else:
        free, sharing = float(available_bytes() or 1 << 30), world.ranks_on_node
    return -world.max(-free / sharing)


def free_host_bytes(world: hs.World) -> float:
    """What each rank can still have of the host's memory. **Collective.**"""
    return -world.max(-float(available_bytes() or 1 << 30) / world.ranks_on_node)
