"""The rank-local sparse product, as one torch operator on plain tensors.

`torch.ops.hpc_sla.csr_matmul_out` is an operator of our own, and not a method of a sparse CSR
tensor, so that FakeTensorMode and torch.compile understand it and so that one pattern serves
many sets of values.
"""

from __future__ import annotations

import warnings

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.loading import few_looks_at_files

_LIBRARY = torch.library.Library("hpc_sla", "DEF")
_LIBRARY.define(
    "csr_matmul_out(Tensor indptr, Tensor indices, Tensor values, Tensor x, Tensor(a!) y) -> ()"
)

# torch says once a process that sparse CSR is in beta, and (some versions) that the invariant
# checks we turn off are off; the reader of a solver's log need not be told.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")


def csr_matmul_reference(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """`y = A x` in plain torch operations, on any device: the oracle."""
    rows = expand_rows(indptr, indices.numel())
    weights = values if x.dim() == 1 else values.unsqueeze(1)
    y.zero_().index_add_(0, rows, weights * x.index_select(0, indices))


def _csr_matmul_library(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """`y = A x` in C or through MKL on the CPU, and through cuSPARSE on CUDA."""
    if values.numel() == 0 or x.numel() == 0:
        y.zero_()
        return
    if native.serves(x) and indptr.dtype == torch.int32 and x.is_contiguous():
        # Half of MKL's time, whose analysis of the matrix cannot be kept here.
        entries = (indptr, indices, values)
        native.call("csr_matmul", x, y.shape[0], *entries, x, None, y, None, None, None)
        return
    if indptr.dtype != indices.dtype:
        _csr_matmul_in_pieces(indptr, indices, values, x, y)
        return
    matrix = torch.sparse_csr_tensor(
        indptr, indices, values, (y.shape[0], x.shape[0]), check_invariants=False
    )
    product = torch.addmv if x.dim() == 1 else torch.addmm
    # beta=0 is documented not to read y; mv(out=) spends half as long again on this machine type.
    product(y, matrix, x, beta=0.0, out=y)


def _csr_matmul_in_pieces(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """The same of row pointers in 64 bits: the library takes columns of the same kind only.

    So in pieces whose entries 32 bits can count. Waits for the device.
    """
    edges, ends = [0], [0]
    while edges[-1] < y.shape[0]:
        limit = torch.full_like(indptr[:1], ends[-1] + _MOST_ENTRIES)
        # A row of more is a piece of its own.
        last = max(int(torch.searchsorted(indptr, limit, right=True)) - 1, edges[-1] + 1)
        edges.append(last)
        ends.append(int(indptr[last]))
    for i in range(len(edges) - 1):
        rows, own = slice(*edges[i : i + 2]), slice(*ends[i : i + 2])
        if ends[i + 1] - ends[i] > _MOST_ENTRIES:
            csr_matmul_reference(
                indptr[edges[i] : edges[i + 1] + 1] - ends[i], indices[own], values[own], x, y[rows]
            )
            continue
        part = (indptr[edges[i] : edges[i + 1] + 1] - ends[i]).int()
        _csr_matmul_library(part, indices[own], values[own], x, y[rows])


_MOST_ENTRIES = 2**31 - 1

_HAS_MKL = torch.backends.mkl.is_available()
_LIBRARY.impl("csr_matmul_out", _csr_matmul_library if _HAS_MKL else csr_matmul_reference, "CPU")
_LIBRARY.impl("csr_matmul_out", _csr_matmul_library, "CUDA")


def _csr_matmul_fake(*tensors: torch.Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    torch._check(len(devices) == 1, lambda: f"csr_matmul_out: tensors on {devices}")
    dtypes = {tensor.dtype for tensor in tensors[2:]}  # values, x and y
    torch._check(len(dtypes) == 1, lambda: f"csr_matmul_out: dtypes {dtypes}")


with few_looks_at_files():
    torch.library.register_fake("hpc_sla::csr_matmul_out", _csr_matmul_fake, lib=_LIBRARY)


def expand_rows(indptr: torch.Tensor, nnz: int) -> torch.Tensor:
    """The row of each stored entry: int32 [nnz], as columns are.

    `nnz` is known to the caller; reading it off `indptr` would make the host wait for a GPU.
    """
    n_rows = indptr.numel() - 1
    rows = torch.arange(n_rows, dtype=torch.int32, device=indptr.device)
    return torch.repeat_interleave(rows, torch.diff(indptr).long(), output_size=nnz)
