"""Table 1: one GPU, the 5-point Laplacian, 10^4 to 1.69x10^8 rows as far as memory and time go.

A size is built, and solved by CG with amg, then with Jacobi, to the residual that the published
table has. Set-up and solve are those of a new `LinearSolver`, the least of a few; the matrix is
there before. What an iteration takes is the slope between two lengths, from a right-hand side of
noise, whose residual falls from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from measure import Peak, free_bytes, free_host_bytes, timed
from plan import Plan
from published import Published
from record import Record
from solves import FIRST_BYTES, FIRST_ITERATIONS, ROOM, between_lengths, predicted, warm_up, whole
from stencil import csr_bytes

import hpc_sla as hs
from hpc_sla.observe.held import held_bytes
from hpc_sla.precond import make_preconditioner
from hpc_sla.problems import distribute, make
from hpc_sla.sparse.compressed import packed_of

VECTORS = 10
"""Read or written by a step of CG in three passes: the product reads p and writes q; the residual's
pass reads r and q and writes r; the direction's reads r, p and x and writes p and x. 8 bytes an
entry each. With Jacobi the latter two read the diagonal, too, unless it is one number."""


@dataclass
class Known:
    """What smaller sizes have told about larger ones.

    Attributes
    ----------
    build, amg, step : float
        Seconds a row; the last of an iteration of CG with Jacobi.
    device, host : float
        Bytes a row.
    iterations : float
        Of CG with Jacobi, by points along a side.
    """

    build: float = 0.0
    amg: float = 0.0
    step: float = 0.0
    device: float = FIRST_BYTES
    host: float = FIRST_BYTES
    iterations: float = FIRST_ITERATIONS


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """On one rank."""
    known = Known()
    warm_up(world)
    for size in plan.table1:
        name = f"n={size.n}"
        reason = _too_much(world, record, known, size.n)
        if reason:
            record.skip(name, reason, n=size.n, rows=size.n**2, published_seconds=size.seconds)
            continue
        with record.attempt(name, "rows", n=size.n, rows=size.n**2):
            _size(world, plan, record, known, size)


def _too_much(world: hs.World, record: Record, known: Known, n: int) -> str | None:
    """Why a size is left out."""
    rows = n * n
    device, host = free_bytes(world) * ROOM, free_host_bytes(world) * ROOM
    if known.device * rows > device:
        return f"needs {known.device * rows / 1e9:.1f} GB, and {device / 1e9:.1f} can be had"
    if known.host * rows > host:
        return f"needs {known.host * rows / 1e9:.1f} GB of the host, which has {host / 1e9:.1f}"
    # Building, and as long again for the solves.
    if not record.fits(2 * known.build * rows):
        return f"no time: building it takes some {known.build * rows:.0f} s"
    return None


def _size(world: hs.World, plan: Plan, record: Record, known: Known, size: Published) -> None:
    n, rows = size.n, size.n**2
    host, peak = Peak(hs.World.serial("cpu")), Peak(world)
    build, A = timed(world, lambda: distribute(make(f"poisson2d:n={n}"), world))
    known.build = build / rows
    known.host = max(FIRST_BYTES / 4, 1.1 * (host.bytes() or 0) / rows)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)
    held = held_bytes({"": A.layout, "matrix": A}, [world])["matrix"]
    same = {"n": n, "rows": rows, "nnz": A.nnz_global, "rtol": size.residual}
    same |= {"build_seconds": build, "matrix_bytes": held, "published_seconds": size.seconds}

    name, facts = f"n={n}, cg + amg", {**same, "precond": "amg"}
    with record.attempt(name, "rows", **facts):
        if record.fits(known.amg * rows):
            facts |= whole(world, plan, A, b, "amg", size.residual, peak)
            known.amg, known.device = facts["total_seconds"] / rows, _larger(facts)
            if record.fits(2 * facts["total_seconds"]):
                facts |= between_lengths(world, plan, A, "amg")
            record.row(name, facts.pop("solved"), **facts)
        else:
            record.skip(name, f"no time: some {known.amg * rows:.0f} s", **facts)

    name, facts = f"n={n}, cg + jacobi", {**same, "precond": "jacobi"}
    with record.attempt(name, "rows", **facts):
        seconds = known.step * rows * (2 * plan.lengths[0] + plan.lengths[1])
        if not record.fits(seconds):
            record.skip(name, f"no time for an iteration's: some {seconds:.0f} s", **facts)
            return
        facts |= between_lengths(world, plan, A, "jacobi")
        facts |= _bytes(A, n, facts["seconds_per_iteration"])
        known.step = predicted(facts, 1) / rows
        seconds = predicted(facts, known.iterations * n)
        if record.fits(seconds):
            facts |= whole(world, plan, A, b, "jacobi", size.residual, peak)
            known.iterations = facts["iterations"] / n
            record.row(name, facts.pop("solved"), **facts)
        else:
            record.skip(name, f"no time for the whole solve: some {seconds:.0f} s", **facts)


def _larger(facts: dict[str, Any]) -> float:
    """Bytes a row to reckon with at the next size."""
    return 1.1 * facts["peak_bytes_per_row"] if facts["peak_bytes"] else FIRST_BYTES


def _bytes(A: hs.DSparseMatrix, n: int, seconds: float) -> dict[str, Any]:
    """What an iteration of CG with Jacobi moves at least, and how fast that is.

    The matrix counts as products read it.
    """
    packed = A.held.packed or A.held.sliced or packed_of(A.pattern, A.values)
    constant = make_preconditioner("jacobi", A).up_to_a_factor.inverse is None
    vectors = 8 * (VECTORS if constant else VECTORS + 2) * n * n
    plain = csr_bytes(n) + vectors
    moved = plain if packed is None else packed.bytes + vectors
    return {
        "bytes_per_iteration": moved,
        "bytes_per_iteration_csr": plain,
        "tb_per_second": moved / seconds / 1e12,
        "tb_per_second_csr": plain / seconds / 1e12,
    }
