"""Determinants from triangular factors, and their derivatives. Local."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.direct.base import LocalMatrix
from hpc_sla.direct.factorize import factorize
from hpc_sla.direct.scipy import OrderedLU, SuperLU
from hpc_sla.errors import SingularMatrixError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import ordinary

_ROOM = 1 << 21
"""Numbers of a block of columns of the inverse: 16 MiB of them."""


def slogdet(pattern: CsrPattern, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The determinant's sign and the logarithm of its modulus, as `torch.linalg.slogdet`. Local.

    From SuperLU's factors, on the host. Differentiable in the values, any number of times: the
    derivative of log |det A| is the transpose of the inverse, of which the entries in the pattern
    are found by n solves with the factors, some columns at a time. For a singular matrix 0 and
    -inf, without a derivative.

    Parameters
    ----------
    pattern : CsrPattern
        Square.
    values : torch.Tensor [nnz]

    Returns
    -------
    sign, logarithm : torch.Tensor []
        On the values' device, of their dtype.
    """
    host = _on_host(pattern)
    sign, logarithm = _SLogDet.apply(ordinary(values).cpu(), host)
    return sign.to(values.device), logarithm.to(values.device)


def is_positive_definite(pattern: CsrPattern, values: torch.Tensor) -> bool:
    """Whether a matrix is symmetric, to rounding, and positive definite. Local, on the host.

    Zeros that are stored count for nothing. By the signs of the pivots, taken from the diagonal
    (Sylvester's law of inertia).
    """
    local = LocalMatrix.of(_on_host(pattern), values.detach().cpu()).without_zeros
    if not (local.symmetric and local.positive_diagonal):
        return False
    from scipy.sparse.linalg import splu  # slow to load

    if not local.n:
        return True
    try:
        lu = splu(
            local.to_csc(np.float64),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        return False
    # A pivot off the diagonal is one that was zero there.
    return bool((lu.perm_r == lu.perm_c).all() and (lu.U.diagonal() > 0).all())


def inverse_entries(pattern: CsrPattern, values: torch.Tensor) -> torch.Tensor:
    """The entries of A^-T on A's own pattern: [nnz]. Local. Differentiable."""
    factors = factorize(pattern, values, backend="scipy", method="lu")
    n, ends, columns = pattern.n_rows, pattern.indptr.tolist(), pattern.indices.long()
    rows, width = pattern.rows().long(), max(1, _ROOM // max(pattern.n_rows, 1))
    parts = []
    for first in range(0, n, width):
        last = min(first + width, n)
        some = slice(ends[first], ends[last])
        ones = values.new_zeros((n, last - first))
        ones[torch.arange(first, last), torch.arange(last - first)] = 1.0
        # Columns first ... last of A^-1 are these rows of A^-T.
        found = factors.solve(ones)
        parts.append(found[columns[some], rows[some] - first])
    return torch.cat([*parts, values.new_zeros(0)])


class _SLogDet(Function):
    @staticmethod
    def forward(values: torch.Tensor, pattern: CsrPattern) -> tuple[torch.Tensor, torch.Tensor]:
        found = _of_values(pattern, values.detach())
        return tuple(values.new_tensor(number) for number in found)  # type: ignore[return-value]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        values, ctx.pattern = inputs
        ctx.save_for_backward(values)
        ctx.save_for_forward(values)
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        return grads[1] * inverse_entries(ctx.pattern, values), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (values,) = ctx.saved_tensors
        return None, (inverse_entries(ctx.pattern, values) * tangents[0]).sum()


def _of_values(pattern: CsrPattern, values: torch.Tensor) -> tuple[float, float]:
    """Sign, and logarithm of the modulus. Local."""
    if not pattern.n_rows:
        return 1.0, 0.0
    try:
        factors = factorize(pattern, values, backend="scipy", method="lu")
    except SingularMatrixError:
        return 0.0, -np.inf
    assert isinstance(factors, SuperLU)
    return _of_factors(factors._lu)


def _of_factors(made: OrderedLU) -> tuple[float, float]:
    """As `_of_values`."""
    pivots = made.lu.U.diagonal().astype(np.float64)  # L has ones
    if not pivots.all():
        return 0.0, -np.inf
    # Rows and columns were both put in `order`, which changes no sign.
    sign = _parity(made.lu.perm_r) * _parity(made.lu.perm_c)
    sign *= -1.0 if np.count_nonzero(pivots < 0) % 2 else 1.0
    logarithm = np.log(np.abs(pivots)).sum()
    for scale in (made.rows, made.columns):
        if scale is not None:
            logarithm -= np.log(scale.astype(np.float64)).sum()
    return sign, float(logarithm)


def _parity(permutation: np.ndarray) -> float:
    """Its sign."""
    # Slow to load.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(permutation)
    graph = csr_array((np.ones(n, dtype=np.int8), permutation, np.arange(n + 1)), shape=(n, n))
    cycles = connected_components(graph, directed=False, return_labels=False)
    return -1.0 if (n - cycles) % 2 else 1.0


def _on_host(pattern: CsrPattern) -> CsrPattern:
    held = pattern.at_hand()
    if held.indices.device.type == "cpu":
        return held
    return CsrPattern(held.indptr.cpu(), held.indices.cpu(), held.n_columns)
