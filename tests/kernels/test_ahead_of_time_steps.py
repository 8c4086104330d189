"""The steps of bicgstab, minres and pipelined_cg compiled for cards that are not there.

As `test_ahead_of_time.py`: they fit, and no register spills.
"""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from hpc_sla.kernels import triton_bicgstab, triton_launch, triton_minres, triton_passes
from hpc_sla.kernels import triton_pipelined_cg as triton_pipelined
from tests.kernels.test_ahead_of_time import CARDS, MOST_REGISTERS, MOST_SHARED, resources

KERNELS = {
    "dot": (triton_passes._dot_kernel, 4),
    "bicgstab_half": (triton_bicgstab._half_kernel, 4),
    "bicgstab_full": (triton_bicgstab._full_kernel, 4),
    "bicgstab_turn": (triton_bicgstab._turn_kernel, 4),
    "minres_lanczos": (triton_minres._lanczos_kernel, triton_minres.WARPS),
    "minres_direction": (triton_minres._direction_kernel, triton_minres.WARPS),
    "pipelined_pass": (triton_pipelined._pass_kernel, triton_pipelined.WARPS),
    "pipelined_end": (triton_pipelined._end_kernel, 4),
}
"""Each with the warps that it is launched with."""

SIZES = {"n": "i64", "rows": "i64", "parts": "i32", "tiny": "fp32"}
FIXED = {"BLOCK": triton_launch.BLOCK, "PROGRAMS": triton_launch.PROGRAMS}


def used(kernel, warps, dtype, jacobi, card, folder, **fixed) -> dict[str, int]:
    """What a compiled kernel takes of a card, as the driver's tools tell it."""
    types = {name: f"*{dtype}" for name in kernel.arg_names if name.endswith("_ptr")}
    types |= {name: "*i1" for name in types if "live" in name}
    types |= {name: "*fp64" for name in types if name == "sums_ptr" or "dot" in kernel.__name__}
    types |= {name: kind for name, kind in SIZES.items() if name in kernel.arg_names}
    if not jacobi:
        types.pop("inverse_ptr", None)
    return resources(kernel, types, {**FIXED, **fixed}, card, folder, warps)[0]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("jacobi", [True, False])
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_steps_fit(name, dtype, jacobi, card, tmp_path):
    found = used(*KERNELS[name], dtype, jacobi, card, tmp_path)
    assert found["STACK"] == 0 and found["REG"] <= MOST_REGISTERS
    assert found["SHARED"] <= MOST_SHARED


def test_too_few_threads_would_be_seen(tmp_path):
    found = used(triton_pipelined._pass_kernel, 1, "fp64", True, 90, tmp_path)
    assert found["STACK"] > 0
