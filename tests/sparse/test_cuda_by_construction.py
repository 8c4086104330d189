"""The CUDA path without a GPU: fake CUDA tensors raise on mixed devices and on host syncs.

A fake tensor has a device and a shape but no data, so an operation that mixes devices, or that
asks the device for a number (`.item()`, `.tolist()`, `bool(...)`), is an error here just where
it would be a mistake or a stall on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.transport import Neighbours
from hpc_sla.kernels import device_steps
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import TensorScalars, scalars_for
from hpc_sla.precond import Identity, Jacobi
from hpc_sla.sparse.pattern import DistributedPattern
from tests.methods import ENTRIES

triton_works = device_steps.works
N_OWNED, N_HALO, N_SEND = 60, 8, 6


class _Channel:
    def __init__(self, send, recv, trailing, dtype):
        self.send_buffer = torch.empty((send.total, *trailing), dtype=dtype, device="cuda")
        self.recv_buffer = torch.empty((recv.total, *trailing), dtype=dtype, device="cuda")
        self.started = 0

    def start(self):
        self.started += 1

    def finish(self):
        assert self.started
        self.started -= 1


class _Done:
    def wait(self):
        pass


class _Transport:
    """One that moves nothing but makes the same buffers on the same device."""

    name = "fake"

    def all_reduce_sum(self, tensor):
        assert tensor.device.type == "cuda" and tensor.is_contiguous()

    def start_all_reduce_sum(self, tensor):
        self.all_reduce_sum(tensor)
        return _Done()

    def channel(self, send, recv, trailing, dtype):
        return _Channel(send, recv, trailing, dtype)


class _World:
    rank, size = 0, 2
    transport = _Transport()

    def sums(self, value):
        return value


class _Layout:
    n_owned, n_global, start, world = N_OWNED, 2 * N_OWNED, 0, _World()


def _int(n):
    return torch.zeros(n, dtype=torch.int32, device="cuda")


def _pattern():
    plan = HaloPlan.__new__(HaloPlan)
    plan.layout, plan.n_halo, plan._channels = _Layout(), N_HALO, {}
    plan.send_index = _int(N_SEND)
    plan.sends, plan.receives = Neighbours((1,), (N_SEND,)), Neighbours((1,), (N_HALO,))
    owned = CsrPattern(_int(N_OWNED + 1), _int(280), N_OWNED)
    halo = CsrPattern(_int(6), _int(9), N_HALO)
    return DistributedPattern(plan.layout, owned, halo, _int(5), plan)


@pytest.fixture
def fake():
    with FakeTensorMode():
        yield


class _Operator:
    n_global, world = 2 * N_OWNED, _World()

    def __init__(self, pattern, values):
        self.pattern, self.values = pattern, values

    def __call__(self, x, out, *inner_products):
        self.pattern.matmul(self.values, x, out, *inner_products)

    def adjoint(self, y, out):
        self.pattern.rmatmul(self.values, y, out)

    def arnoldi(self, basis, inverse):
        return None


def _vector(*columns):
    return torch.ones(N_OWNED, *columns, dtype=torch.float64, device="cuda")


@pytest.mark.parametrize("columns", [(), (4,)])
def test_product_stays_on_the_device(fake, columns):
    pattern = _pattern()
    values = torch.ones(289, dtype=torch.float64, device="cuda")
    x, out = _vector(*columns), _vector(*columns)
    pattern.matmul(values, x, out)
    assert out.device.type == "cuda"
    pattern.rmatmul(values, x, out)
    assert pattern.sample(x, out).shape == (289,)


ON_DEVICE = ("cg", "bicgstab", "minres", "pipelined_cg")
"""Those whose scalars Triton keeps on the device."""

LOOPS = [
    *((method, True, False, columns) for method in ENTRIES for columns in ((), (3,))),
    *((method, False, False, ()) for method in ENTRIES),
    *((method, jacobi, True, ()) for method in ON_DEVICE for jacobi in (True, False)),
]


def _at_work(method, jacobi, columns, monkeypatch, triton):
    """A method that has begun, and its scalars."""
    if triton:
        pytest.importorskip("triton")
    monkeypatch.setattr(device_steps, "works", lambda *of: triton and triton_works(*of))
    pattern = _pattern()
    values = torch.ones(289, dtype=torch.float64, device="cuda")
    r = _vector(*columns)
    scalars = scalars_for(_World(), r)
    assert isinstance(scalars, TensorScalars) and scalars.check_every > 1
    system = System(
        _Operator(pattern, values),
        Jacobi.of(_vector()) if jacobi else Identity(),
        torch.zeros_like(r),
        torch.zeros_like(r),
        r,
        [1e-8] * scalars.count,
        scalars,
    )
    state = ENTRIES[method].on(system)
    assert getattr(state, "on_device", False) == (triton and not columns and method in ON_DEVICE)
    state.start(torch.ones(columns, dtype=torch.bool, device="cuda"))
    return state, scalars


@pytest.mark.parametrize(("method", "jacobi", "triton", "columns"), LOOPS)
def test_the_loop_does_not_wait_for_the_device(fake, method, jacobi, triton, columns, monkeypatch):
    state, scalars = _at_work(method, jacobi, columns, monkeypatch, triton)
    scalars.recorded = 0
    # One whole burst of each method; what else there is to vary is the same in every step.
    whole = jacobi and not columns
    for _ in range(scalars.check_every if whole else 3):
        state.step()
    assert state.x.device.type == "cuda" and state.live.device.type == "cuda"
    with pytest.raises(DataDependentOutputException):
        scalars.read()  # the one place that waits


def test_a_host_sync_in_the_loop_would_be_caught(fake):
    with pytest.raises(DataDependentOutputException):
        _vector().sum().item()


def test_mixed_devices_would_be_caught(fake):
    pattern = _pattern()
    values = torch.ones(280, dtype=torch.float64)
    with pytest.raises(Exception, match=r"cpu|device"):
        pattern.owned.matmul(values, _vector(), _vector())


class _Launches(TorchDispatchMode):
    """Names of operators that are kernels: not views, and not room for a result."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        if not function.is_view and not name.startswith(("empty", "new_empty", "device")):
            self.names.append(name)
        return function(*arguments, **(named or {}))


PRODUCT = ["index_select", "csr_rows", "csr_rows"]
"""What is sent, and the blocks of owned and of halo columns, which sum on the way."""
STEPS = {
    "cg": [*PRODUCT, "cg_residual_step", "cg_total", "cg_direction_step"],
    "bicgstab": [
        *(*PRODUCT, "bicgstab_half_step"),
        *(*PRODUCT, "bicgstab_full_step", "cg_total", "bicgstab_turn_step"),
    ],
    "minres": [*PRODUCT, "minres_lanczos_step", "cg_total", "minres_direction_step"],
    "pipelined_cg": ["pipelined_pass", "cg_total", *PRODUCT, "pipelined_end"],
}
"""Between its launches, what several ranks have to reduce is brought together: `cg_total`."""


@pytest.mark.parametrize("method", STEPS)
def test_a_step_is_its_products_and_two_or_three_launches(method, fake, monkeypatch):
    pytest.importorskip("triton")
    state, _ = _at_work(method, True, (), monkeypatch, triton=True)
    state.step()
    with _Launches() as launches:
        state.step()
    assert launches.names == STEPS[method]
