"""How bytes move between ranks: one small protocol, three implementations."""

from __future__ import annotations

from hpc_sla.distributed.transport.base import Channel, Neighbours, Pending, Transport

__all__ = ["Channel", "Neighbours", "Pending", "Transport"]
