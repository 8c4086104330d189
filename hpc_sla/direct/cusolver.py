"""NVIDIA's cuSOLVER (its sparse part), through CuPy. On the GPU that holds the matrix."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.errors import SingularMatrixError

_REORDER = 3  # nested dissection (METIS), of csrlsvqr's and csrlsvchol's choices 0 to 3
_FAILURES = {"qr": "singular", "llt": "not positive definite"}


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Get ready to solve by `qr` or `llt`."""
    return CuSolver(matrix, method)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here; None where it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    try:
        # CuPy is optional, here and below.
        import cupy  # noqa: F401
        from cupy_backends.cuda.libs import cusolver  # noqa: F401
        from cupyx import cusparse  # noqa: F401
    except (ImportError, OSError) as error:
        return f"CuPy cannot be loaded: {error} (pip install 'hpc_sla[cuda]')"
    return None


class CuSolver(Factorization):
    """`cusolverSp<t>csrlsvqr` and `csrlsvchol`.

    These solve in one call and keep no factors: every column of every solve factorises anew. So
    it is only for where cuDSS is not installed. Whether a Cholesky factor exists is tried at
    once; by QR a singular matrix is found at the first solve, but for a row or column of zeros.

    For QR the rows and then the columns are scaled by powers of two, to a largest entry near 1:
    that makes a diagonal entry of R near rounding mean what it should, however the equations and
    unknowns were scaled. Rounding leaves it above 0 even where the matrix is singular.
    """

    backend = "cusolver"

    def __init__(self, matrix: LocalMatrix, method: str) -> None:
        super().__init__(matrix, method, matrix.values.dtype, matrix.values.device)
        self._matrix, self._scales = matrix, None
        self._tolerance = 0.0
        if method == "qr":
            self._matrix, self._scales = _equilibrated(matrix)
            self._tolerance = 10 * torch.finfo(matrix.values.dtype).eps
        else:
            self._matrix = matrix.without_zeros  # whose pattern is symmetric, as METIS takes it
            # Whoever may use another method instead has to know now.
            self._solve(matrix.values.new_ones((self.n, 1)), False)

    _scales: tuple[torch.Tensor, torch.Tensor] | None
    """What the rows and the columns were multiplied by: `[n]` each."""

    @cached_property
    def _transposed(self) -> LocalMatrix:
        return self._matrix.transposed

    @cached_property
    def _descriptor(self) -> Any:
        """A general matrix, counted from 0."""
        from cupyx.cusparse import MatDescriptor

        return MatDescriptor.create()

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        import cupy
        from cupy.cuda.device import get_cusolver_sp_handle
        from cupy_backends.cuda.libs import cusolver

        letter = "d" if self.dtype == torch.float64 else "s"
        routine = {"qr": "csrlsvqr", "llt": "csrlsvchol"}[self.method]
        call = getattr(cusolver, letter + routine)
        matrix = self._transposed if transpose and self.method == "qr" else self._matrix
        pattern, values = matrix.pattern, matrix.values
        if self._scales:
            left, right = reversed(self._scales) if transpose else self._scales
            b = b * left.unsqueeze(1)
        columns = b.t().contiguous()
        x = torch.empty_like(columns)
        singularity = np.full(1, -1, dtype=np.int32)
        stream = torch.cuda.current_stream(self.device)
        with (
            cupy.cuda.Device(self.device.index),
            cupy.cuda.ExternalStream(stream.cuda_stream, self.device.index),
        ):
            handle = get_cusolver_sp_handle()
            for j in range(b.shape[1]):
                call(
                    handle,
                    self.n,
                    pattern.nnz,
                    self._descriptor.descriptor,
                    values.data_ptr(),
                    pattern.indptr.data_ptr(),
                    pattern.indices.data_ptr(),
                    columns[j].data_ptr(),
                    self._tolerance,
                    _REORDER,
                    x[j].data_ptr(),
                    singularity.ctypes.data,
                )
                if singularity[0] >= 0:
                    raise SingularMatrixError(
                        f"cusolver {self.method}: the matrix is {_FAILURES[self.method]} "
                        f"(pivot {singularity[0]})"
                    )
        x = x.t().contiguous()
        return x.mul_(right.unsqueeze(1)) if self._scales else x


def _equilibrated(matrix: LocalMatrix) -> tuple[LocalMatrix, tuple[torch.Tensor, torch.Tensor]]:
    """The scaled matrix, and what its rows and columns were multiplied by.

    Raises
    ------
    SingularMatrixError
        A row or a column has only zeros.
    """
    pattern, values = matrix.pattern, matrix.values
    columns = pattern.indices.long()
    counts = pattern.indptr.diff().long()
    rows = torch.repeat_interleave(
        torch.arange(matrix.n, device=values.device), counts, output_size=pattern.nnz
    )
    scales = []
    for where in (rows, columns):
        largest = values.new_zeros(matrix.n).scatter_reduce_(0, where, values.abs(), "amax")
        if bool((largest == 0).any()):
            what = "row" if where is rows else "column"
            raise SingularMatrixError(f"cusolver qr: the matrix is singular: a {what} of zeros")
        scale = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
        values = values * scale.index_select(0, where)
        scales.append(scale)
    return LocalMatrix(pattern, values), (scales[0], scales[1])
