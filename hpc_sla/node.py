"""Where this process is on its node, and how many of the node's cores are its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from hpc_sla.serial import SerialComm

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


def share_cores(ranks_on_node: int) -> None:
    """Give this process its share of the node's cores as torch threads, once. Local.

    Does nothing where `OMP_NUM_THREADS` is set, or where the launcher has already bound the
    process to some of the cores.
    """
    global _cores_shared
    if _cores_shared or "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    _cores_shared = True
    mine, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    threads = mine if mine < all_cores else max(1, all_cores // ranks_on_node)
    torch.set_num_threads(threads)
