"""What set-up and checks ask of a matrix's entries, however it is stored. Local.

In C (`entries.c`), row by row, so that nothing is written out; the plain versions are what is asked
of `Packed.csr()`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import CSR, Matrix
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.pages import empty

Plain = tuple[Matrix, torch.dtype]
"""A matrix in compressed rows, and the dtype of its values."""
Array = np.ndarray | torch.Tensor


def plain(block: CsrPattern, values: np.ndarray) -> Plain:
    """A block and values [nnz] in one: they must stay where they are. Local."""
    data = torch.from_numpy(values)
    parts = (*map(torch.from_numpy, block.host_arrays()), data)
    return Matrix(CSR, block.n_rows, block.n_columns, block.nnz, parts), data.dtype


def beside(A: Packed | Plain) -> torch.Tensor:
    """Which rows have a nonzero that is not on the diagonal: bool [n_rows]."""
    rows = A.n_rows if isinstance(A, Packed) else A[0].rows
    found = torch.empty(rows, dtype=torch.bool, device="cpu")
    call("beside", A, 1, (found,))
    return found


def largest(A: Packed) -> float:
    """The largest magnitude; NaN where there is one, 0 without entries."""
    found = np.empty(1)
    call("largest", A, 1, (found,))
    return float(found[0])


def diagonal(A: Packed | Plain) -> torch.Tensor:
    """The diagonal, 0 where none is stored: [n_rows]."""
    rows, dtype = (A.n_rows, A.dtype) if isinstance(A, Packed) else (A[0].rows, A[1])
    found = empty((rows,), torch.empty(0, dtype=dtype, device="cpu"))
    call("diagonal", A, 1, (found,))
    return found


def call(
    function: str,
    A: Packed | Plain,
    number: int,
    arrays: Sequence[Array | None],
    rooms: bool = True,
) -> int:
    """Call a loop that takes a matrix: k or another number before it, rooms and arrays behind."""
    if isinstance(A, Packed):
        matrix, dtype, longest = A.matrix, A.dtype, A.longest
    else:
        (matrix, dtype), longest = A, 0
    row = [torch.empty(longest, dtype=kind, device="cpu") for kind in (torch.int32, dtype)]
    pointers = [None if a is None else _address(a) for a in (*row[: 2 * rooms], *arrays)]
    loop = getattr(native.LIBRARY, f"hpc_sla_{function}_{native.DTYPES[dtype]}")
    found: int = loop(number, matrix.address, *pointers)
    return found


def _address(array: Array) -> int:
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data
