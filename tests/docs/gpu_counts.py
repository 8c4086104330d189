"""What an iteration launches on a GPU, counted on fake tensors: the tables of docs/gpu.md.

`python -m tests.docs.gpu_counts` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.transport import Neighbours
from hpc_sla.distributed.transport.serial import SerialTransport
from hpc_sla.kernels import device_steps
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.precond import Jacobi
from hpc_sla.precond.amg import AMG
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.cycle import Cycle, MultigridLevel
from hpc_sla.precond.amg.products import LevelOperator, Transfer, _Plain
from hpc_sla.precond.amg.smoother import Steps
from hpc_sla.precond.workspace import Workspace
from hpc_sla.sparse.pattern import DistributedPattern
from tests.methods import ENTRIES

ROWS = 9**6
ENTRIES_A_ROW = 5
COARSER = 9
"""Rows of a level over those of the next."""
OF_P = 3
"""Entries of a row of P, about what smoothing leaves of 3 x 3 aggregates."""
COARSEST = 81

CARDS = {"A100 80GB": 2.04e12, "H100 SXM": 3.35e12, "H200": 4.8e12, "B200": 8.0e12}
"""Bytes a second of their memory, as NVIDIA gives them."""
SHARE, LAUNCH = 0.85, 1.5e-6
"""The part of it that is reached, and seconds between two kernels of a graph: assumed."""

WRITTEN_ONLY = {
    "csr_matmul_out": {"y"},
    "bicgstab_half_step": {"s_hat"},
    "csr_rows": {"out", "after", "dot", "square"},
}
"""Arguments of our own operators that are written and not read; with `rows` they are read, too."""


@dataclass
class Counts:
    """Of one step: kernels, bytes read and written, tensors made, and those as long as vectors."""

    launches: int = 0
    bytes: int = 0
    made: int = 0
    vectors: int = 0


class Counting(TorchDispatchMode):
    """Counts operators that are kernels: not views, and not room for a result.

    Tensors of `vector` entries and more are vectors.
    """

    def __init__(self, vector: int) -> None:
        super().__init__()
        self.counts, self.vector = Counts(), vector

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        found = function(*arguments, **named)
        name = function.overloadpacket.__name__
        if function.is_view:
            return found
        mutated = any(a.alias_info and a.alias_info.is_write for a in function._schema.arguments)
        if not mutated:
            made = [t for t in tree_leaves(found) if isinstance(t, torch.Tensor)]
            self.counts.made += len(made)
            self.counts.vectors += sum(t.numel() >= self.vector for t in made)
        if name.startswith(("empty", "new_empty", "device")):
            return found
        self.counts.launches += 1
        if not mutated:
            self.counts.bytes += _bytes(found)
        values = dict(zip((a.name for a in function._schema.arguments), arguments, strict=False))
        values |= named
        write_only = WRITTEN_ONLY.get(name, set()) if values.get("rows") is None else set()
        touched: dict[tuple[int, bool], int] = {}  # a vector in two roles is read once
        for argument in function._schema.arguments:
            value = values.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write:
                touched[id(value), True] = _bytes(value)
                if argument.is_out or argument.name in write_only:
                    continue
            touched[id(value), False] = _bytes(value)
        self.counts.bytes += sum(touched.values())
        return found


def _bytes(value: object) -> int:
    tensors = [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


class _World:
    rank, size = 0, 1

    def __init__(self) -> None:
        self.transport = SerialTransport(torch.device("cuda"))

    def sums(self, value):
        return value


def _bare(kind, **attributes):
    """One without its set-up, which needs data."""
    made = kind.__new__(kind)
    vars(made).update(attributes)
    return made


def _int(n):
    return torch.zeros(n, dtype=torch.int32, device="cuda")


def _ones(*shape, dtype=torch.float64):
    return torch.ones(shape, dtype=dtype, device="cuda")


def _layout(n):
    return type("Layout", (), {"n_owned": n, "n_global": n, "start": 0, "world": _World()})()


def _plan(n):
    nobody = Neighbours((), ())
    return _bare(
        HaloPlan,
        layout=_layout(n),
        n_halo=0,
        _channels={},
        send_index=_int(0),
        sends=nobody,
        receives=nobody,
    )


def _pattern(n):
    plan = _plan(n)
    owned = CsrPattern(_int(n + 1), _int(ENTRIES_A_ROW * n), n)
    halo = CsrPattern(_int(1), _int(0), 0)
    return DistributedPattern(plan.layout, owned, halo, _int(0), plan)


class _Operator:
    n_global, world = ROWS, _World()

    def __init__(self) -> None:
        self.pattern, self.values = _pattern(ROWS), _ones(ENTRIES_A_ROW * ROWS)
        self.turned = self.pattern.transpose_values(self.values)

    def __call__(self, x, out, *inner_products):
        self.pattern.matmul(self.values, x, out, *inner_products)

    def adjoint(self, y, out):
        self.pattern.rmatmul(self.turned, y, out, transposed=True)

    def arnoldi(self, basis, inverse):
        return None


def step_counts(method: str, triton: bool) -> Counts:
    """Those of one iteration with Jacobi, on one rank."""
    works = device_steps.works
    with (
        FakeTensorMode(),
        mock.patch.object(device_steps, "works", lambda *of: triton and works(*of)),
    ):
        r = _ones(ROWS)
        scalars = scalars_for(_World(), r)
        x, b, M = torch.zeros_like(r), torch.zeros_like(r), Jacobi.of(_ones(ROWS))
        state = ENTRIES[method].on(System(_Operator(), M, b, x, r, [1e-8], scalars))
        state.start(torch.ones((), dtype=torch.bool, device="cuda"))
        # Of steps that are not all alike their mean, but for the end of the cycle.
        count = getattr(state, "cycle", 3) - 2
        state.step()
        with Counting(ROWS) as counting:
            for _ in range(count):
                scalars.recorded = 0
                state.step()
        return Counts(*(round(value / count) for value in vars(counting.counts).values()))


def _level(n, last):
    pattern = _pattern(n)
    single = torch.float32
    steps = _bare(Steps, inverse=_ones(n, dtype=single), coefficients=[(1.0, 0.0), (0.6, 0.3)])
    operator = LevelOperator(pattern, _ones(ENTRIES_A_ROW * n, dtype=single))
    level = MultigridLevel(pattern.layout, operator, steps)
    if last:
        square = _ones(n, n, dtype=single)
        level.direct = _bare(
            DenseSolve,
            _layout=pattern.layout,
            _world=pattern.layout.world,
            _rows=square,
            _columns=square,
            _buffers={},
        )
        return level
    m, values = n // COARSER, _ones(OF_P * n, dtype=single)
    none, nothing = CsrPattern(_int(1), _int(0), n), _ones(0, dtype=single)
    plain = _bare(
        _Plain,
        up=CsrMatrix(CsrPattern(_int(n + 1), _int(OF_P * n), m), values),
        down=CsrMatrix(CsrPattern(_int(m + 1), _int(OF_P * n), n), values),
        up_halo=CsrMatrix(none, nothing),
        down_halo=CsrMatrix(none, nothing),
        boundary=_int(0),
    )
    level.correct_with(_bare(Transfer, plan=_plan(m), _plain=plain), "V")
    return level


def cycle_counts(levels: int) -> Counts:
    """Those of a V-cycle in float32 for a float64 vector, by its transfers from the finest."""
    sizes = [COARSEST * COARSER**i for i in reversed(range(levels + 1))]
    with FakeTensorMode():
        made = [_level(n, n == COARSEST) for n in sizes]
        hierarchy = type("Hierarchy", (), {"levels": made, "dtype": torch.float32})()
        M = _bare(
            AMG,
            _hierarchy=hierarchy,
            _cycle=Cycle(made, "V"),
            _scale=1.0,
            _work=Workspace(1, sizes[0]),
        )
        r, out = _ones(sizes[0]), _ones(sizes[0])
        M._apply(M._cycle, r, out)
        with Counting(COARSEST) as counting:
            M._apply(M._cycle, r, out)
        return counting.counts


STEPS = ("cg", "bicgstab", "minres", "pipelined_cg", "richardson", "lsqr", "gmres", "fgmres")
TRANSFERS = 4
"""So that the finest level of the cycle has as many rows as the vectors of steps."""


def _row(name: str, counts: Counts, plain: Counts | None, rows: int) -> str:
    each = round(counts.bytes / rows)
    waits = "1 a cycle" if "gmres" in name else "0"
    before = "" if plain is None else f"{plain.launches}, {round(plain.bytes / rows)}"
    told = (name, counts.launches, each, counts.made, counts.vectors, waits, before)
    return f"| {' | '.join(map(str, told))} |"


def counts_table(counts: dict[str, tuple[Counts, Counts | None]]) -> str:
    """What is launched, as Markdown."""
    head = (
        "| | launches | bytes a row | tensors made | of them vectors | waits of the host "
        "| without Triton: launches, bytes a row |\n|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_row(name, *both, ROWS) for name, both in counts.items())])


def predicted_table(counts: dict[str, tuple[Counts, Counts | None]]) -> str:
    """Microseconds an iteration by these counts, as Markdown."""
    head = [f"| predicted, us | rows | {' | '.join(CARDS)} |", f"|---|---|{'---|' * len(CARDS)}"]
    lines = []
    for name, (found, plain) in counts.items():
        if plain is not None and plain.launches == found.launches:
            continue  # what no kernel of ours does
        for rows in (10**5, 10**6, 10**8):
            times = [
                1e6 * (found.bytes / ROWS * rows / (SHARE * bandwidth) + LAUNCH * found.launches)
                for bandwidth in CARDS.values()
            ]
            told = " | ".join(f"{time:.0f}" for time in times)
            lines.append(f"| {name} | 10^{len(str(rows)) - 1} | {told} |")
    return "\n".join([*head, *lines])


def counted() -> dict[str, tuple[Counts, Counts | None]]:
    """All that the tables tell."""
    steps = {f"`{m}`": (step_counts(m, True), step_counts(m, False)) for m in STEPS}
    return {**steps, "V-cycle": (cycle_counts(TRANSFERS), None)}


def tables() -> list[str]:
    """Both."""
    counts = counted()
    return [counts_table(counts), predicted_table(counts)]


if __name__ == "__main__":
    print("\n\n".join(tables()))
