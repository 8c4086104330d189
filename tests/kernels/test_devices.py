"""Every kernel in Triton is launched on the device that its tensors are on."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_sla.kernels import (
    device_steps,
    triton_bicgstab,
    triton_launch,
    triton_minres,
    triton_passes,
    triton_pipelined_cg,
)

LAUNCHES = {
    "cg_residual_step": triton_passes._residual_step,
    "cg_total": triton_passes._total,
    "dot_parts": triton_passes._dot_parts,
    "cg_direction_step": triton_passes._direction_step,
    "bicgstab_half_step": triton_bicgstab._half_step,
    "bicgstab_full_step": triton_bicgstab._full_step,
    "bicgstab_turn_step": triton_bicgstab._turn_step,
    "minres_lanczos_step": triton_minres._lanczos_step,
    "minres_direction_step": triton_minres._direction_step,
    "pipelined_pass": triton_pipelined_cg._pass,
    "pipelined_end": triton_pipelined_cg._end,
}
MODULES = (triton_bicgstab, triton_minres, triton_passes, triton_pipelined_cg)


@pytest.fixture
def launched(monkeypatch):
    """The devices that were current as kernels were launched."""
    current, found = [torch.device("cuda:0")], []

    @contextmanager
    def device(chosen):
        current.append(torch.device(chosen))
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: found.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    for module in MODULES:
        for name in vars(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Kernel())
    return found


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_is_on_the_device_of_its_tensors(name, launched):
    schema = getattr(torch.ops.hpc_sla, name).default._schema
    other = torch.device("cuda:1")
    with FakeTensorMode():
        arguments = [
            1e-30 if str(argument.type) == "float" else torch.ones(2, 3, device=other)
            for argument in schema.arguments
        ]
        LAUNCHES[name](*arguments)
    assert launched == [other]


def test_none_was_forgotten():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if "hpc_sla::" in name}
    ours = {name.removeprefix("hpc_sla::") for name in registered}
    assert {n for n in ours if n.startswith(("cg_", "bicgstab_", "minres_", "pipelined_"))} <= {
        *LAUNCHES
    }


def test_devices_are_tried_one_by_one():
    with FakeTensorMode():
        device_steps.works.cache_clear()
        vectors = [torch.ones(3, device=f"cuda:{i}") for i in range(2)]
        assert all(device_steps.serves(r, "cg") for r in vectors)
        assert device_steps.works.cache_info().misses == 2


def test_tensors_on_two_devices_are_refused():
    with FakeTensorMode():
        one, two = (torch.ones(3, device=f"cuda:{i}") for i in range(2))
        with pytest.raises(Exception, match="tensors on"):
            torch.ops.hpc_sla.dot_parts(one, two, one)
        triton_launch.check_one_device(one, None, 1.0, one)
