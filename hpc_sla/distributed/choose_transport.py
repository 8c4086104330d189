"""Which transport serves these ranks and their devices, and making it."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.communicators import SharedComm
from hpc_sla.distributed.node import alone_on_node
from hpc_sla.distributed.ranks import Ranks
from hpc_sla.distributed.transport import Transport
from hpc_sla.distributed.transport.serial import SerialComm, SerialTransport
from hpc_sla.errors import InputError

TRANSPORTS = ("auto", "mpi", "gloo", "nccl")


def transport_name(world: Ranks, asked: str) -> str:
    """The transport asked for, `auto` resolved. **Collective.**

    Raises
    ------
    InputError
        On every rank: it is unknown, or does not serve these devices.
    """
    if isinstance(world.comm, SerialComm):
        if asked != "auto":
            raise InputError(
                f"transport {asked!r} needs a communicator of MPI's",
                field="transport",
                remedy="Use hs.World() and not World.serial()",
            )
        return "serial"
    own_gpu = own_gpus(world)
    with world.agree():
        if asked not in TRANSPORTS:
            raise InputError(
                f"unknown transport {asked!r}",
                field="transport",
                remedy=f"Choose one of {', '.join(TRANSPORTS)}",
            )
        if asked == "nccl" and not own_gpu:
            raise InputError(
                "nccl needs a GPU of its own for each rank",
                field="transport",
                remedy="Start one rank per GPU, or use transport='mpi'",
            )
        if asked == "gloo" and world.device.type != "cpu":
            raise InputError(
                "gloo exchanges CPU tensors only",
                field="transport",
                remedy="Use transport='nccl' or 'mpi' with a GPU",
            )
    if asked != "auto":
        return asked
    return "nccl" if own_gpu else "mpi"


def refuse_mixed_devices(world: Ranks) -> None:
    """Loops on CPUs and on GPUs communicate at different moments. **Collective.**

    Raises
    ------
    InputError
        On every rank, naming those without a GPU where others have one.
    """
    cpu = world.device.type == "cpu"
    if 0 < world.sum(int(cpu)) < world.size:
        without = np.flatnonzero(np.diff(world.offsets(int(cpu)))).tolist()
        raise InputError(
            f"rank(s) {', '.join(map(str, without[:8]))} of {world.size} would work on the CPU "
            "and the others on GPUs",
            field="device",
            remedy="Use device='cpu' on every rank, or find out why those see no GPU",
        )


def own_gpus(world: Ranks) -> bool:
    """Whether each rank has a GPU that no other rank uses. **Collective.**"""
    if not world.all(world.device.type == "cuda"):
        return False
    # A GPU is on one node, so only ranks there can share it.
    gpu = str(torch.cuda.get_device_properties(world.device).uuid)
    return world.all(alone_on_node(world.comm, gpu))


def make_transport(name: str, shared: SharedComm, device: torch.device) -> Transport:
    """The transport of that name. **Collective.**"""
    if name == "serial":
        return SerialTransport(device)
    # mpi4py starts MPI, which the serial transport does without.
    if name == "mpi":
        from hpc_sla.distributed.transport.mpi import MpiTransport

        return MpiTransport(shared.comm, device, shared.channels)
    # torch.distributed takes long to load.
    from hpc_sla.distributed.transport.torch_distributed import TorchDistributedTransport

    return TorchDistributedTransport(shared.comm, device, name, shared.groups)
