"""How multigrid's levels lie on ranks, counted: entries of the busiest, messages of a V-cycle.

python scripts/bench/agglomeration.py poisson3d:n=64 --ranks 64,256     # simulated, by one process
mpiexec -n 16 python scripts/bench/agglomeration.py poisson2d:n=200     # real, and solved

`busiest` is the largest sum over levels of a rank's entries, over what it would be if all ranks had
the same: the finest level's share times the operator complexity. `apart` is what the messages
were if vectors went to fewer ranks in messages of their own, after those of the restriction.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from simulated_ranks import SimulatedLevels, Words

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.partition import order_by_part, partition
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.options import options_of, parse_options


def _ordered(problem: Any, ranks: int, method: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """The matrix by parts, the stored order, the parts' offsets."""
    matrix = sp.csr_matrix(problem.rows(0, problem.n_rows))
    part = partition(matrix, ranks, method, None, problem.block_size)
    order, offsets = order_by_part(part, ranks)
    return matrix[order][:, order], order, offsets


def simulated(problem: Any, ranks: int, options: dict[str, Any], method: str) -> dict[str, Any]:
    """Levels as so many ranks would make them."""
    matrix, order, offsets = _ordered(problem, ranks, method)
    B = np.ones((problem.n_rows, 1))
    if problem.block_size > 1:
        B = np.asarray(problem.near_nullspace(0, problem.n_rows))[order]
    chosen = AmgOptions(**{**options, "block_size": problem.block_size})
    made = SimulatedLevels(sp.csr_matrix(matrix), B, chosen, offsets)
    levels = [
        [each.rows, each.nonzeros, size]
        for each, size in zip(made.summaries, made.sizes, strict=True)
    ]
    return {
        "levels": levels,
        **_figures(np.sum(made.held, axis=0), made.held[0], levels),
        "messages": _most(made.after),
        "apart": _most(made.before),
    }


def real(problem: Any, options: dict[str, Any], method: str) -> dict[str, Any] | None:
    """The same of these ranks, and the iterations of CG. **Collective.**"""
    world = hs.World(device="cpu")
    n, block = problem.n_rows, problem.block_size
    matrix = sp.csr_matrix(problem.rows(0, n)) if world.rank == 0 else None
    how = method
    if block > 1:
        how = partition(problem.rows(0, n), world.size, method, None, block)
    A = hs.DSparseMatrix.from_scipy(matrix, world, partition=how)
    near = None
    if block > 1:
        near = np.asarray(problem.near_nullspace(0, n))[A.layout.rows]
    M = hs.AMG(**{**options, "block_size": block}, near_nullspace=near).on(A)
    held = [level.operator.pattern.nnz_owned for level in M.hierarchy.levels]
    rhs = np.asarray(problem.rhs(problem.default_rhs, 0, n)) if world.rank == 0 else None
    b = A.layout.scatter(rhs)
    _, info = hs.solve(A, b, method="cg", precond=M, max_iterations=200)
    mine = sum(held), held[0], *_messages(M)
    table = np.array(world.comm.allgather(mine))
    levels = [[each.rows, each.nonzeros, each.ranks] for each in M.levels]
    return {
        "levels": levels,
        **_figures(table[:, 0], table[:, 1], levels),
        "messages": _most(Words(table[:, 2], table[:, 3])),
        "apart": _most(Words(table[:, 4], table[:, 5])),
        "iterations": info.iterations,
        "converged": info.converged,
        "rank": world.rank,
    }


def _messages(M: hs.AMG) -> tuple[int, int, int, int]:
    """What this rank sends in one V-cycle: messages, numbers; and the same apart."""
    merged, apart = np.zeros(2, dtype=int), np.zeros(2, dtype=int)
    kept = [*M.hierarchy._kept, None]
    for level, made in zip(M.hierarchy.levels, kept, strict=False):
        if level.direct is not None:
            continue
        sends = level.operator.pattern.plan.sends
        product = np.array([len(sends.ranks), sends.total]) * 2 * M.degree
        merged, apart = merged + product, apart + product
        if made is None or level.transfer is None:
            continue
        there = _both(level.transfer.plan)
        merged = merged + there
        apart = apart + (there if made.move is None else _both(made.plan) + _gathered(made.move))
    return (*map(int, merged), *map(int, apart))


def _both(plan: Any) -> np.ndarray:
    parts = plan.sends, plan.receives
    return np.array([sum(len(p.ranks) for p in parts), sum(p.total for p in parts)])


def _gathered(move: Any) -> np.ndarray:
    """A vector to its new owners, and back."""
    before, after, world = move._before.offsets, move.among_all.offsets, move.among_all.world
    found = np.zeros(2, dtype=int)
    for mine, others in ((before, after), (after, before)):
        start, end = mine[world.rank : world.rank + 2]
        overlap = np.minimum(end, others[1:]) - np.maximum(start, others[:-1])
        overlap[world.rank] = 0
        found += np.array([(overlap > 0).sum(), overlap[overlap > 0].sum()])
    return found


def _figures(held: np.ndarray, finest: np.ndarray, levels: list[list[int]]) -> dict[str, Any]:
    entries = [each[1] for each in levels]
    return {
        "busiest": float(held.max() / held.mean()),
        "finest": float(finest.max() / finest.mean()),
        "complexity": sum(entries) / entries[0],
    }


def _most(words: Words) -> dict[str, int]:
    return {
        "all": int(words.messages.sum()),
        "most": int(words.messages.max()),
        "numbers": int(words.numbers.sum()),
        "most_numbers": int(words.numbers.max()),
    }


def _tell(spec: str, ranks: int, how: str, found: dict[str, Any]) -> None:
    print(f"{spec}, {ranks} ranks {how}")
    for rows, entries, size in found["levels"]:
        print(f"  {rows:>9} rows {entries:>10} entries {size:>4} ranks {entries / size:>9.0f} each")
    line = "busiest {busiest:.2f} (finest level {finest:.2f}), complexity {complexity:.2f}"
    print("  " + line.format(**found))
    for name in ("messages", "apart"):
        line = "{all} of all ranks, {most} of one; {numbers} numbers, {most_numbers} of one"
        print(f"  {name} of a cycle: " + line.format(**found[name]))
    if "iterations" in found:
        print(f"  {found['iterations']} iterations of CG, converged: {found['converged']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+", help="generators, such as poisson3d:n=48")
    parser.add_argument("--ranks", default="64", help="simulated, where no launcher starts several")
    parser.add_argument("--amg", default="", help="options, such as rows_per_rank=1000")
    parser.add_argument("--partition", default="metis")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = parse_options("amg", given.amg, options_of(AmgOptions.__init__))
    from mpi4py import MPI

    several = MPI.COMM_WORLD.size
    for spec in given.specs:
        problem = problems.make(spec)
        for ranks in [several] if several > 1 else map(int, given.ranks.split(",")):
            if several > 1:
                found, how = real(problem, options, given.partition), ""
            else:
                found, how = simulated(problem, ranks, options, given.partition), "(simulated)"
            if found.pop("rank", 0):
                continue
            if given.json:
                print(json.dumps({"spec": spec, "ranks": ranks, **found}))
            else:
                _tell(spec, ranks, how, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
