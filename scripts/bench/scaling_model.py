"""What a solve costs on many ranks, from what each rank is known to send.

    mpiexec -n 4 python scripts/bench/scaling_model.py              counts beside the model, here
    python scripts/bench/scaling_model.py --predict                 networks, to 10^5 ranks
    python scripts/bench/scaling_model.py --predict --network mine:2.5:12.5:40

The first counts calls, messages and bytes of cg, pipelined_cg, gmres, a V-cycle, multigrid's
set-up, eigsh and newton on these ranks (`messages.py`), holds them to the formulas
(`message_model.py`), and returns 1 where one differs on any rank. It measures this machine's alpha
and beta by a ping-pong, what a reduction takes, and the rate of a product: what they say of a
network is little where all ranks are on one node.

The second puts the same formulas into the model of C. Hockney (a message of b bytes takes
alpha + b / beta; a reduction of P ranks log2 P of these, R. Thakur, R. Rabenseifner and W. Gropp,
"Optimization of collective communication operations in MPICH", IJHPCA 19, 2005) for a box of
poisson3d a rank. Bandwidths are line rates; latencies are of the order that MPI's ping-pong tests
report on such networks, and assumed: give your own as NAME:MICROSECONDS:GB/S:GB/S_OF_MEMORY.
Imbalance, noise and congestion are not in it: it says what cannot be beaten, and where a method
must stop.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import message_model as model
import numpy as np

from hpc_sla.distributed.transport.base import Neighbours

REDUCTIONS = ("Allreduce", "Iallreduce")


@dataclass(frozen=True)
class Network:
    """A latency in seconds, a rank's bytes a second to the network, and from its memory."""

    name: str
    alpha: float
    beta: float
    memory: float


# A rank is one of eight on a node (or of a GPU's share of it), which share its adapter and memory.
NETWORKS = (
    Network("Slingshot-11, 200 Gb/s", 2.0e-6, 25e9 / 8, 25e9),
    Network("InfiniBand HDR, 200 Gb/s", 1.3e-6, 25e9 / 8, 25e9),
    Network("InfiniBand NDR, 400 Gb/s", 1.3e-6, 50e9 / 8, 25e9),
    Network("Ethernet, 25 Gb/s, TCP", 25e-6, 3.125e9 / 8, 25e9),
)

ENTRIES, ROW = 7.0, 7 * 12 + 4
"""Of poisson3d: entries a row, and bytes of a row in CSR with 32-bit indices."""

VECTORS = {"cg": 10, "pipelined_cg": 22, "gmres": 0, "amg": 10, "eigsh": 0, "newton": 0}
"""Numbers that a step moves, a row, beside the matrix."""

RESTART, BLOCK, COARSENING, COMPLEXITY = 30, 8, 20.0, 1.4
"""gmres's restart; eigsh's vectors; amg's rows of a level by the next, and operator complexity."""


def predicted(network: Network, method: str, rows: float, ranks: int) -> dict[str, float]:
    """Seconds of a step by what they are spent on, with so many rows a rank."""
    side = max(rows, 1.0) ** (1 / 3)
    face = round(side * side)
    box = Neighbours(tuple(range(6)), (face,) * 6) if ranks > 1 else Neighbours((), ())
    steps = _steps(method, box)
    local = (ROW + 8 * VECTORS[method]) * rows
    if method == "gmres":
        local += 8 * rows * 2 * (RESTART / 2)
    elif method == "eigsh":
        local = (ROW + 8 * BLOCK * 2 * 3 * 2 + 8 * 3 * BLOCK * 4) * rows
    elif method == "newton":
        local = 3 * (ROW + 8 * 20) * rows
    halo, sums = _cost(network, steps, ranks)
    spent = {"memory": local / network.memory, "halo": halo, "reductions": sums}
    if method == "amg":
        spent["memory"] += 4 * COMPLEXITY * ROW * 0.7 * rows / network.memory
        spent["coarse levels"] = _coarse(network, rows, ranks)
    if method == "pipelined_cg":  # hidden as far as there is work to hide it behind
        work = spent["memory"] + spent["halo"]
        spent["reductions"] = max(0.0, spent["reductions"] - work)
    return spent


def _steps(method: str, box: Neighbours) -> model.Traffic:
    """What one step more sends."""
    if method in ("cg", "amg"):
        return _more(model.cg(box, 11), model.cg(box, 10))
    if method == "pipelined_cg":
        return _more(model.pipelined_cg(box, 11), model.pipelined_cg(box, 10))
    if method == "gmres":
        half = RESTART // 2
        return _more(model.gmres(box, half + 1, RESTART), model.gmres(box, half, RESTART))
    if method == "eigsh":
        return _more(model.eigsh(box, 11, 6, BLOCK), model.eigsh(box, 10, 6, BLOCK))
    return model.together(  # of newton: a product by J in forward mode, and its share of gmres
        model.Traffic().exchange(box, 2), model.Traffic().reduce(RESTART)
    )


def _more(one: model.Traffic, other: model.Traffic) -> model.Traffic:
    made = model.Traffic()
    for name in one.calls:
        made.calls[name] = one.calls[name] - other.calls[name]
        made.bytes[name] = one.bytes[name] - other.bytes[name]
    return made


def _cost(network: Network, traffic: model.Traffic, ranks: int) -> tuple[float, float]:
    """Seconds of halo exchanges and of reductions."""
    halo = traffic.calls["message"] * network.alpha + traffic.bytes["message"] / network.beta
    depth = math.ceil(math.log2(ranks)) if ranks > 1 else 0
    calls = sum(traffic.calls[name] for name in REDUCTIONS)
    sizes = sum(traffic.bytes[name] for name in REDUCTIONS)
    return halo, depth * (calls * network.alpha + sizes / network.beta)


def _coarse(network: Network, rows: float, ranks: int) -> float:
    """A V-cycle's messages below the finest level: each level has fewer rows, and no fewer of them.

    Two steps of the smoother before and after, residual and transfers: ten exchanges a level on the
    finest, with up to 26 neighbours where stencils have grown; the last level in one reduction.
    """
    spent, total, level, working = 0.0, rows * ranks, 0, ranks
    while total > 1000 and level < 12:
        here = total / working
        neighbours = 0 if working == 1 else (6 if level == 0 else 26)
        face = max(here, 1.0) ** (2 / 3)
        spent += 6 * (neighbours * network.alpha + 4 * 6 * face / network.beta)
        total /= COARSENING
        # Where a rank would have few rows, fewer ranks go on.
        while working > 1 and total / working < 500:
            working = max(1, working // 8)
            spent += 2 * (8 * network.alpha)
        level += 1
    depth = math.ceil(math.log2(working)) if working > 1 else 0
    return spent + depth * (network.alpha + 4 * total / network.beta)


METHODS = ("cg", "pipelined_cg", "gmres", "amg", "eigsh", "newton")
RANKS = (1, 8, 64, 512, 4096, 32768, 100000)
HALF = 0.5


def show(network: Network, total: float, each: float) -> None:
    """Strong scaling of `total` rows, weak of `each` a rank, and where each method stops."""
    print(
        f"\n{network.name}: alpha {network.alpha * 1e6:g} us, {network.beta / 1e9:.3g} GB/s and "
        f"{network.memory / 1e9:g} GB/s of memory a rank"
    )
    for title, rows_of in (
        (f"strong scaling, {total:.0e} rows", lambda p: total / p),
        (f"weak scaling, {each:.0e} rows a rank", lambda p: each),
    ):
        strong = title.startswith("strong")
        print(f"  {title}: microseconds of a step, and efficiency")
        print("  " + "ranks".rjust(14) + "".join(f"{p:>16}" for p in RANKS))
        for method in METHODS:
            alone = sum(predicted(network, method, rows_of(1), 1).values())
            cells = []
            for p in RANKS:
                took = sum(predicted(network, method, rows_of(p), p).values())
                efficiency = alone / (took * (p if strong else 1))
                cells.append(f"{took * 1e6:10.4g} {efficiency:4.0%}".rjust(16))
            print("  " + method.rjust(14) + "".join(cells))
            print("  " + " " * 14 + "  " + stops(network, method, rows_of, alone, strong))


def stops(
    network: Network, method: str, rows_of: Callable[[float], float], alone: float, strong: bool
) -> str:
    """The first power of two of ranks with less than half the efficiency, and what it waits for."""
    for exponent in range(1, 28):
        p = 2**exponent
        if rows_of(p) < 1:
            break
        spent = predicted(network, method, rows_of(p), p)
        if alone / (sum(spent.values()) * (p if strong else 1)) < HALF:
            waits = {name: seconds for name, seconds in spent.items() if name != "memory"}
            why = max(waits, key=lambda name: waits[name])
            return (
                f"half efficient up to {p // 2:.1e} ranks ({rows_of(p // 2):.3g} rows each): then "
                f"{why} take {waits[why] / sum(spent.values()):.0%} of a step"
            )
    return f"half efficient up to {2 ** (exponent - 1):.1e} ranks and beyond"


# Here


def measured() -> dict[str, float]:
    """This machine, on these ranks: seconds and bytes a second. **Collective.**"""
    from mpi4py import MPI

    import hpc_sla as hs
    from hpc_sla import problems

    comm = MPI.COMM_WORLD
    found: dict[str, float] = {}
    for name, size, times in (("small", 1, 200), ("large", 1 << 17, 20)):
        buffer = np.zeros(size)
        comm.Barrier()
        begin = time.perf_counter()
        for _ in range(times if comm.size > 1 else 0):
            if comm.rank == 0:
                comm.Send(buffer, dest=1)
                comm.Recv(buffer, source=1)
            elif comm.rank == 1:
                comm.Recv(buffer, source=0)
                comm.Send(buffer, dest=0)
        found[name] = (time.perf_counter() - begin) / (2 * times)
        comm.Barrier()
    begin = time.perf_counter()
    for _ in range(100):
        comm.Allreduce(MPI.IN_PLACE, np.zeros(3))
    found["reduction"] = (time.perf_counter() - begin) / 100
    world = hs.World(device="cpu")
    A = problems.distribute(problems.make("poisson3d:n=32"), world)
    x = A.layout.world.replicate(A.values.new_ones(A.layout.n_owned))
    A @ x
    begin = time.perf_counter()
    for _ in range(10):
        A @ x
    product = (time.perf_counter() - begin) / 10
    found["rate"] = A.pattern.nnz_owned * 12 / product
    return found


def held() -> bool:
    """Count each method's messages and hold them to the model, on every rank. **Collective.**"""
    import torch
    from messages import COUNTS, aggregations, counted

    import hpc_sla as hs
    from hpc_sla import problems

    ok = True
    with counted() as comm, hs.World(comm, "cpu", "mpi") as world:
        A = problems.distribute(problems.make("poisson2d:n=24"), world)
        b, sends = A.values.new_ones(A.layout.n_owned), A.pattern.plan.sends

        def compare(name: str, expected: model.Traffic, loose: tuple[str, ...] = ()) -> None:
            nonlocal ok
            calls, sizes = dict(COUNTS.calls), dict(COUNTS.bytes)
            names = {name for name in {*calls, *expected.calls} if calls.get(name, 0)}
            names |= {name for name, count in expected.calls.items() if count}
            same = all(
                calls.get(n, 0) == expected.calls[n]
                and (n in loose or sizes.get(n, 0) == expected.bytes[n])
                for n in names
            )
            everywhere = world.all(same)
            ok &= everywhere
            if world.rank == 0:
                shown = ", ".join(
                    f"{n} {calls.get(n, 0)} ({sizes.get(n, 0)} B)" for n in sorted(names)
                )
                print(f"{name:>14}: {'as modelled' if everywhere else 'DIFFERS'}: {shown}")
            if not same:
                print(f"rank {world.rank} {name}: {calls} {sizes}, modelled {dict(expected.calls)} "
                      f"{dict(expected.bytes)}")  # fmt: skip
            COUNTS.reset()

        for method, formula in (
            ("cg", lambda it: model.cg(sends, it)),
            ("pipelined_cg", lambda it: model.pipelined_cg(sends, it)),
            ("gmres:restart=10", lambda it: model.gmres(sends, it, 10)),
        ):
            solver = hs.LinearSolver(A, method=method, precond="jacobi", rtol=1e-6)
            solver.solve(b)
            COUNTS.reset()
            _, info = solver.solve(b)
            compare(method, formula(info.iterations))
        # Levels on all ranks, and on one from the second on.
        for options in ("coarse_size=30", "coarse_size=30,rows_per_rank=1000"):
            solver = hs.LinearSolver(A, method="cg", precond=f"amg:{options}", rtol=1e-8)
            solver.solve(b)  # communicators are made once
            solver = hs.LinearSolver(A, method="cg", precond=f"amg:{options}", rtol=1e-8)
            COUNTS.reset()
            with aggregations() as rounds:
                solver.set_up()
            expected = model.set_up(solver.precond.hierarchy, rounds, 4)
            compare("amg set-up", expected, ("Issend",))
            solver.solve(b)
            COUNTS.reset()
            _, info = solver.solve(b)
            cycle = model.v_cycle(solver.precond.hierarchy.levels, 4)
            compare("cg and V-cycle", model.cg(sends, info.iterations, cycle))
        _, _, info = hs.eigsh(A, k=4, precond="jacobi", tol=1e-14, max_iterations=6)
        compare("eigsh", model.eigsh(sends, 6, 4, 6), ("Issend",))

        def residual(u: torch.Tensor) -> torch.Tensor:
            return A @ u + 0.1 * u**3 - b

        _, found = hs.nonlinear_solve(
            residual, torch.zeros_like(b), layout=A.layout, rtol=1e-12, max_iterations=3,
            jacobian="matrix_free", linear_method="gmres:restart=100", precond="none",
        )  # fmt: skip
        asked = found.residual_evaluations, found.jacobian_products, found.inner_iterations
        compare("newton", model.newton(sends, *asked))
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--predict", action="store_true", help="print scaling on named networks")
    parser.add_argument("--network", action="append", default=[], help="NAME:us:GB/s:GB/s")
    parser.add_argument("--rows", type=float, default=1e9, help="in all, for strong scaling")
    parser.add_argument("--rows-per-rank", type=float, default=1e6, help="for weak scaling")
    given = parser.parse_args()
    if given.predict:
        own = [text.split(":") for text in given.network]
        networks = [
            Network(name, float(us) * 1e-6, float(rate) * 1e9, float(memory) * 1e9)
            for name, us, rate, memory in own
        ]
        for network in networks or NETWORKS:
            show(network, given.rows, given.rows_per_rank)
        return 0
    from mpi4py import MPI

    if MPI.COMM_WORLD.size == 1:
        parser.error("counting needs ranks: mpiexec -n 4 python scripts/bench/scaling_model.py")
    found = measured()
    if MPI.COMM_WORLD.rank == 0:
        print(
            f"here, {MPI.COMM_WORLD.size} ranks: alpha {found['small'] * 1e6:.3g} us, beta "
            f"{8 * (1 << 17) / found['large'] / 1e9:.3g} GB/s, a reduction "
            f"{found['reduction'] * 1e6:.3g} us, a product {found['rate'] / 1e9:.3g} GB/s a rank"
        )
    return 0 if held() else 1


if __name__ == "__main__":
    raise SystemExit(main())
