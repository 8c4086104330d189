"""Divide rows that lie on many ranks into parts, no rank seeing the whole."""

from __future__ import annotations

from hpc_sla.partition.parallel.quality import partition_quality
from hpc_sla.partition.parallel.rows import METHODS, partition_rows

__all__ = ["METHODS", "partition_quality", "partition_rows"]
