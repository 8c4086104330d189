"""Systems that Hypothesis makes up: whatever they are, the status tells the truth.

On one rank: Hypothesis shrinks a failure by running on, which ranks cannot do in step. The drawn
systems of test_properties do the same at every rank count.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import hpc_sla as hs
from tests.methods import ENTRIES

entry = st.one_of(
    st.just(0.0),
    st.integers(-4, 4).map(float),
    st.floats(-1e8, 1e8, allow_nan=False, width=64),
    st.floats(-1e-8, 1e-8, allow_nan=False, width=64),
)


@st.composite
def systems(draw):
    n = draw(st.integers(1, 7))
    matrix = draw(arrays(np.float64, (n, n), elements=entry))
    shape = draw(st.sampled_from(["any", "symmetric", "gram", "diagonal"]))
    if shape == "symmetric":
        matrix = matrix + matrix.T
    elif shape == "gram":
        matrix = matrix @ matrix.T
    elif shape == "diagonal":
        matrix = np.diag(np.diag(matrix))
    return matrix, draw(arrays(np.float64, (n,), elements=entry))


@pytest.fixture(scope="module")
def alone():
    from mpi4py import MPI

    with hs.World(comm=MPI.COMM_SELF, device="cpu") as world:
        yield world


@pytest.mark.parametrize("method", ENTRIES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(system=systems(), precond=st.sampled_from(["none", "jacobi"]), power=st.integers(2, 12))
def test_converged_means_converged(alone, method, system, precond, power):
    matrix, b = system
    rtol = 10.0**-power
    A = hs.DSparseMatrix.from_scipy(sp.csr_matrix(matrix), alone, "contiguous")
    rhs = A.layout.scatter(b)
    x, info = hs.solve(A, rhs, method=method, precond=precond, rtol=rtol, max_iterations=100)
    if info.converged:
        x = A.layout.allgather(x).numpy()
        residual = np.linalg.norm(b - matrix @ x)
        # Sums in another order than ours, which is of the stored rows.
        room = len(b) * 2.2e-16 * np.linalg.norm(abs(matrix) @ abs(x) + abs(b))
        assert residual <= 10 * rtol * np.linalg.norm(b) + room
    else:
        assert info.residual_norm > rtol * np.linalg.norm(b) or np.isnan(info.residual_norm)
