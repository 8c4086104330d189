"""The Triton steps of bicgstab, minres, pipelined_cg, and of cg with any preconditioner.

Interpreted, beside their torch oracles, in processes of their own: Triton reads TRITON_INTERPRET
when it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

COMMON = """
import itertools, warnings
import torch
import hpc_sla.kernels.triton_bicgstab, hpc_sla.kernels.triton_minres
import hpc_sla.kernels.triton_passes, hpc_sla.kernels.triton_pipelined_cg
from hpc_sla.kernels import device_bicgstab, device_minres, device_pipelined_cg, fused
from hpc_sla.kernels import triton_launch

warnings.simplefilter("ignore")  # NumPy's, of what is no number
torch.manual_seed(0)
inf, nan = float("inf"), float("nan")
SIZES = [
    (torch.float64, 1024, 0), (torch.float64, 1024, 1), (torch.float32, 1024, 777),
    (torch.float64, 2, 3001),
]

def same(ours, theirs, what):
    for one, other in zip(ours, theirs, strict=True):
        close = {} if one.dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-5}
        tell = {"msg": lambda m: f"{what}: {m}", "equal_nan": True}
        torch.testing.assert_close(one, other, **close, **tell)

def numbers(values, dtype):
    return [torch.tensor(v, dtype=torch.bool if isinstance(v, bool) else dtype) for v in values]

def cases(usual, odd):
    yield usual, 1
    yield usual, 3
    for name, values in odd.items():
        for value in values:
            yield {**usual, name: value}, 1

def sizes():
    for dtype, programs, n in SIZES:
        triton_launch.PROGRAMS = programs
        yield dtype, n

def room(numbers, row, dtype):
    made = [torch.full((count,), nan, dtype=dtype) for count in (numbers, row)]
    return fused.Left(made[0], torch.tensor(True), made[1])

def left_of(left):
    return [left.numbers, left.live, left.row]

def reduction(ranks):
    return None if ranks == 1 else lambda sums: sums.mul_(ranks)
"""

BICGSTAB = """
names = "slope rho shadow_square live target ts tt".split()
usual = dict(zip(names, (1.7, 0.7, 2.0, True, 1e-9, 0.4, 0.9)), first=1.0)
odd = dict(
    slope=[0.0, nan], rho=[inf], live=[False], target=[1e9], ts=[0.0, nan], tt=[0.0, -1.0],
    first=[nan, inf],
)
for dtype, n in sizes():
    for (case, ranks), how in itertools.product(cases(usual, odd), ("jacobi", "none", "other")):
        vectors = [torch.randn(n, dtype=dtype) for _ in range(9)]
        vectors[1][:1] = case["first"]
        *known, ts, tt = numbers([case[k] for k in names], dtype)
        found = []
        for half, full in (
            (device_bicgstab.half_step, device_bicgstab.full_step),
            (device_bicgstab.half_step_reference, device_bicgstab.full_step_reference),
        ):
            mine = [v.clone() for v in vectors]
            if how != "jacobi":
                mine[-1] = None
            if how == "none":  # p_hat is p, and s_hat is r
                mine[5], mine[6] = mine[2], mine[1]
            of = device_bicgstab.BiCGStabVectors(*mine)
            k = device_bicgstab.BiCGStabScalars(*known, 1e-20)
            left = room(1, 4, dtype)
            half(of, k)
            full(of, k, ts, tt, left, reduction(ranks))
            found.append([*(v for v in mine if v is not None), *left_of(left)])
        same(*found, (case, n, how))
print("same")
"""

MINRES = """
names = "zaz gamma gamma_old eta c c_old s s_old rr live target".split()
usual = dict(zip(names, (1.3, 0.8, 1.1, 0.9, 0.6, 0.7, 0.8, 0.5, 2.0, True, 1e-9)), first=1.0)
odd = dict(
    zaz=[-1.0, nan], gamma=[0.0, inf], c=[0.0], live=[False], target=[1e9], rr=[nan],
    first=[nan, inf],
)
for dtype, n in sizes():
    for (case, ranks), how in itertools.product(cases(usual, odd), ("jacobi", "none", "other")):
        vectors = [torch.randn(n, dtype=dtype) for _ in range(9)]
        other = torch.randn(n, dtype=dtype)
        vectors[7][:1] = case["first"]
        known = numbers([case[k] for k in names], dtype)
        found = []
        for step in (device_minres.minres_step, device_minres.minres_step_reference):
            mine = [v.clone() for v in vectors]
            if how == "jacobi":
                mine[-1].abs_()
            else:
                mine[-1] = None
            of = device_minres.MinresVectors(*mine)
            left = room(8, 3, dtype)
            again = (lambda: of.v_old * other.abs()) if how == "other" else None
            z = step(of, device_minres.MinresScalars(*known), left, reduction(ranks), again)
            found.append([*(v for v in mine if v is not None), z, *left_of(left)])
        same(*found, (case, n, how))
print("same")
"""

PIPELINED = """
names = "rho delta rho_old alpha_old live target".split()
usual = dict(zip(names, (0.7, 2.0, 1.1, 0.9, True, 1e-9)), first=1.0)
odd = dict(
    rho=[-1.0, inf], delta=[-3.0, 0.0, nan], rho_old=[inf], live=[False], target=[1e9],
    first=[nan, inf],
)
for dtype, n in sizes():
    for (case, ranks), jacobi in itertools.product(cases(usual, odd), (True, False)):
        vectors = [torch.randn(n, dtype=dtype) for _ in range(10)]
        vectors[1][:1] = case["first"]
        inverse = torch.rand(n, dtype=dtype) if jacobi else None
        k = device_pipelined_cg.PipelinedScalars(*numbers([case[k] for k in names], dtype))
        found = []
        for reference in (False, True):
            mine = [v.clone() for v in vectors]
            left = room(5, 4, dtype)
            if reference:
                sums = device_pipelined_cg.pipelined_pass_reference(tuple(mine), inverse, k)
                sums = sums * ranks
                device_pipelined_cg.pipelined_end_reference(sums, k, left)
            else:
                sums = device_pipelined_cg.pipelined_pass(tuple(mine), inverse, k)
                sums = fused.totals(mine[1], sums, reduction(ranks))
                device_pipelined_cg.pipelined_end(sums, k, left)
            found.append([*mine, *left_of(left)])
        same(*found, (case, n, jacobi))
print("same")
"""

CG = """
usual = dict(curvature=2.0, rho=0.7, live=True, target=1e-9)
for dtype, n in sizes():
    for case, ranks in cases(usual, dict(live=[False], curvature=[-1.0, nan])):
        vectors = [torch.randn(n, dtype=dtype) for _ in range(4)]
        other = torch.rand(n, dtype=dtype)
        curvature, rho, live, target = numbers(case.values(), dtype)
        found = []
        for step in (fused.device_step, fused.device_step_reference):
            x, r, p, q = (v.clone() for v in vectors)
            left = room(2, 3, dtype)

            def again():
                return torch.mul(r, other, out=q)

            known = curvature, rho, live, target, left, reduction(ranks), again
            step(x, r, p, q, None, *known)
            found.append([x, r, p, q, *left_of(left)])
        same(*found, (case, n))
print("same")
"""


@needs_triton
@pytest.mark.parametrize(
    "steps",
    [CG, BICGSTAB, MINRES, PIPELINED],
    ids=["cg", "bicgstab", "minres", "pipelined_cg"],
)
def test_the_steps_equal_the_oracles_interpreted(steps):
    done = subprocess.run(
        [sys.executable, "-c", COMMON + steps],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "same\n", done.stderr[-3000:]


BROKEN = """
import warnings
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from hpc_sla.kernels import device_steps

def broken(*arguments):
    raise OSError("no compiler here")

with FakeTensorMode(), warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    r = torch.ones(3, device="cuda")
    for step in device_steps._TRIALS:
        assert device_steps.serves(r, step)
        assert not device_steps.serves(torch.ones(3, 2, device="cuda"), step)
    device_steps.works.cache_clear()
    for step in device_steps._TRIALS:
        device_steps._TRIALS[step] = broken
        assert not device_steps.serves(r, step) and not device_steps.serves(r, step)
    # Of another device nothing is known by that.
    other = torch.ones(3, device="cuda:1")
    assert not device_steps.serves(other, "cg")
print(len(told), told[0].message)
"""


@needs_triton
def test_where_triton_fails_torch_takes_its_place_and_says_so_once_a_device():
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.startswith("2 Triton does not work on cuda:0 (OSError: no comp"), done


ABSENT = """
import sys
sys.modules["triton"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else found(name, *a)
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from hpc_sla.kernels import device_steps
with FakeTensorMode():
    print(device_steps.serves(torch.ones(3, device="cuda"), "minres"))
"""


def test_without_triton_torch_does_the_work_in_silence():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ABSENT], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "False\n", done
