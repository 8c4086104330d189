"""Where this process is on its node: its device, and how many of the cores are its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

# (rank on the node, ranks on the node) as told by MPICH, Open MPI and Slurm. A communicator may
# hold only some of a node's ranks, so what the launcher says comes first.
_VARIABLES = (
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("SLURM_LOCALID", ""),
)

_cores_shared = False


def place_on_node(comm: MPI.Comm | SerialComm) -> tuple[int, int]:
    """This process's rank among those on its node, and their number. **Collective.**"""
    rank, size = 0, 1
    if not isinstance(comm, SerialComm):
        from mpi4py import MPI

        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        rank, size = node.rank, node.size
        node.Free()
    for rank_name, size_name in _VARIABLES:
        if rank_name in os.environ:
            return int(os.environ[rank_name]), int(os.environ.get(size_name, size))
    return rank, size


def alone_on_node(comm: MPI.Comm | SerialComm, name: str) -> bool:
    """Whether no other rank on this node says that name. **Collective.**"""
    if isinstance(comm, SerialComm):
        return True
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        return node.allgather(name).count(name) == 1
    finally:
        node.Free()


def share_cores(ranks_on_node: int) -> None:
    """Give this process its share of the node's cores as torch threads, once. Local.

    Does nothing where `OMP_NUM_THREADS` is set, or where the launcher has already bound the
    process to some of the cores.
    """
    global _cores_shared
    if _cores_shared or "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    _cores_shared = True
    own_cores, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    threads = own_cores if own_cores < all_cores else max(1, all_cores // ranks_on_node)
    torch.set_num_threads(threads)


def choose_device(asked: str | torch.device, node_rank: int) -> torch.device:
    """The device asked for; a GPU by the rank on the node. Local.

    Raises
    ------
    InputError
        An unknown device, or one that this rank has not.
    """
    remedy = "Use device='cpu', or install a CUDA build of torch on a machine with a GPU"
    if asked == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", node_rank % torch.cuda.device_count())
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"unknown device {asked!r}", field="device", remedy="Choose auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise InputError(
            f"device {asked!r} is not supported", field="device", remedy="Choose auto, cpu or cuda"
        )
    if not torch.cuda.is_available():
        raise InputError("CUDA was asked for and torch sees no GPU", field="device", remedy=remedy)
    count = torch.cuda.device_count()
    if ":" not in str(asked):
        return torch.device("cuda", node_rank % count)
    if device.index >= count:
        raise InputError(
            f"{asked} was asked for and this rank sees {count} GPU(s)",
            field="device",
            remedy=remedy,
        )
    return device
