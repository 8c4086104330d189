"""The GPU kernels compiled for cards that are not there: they fit, and no register spills."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hpc_sla.kernels import triton_launch, triton_passes

CARDS = [80, 90, 100]
"""Compute capabilities: A100, H100 and H200, B200."""

MOST_REGISTERS = 128
MOST_SHARED = 48 << 10
"""What every card has without being asked for more."""

NUMBERS = ("curvature", "rho", "target", "new", "row", "out")
VECTORS = ("x", "p", "r", "q", "inverse")
KERNELS = [
    triton_passes._residual_kernel,
    triton_passes._total_kernel,
    triton_passes._direction_kernel,
]

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def resources(
    kernel,
    types: dict[str, str],
    fixed: dict[str, object],
    card: int,
    folder: Path,
    warps: int = 4,
    sass: bool = False,
) -> tuple[dict[str, int], str]:
    """What a compiled kernel takes of a card, as the driver's tools tell it; and its code.

    Arguments that are in neither `types` nor `fixed` are None. The code is Triton's, or with `sass`
    the card's own.
    """
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    constants = {name: fixed.get(name) for name in names if name not in types}
    source, target = ASTSource(kernel, signature, constants), GPUTarget("cuda", card, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps})
    binary = folder / "kernel.cubin"
    binary.write_bytes(made.asm["cubin"])

    def told(what: str) -> str:
        command = [_CUOBJDUMP, what, binary]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    found = re.findall(r"(REG|STACK|SHARED):(\d+)", told("-res-usage"))
    code = told("-sass") if sass else made.asm["ttgir"]
    return {name: int(value) for name, value in found}, code


def used(kernel, dtype: str, jacobi: bool, card: int, block: int, folder: Path) -> dict[str, int]:
    """What a compiled kernel takes of a card, as the driver's tools tell it."""
    types = {f"{name}_ptr": f"*{dtype}" for name in (*VECTORS, *NUMBERS)}
    types |= {"sums_ptr": "*fp64", "live_ptr": "*i1", "new_live_ptr": "*i1"}
    types |= {"n": "i64", "parts": "i32", "programs": "i32"}
    fixed: dict[str, object] = {"BLOCK": block, "PROGRAMS": triton_launch.PROGRAMS}
    if not jacobi:
        del types["inverse_ptr"]
    return resources(kernel, types, fixed, card, folder)[0]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("jacobi", [True, False])
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_kernels_fit(kernel, dtype, jacobi, card, tmp_path):
    found = used(kernel, dtype, jacobi, card, triton_launch.BLOCK, tmp_path)
    assert found["STACK"] == 0 and found["REG"] <= MOST_REGISTERS
    assert found["SHARED"] <= MOST_SHARED


def test_a_block_that_is_too_large_would_be_seen(tmp_path):
    found = used(triton_passes._direction_kernel, "fp64", True, 90, 4096, tmp_path)
    assert found["STACK"] > 0
