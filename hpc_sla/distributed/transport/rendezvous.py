"""Where torch.distributed's ranks meet: a place that strangers cannot enter."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch.distributed as dist
from mpi4py import MPI

from hpc_sla.distributed.leaving import when_all_have_left
from hpc_sla.errors import HpcSlaError


def make_store(comm: MPI.Comm, one_node: bool, timeout: timedelta) -> tuple[dist.Store, str]:
    """A store for the ranks of `comm`, and a name for it. **Collective.**

    On one node it is a file in a folder that nobody else may enter, and nothing listens. Between
    nodes it is a TCP server of rank 0's, on the one address that the other nodes reach it by, and
    behind a prefix that goes over MPI and cannot be guessed: without it a stranger on that
    network can connect and store things, but none that the ranks look at.

    Raises
    ------
    HpcSlaError
        On every rank, where there is no place for it.
    """
    if one_node:
        return _file_store(comm)
    return _tcp_store(comm, timeout)


def _file_store(comm: MPI.Comm) -> tuple[dist.Store, str]:
    folder = ""
    if comm.rank == 0:
        try:
            folder = tempfile.mkdtemp(prefix="hpc_sla-")
        except OSError as error:
            folder = f"!{error}"
    folder = comm.bcast(folder)
    if folder.startswith("!"):
        raise HpcSlaError(f"no temporary folder for torch.distributed: {folder[1:]}. Set TMPDIR.")
    if comm.rank == 0:
        when_all_have_left(partial(shutil.rmtree, folder, ignore_errors=True))
    return dist.FileStore(str(Path(folder) / "store"), comm.size), folder


def _tcp_store(comm: MPI.Comm, timeout: timedelta) -> tuple[dist.Store, str]:
    other = _other_host(comm)
    server, place = None, None
    if comm.rank == 0:
        address = os.environ.get("MASTER_ADDR") or address_towards(other)
        listener = listen(address)
        port = listener.getsockname()[1]
        server = dist.TCPStore(
            address or socket.getfqdn(),
            port,
            comm.size,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        place = (address or socket.getfqdn(), port, secrets.token_hex(16))
    host, port, secret = comm.bcast(place)
    if server is None:
        server = dist.TCPStore(host, port, comm.size, is_master=False, timeout=timeout)
    return dist.PrefixStore(secret, server), f"{host}:{port}"


def _other_host(comm: MPI.Comm) -> str:
    """The name of a host that is not rank 0's. **Collective.**"""
    own = socket.gethostname()
    first = np.array([comm.rank if own != comm.bcast(own) else comm.size])
    comm.Allreduce(MPI.IN_PLACE, first, op=MPI.MIN)
    return str(comm.bcast(own, root=int(first[0])))


def address_towards(host: str) -> str:
    """The address of this machine that packets to `host` leave from; empty if there is none."""
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)  # sends nothing
            own = str(probe.getsockname()[0])
    except OSError:
        return ""
    return "" if own.startswith("127.") or own == "::1" else own


def listen(address: str) -> socket.socket:
    """A socket bound to that address alone, at a free port; to all, where it is none of ours."""
    if address:
        try:
            family, _, _, _, here = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.bind(here)
            return bound
        except OSError:
            pass
    bound = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind(("", 0))
    return bound
