"""The compiled vector passes beside their torch oracles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from hpc_sla.kernels import fused
from hpc_sla.kernels import native as native_kernels


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


native = pytest.mark.skipif(
    native_kernels.LIBRARY is None,
    reason="the kernels were not compiled (no C compiler at installation)",
)


@native
@pytest.mark.parametrize("jacobi", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 7, 1000])
@pytest.mark.parametrize("columns", [(), (1,), (3,), (8,), (19,)])
def test_passes_equal_the_oracles(columns, n, dtype, jacobi):
    torch.manual_seed(n)
    r, q, x, p = (torch.randn(n, *columns, dtype=dtype) for _ in range(4))
    inverse = torch.rand(n, dtype=dtype) if jacobi else None
    alpha, beta = (torch.randn(columns, dtype=dtype) for _ in range(2)) if columns else (0.37, -1.2)
    assert fused.serves(r)
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {}
    ours, theirs = r.clone(), r.clone()
    out = torch.full((2, *columns), float("nan"), dtype=dtype)
    expected = torch.empty_like(out)
    fused.residual_pass(ours, q, alpha, inverse, out)
    fused.residual_reference(theirs, q, alpha, inverse, expected)
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(out, expected, **close)

    x1, p1, x2, p2 = x.clone(), p.clone(), x.clone(), p.clone()
    fused.direction_pass(x1, p1, r, inverse, alpha, beta)
    fused.direction_reference(x2, p2, r, inverse, alpha, beta)
    torch.testing.assert_close(x1, x2, **close)
    torch.testing.assert_close(p1, p2, **close)


TRITON = """
import torch
from hpc_sla.kernels import fused, triton_launch, triton_passes

torch.manual_seed(0)

def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, equal_nan=True)

inf, nan = float("inf"), float("nan")
for dtype, programs in ((torch.float64, 1024), (torch.float32, 1024), (torch.float64, 4)):
    triton_launch.PROGRAMS = programs
    for n in (0, 1, 5, 1024, 9001):
        for jacobi in (True, False):
            for curvature, rho, live, target, first, ranks in (
                (2.0, 0.7, True, 1e-9, 1.0, 1),
                (2.0, 0.7, True, 1e-9, 1.0, 3),
                (2.0, 0.7, True, 1e9, 1.0, 1),
                (2.0, 0.7, False, 1e-9, 1.0, 1),
                (-2.0, 0.7, True, 1e-9, 1.0, 1),
                (nan, 0.7, True, 1e-9, 1.0, 1),
                (2.0, inf, True, 1e-9, 1.0, 1),
                (2.0, 0.7, True, 1e-9, nan, 1),
                (2.0, 0.7, True, 1e-9, inf, 3),
            ):
                vectors = [torch.randn(n, dtype=dtype) for _ in range(4)]
                vectors[1][:1] = first
                inverse = torch.rand(n, dtype=dtype) if jacobi else None
                numbers = [torch.tensor(v, dtype=dtype) for v in (curvature, rho)]
                numbers += [torch.tensor(live), torch.tensor(target, dtype=dtype)]
                reduce = None if ranks == 1 else lambda sums: sums.mul_(ranks)
                found = []
                for step in (fused.device_step, fused.device_step_reference):
                    mine = [v.clone() for v in vectors]
                    room = [torch.full((k,), nan, dtype=dtype) for k in (2, 3)]
                    left = fused.Left(room[0], torch.tensor(True), room[1])
                    step(*mine, inverse, *numbers, left, reduce)
                    found.append((*mine, *room, left.live))
                for ours, theirs in zip(*found, strict=True):
                    same(ours, theirs)
print("same")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_triton_passes_equal_the_oracles_interpreted():
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", TRITON],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "same\n", done.stderr


@native
def test_nan_passes_through():
    r = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    out = torch.zeros(2, dtype=torch.float64)
    fused.residual_pass(r, torch.ones_like(r), 0.5, None, out)
    assert out.isnan().all()


def test_what_they_cannot_serve_is_left_to_torch():
    assert not fused.serves(torch.ones(3, dtype=torch.float16))
    assert not fused.serves(torch.ones(3, dtype=torch.float64, device="meta"))
    torch.set_num_threads(2)
    # Which has threads of its own, should they have only one.
    some = torch.ones(3, dtype=torch.float64)
    assert fused.serves(some) == (native_kernels.LIBRARY is not None and native_kernels.THREADED)
