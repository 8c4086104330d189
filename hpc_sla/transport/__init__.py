"""How bytes move between ranks: one small protocol, three implementations."""

from __future__ import annotations

from hpc_sla.transport.base import Channel, Neighbours, Transport
from hpc_sla.transport.sparse_exchange import sparse_exchange

__all__ = ["Channel", "Neighbours", "Transport", "sparse_exchange"]
