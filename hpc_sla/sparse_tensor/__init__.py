"""SparseTensor: sparse linear algebra on one process, without a launcher."""

from __future__ import annotations

from hpc_sla.sparse_tensor.backends import DIRECT_ROWS
from hpc_sla.sparse_tensor.collection import SparseTensorList
from hpc_sla.sparse_tensor.tensor import SparseTensor

__all__ = ["DIRECT_ROWS", "SparseTensor", "SparseTensorList"]
