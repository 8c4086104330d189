"""Where the memory of a solve goes, and how near its iterations come to the speed of memory.

*Held* is counted: the tensors and arrays that each owner leads to, at the end of the solve. *Took*
is the kernel's: the growth of the resident size from before the matrix, with the peaks of the three
stages (build, set-up, solve), of which the counter is set back before each. The difference of a
peak and of what is held afterwards is transient. All are summed over ranks.

*Moved* is what an iteration reads and writes at least, once for each pass that it makes: entries
and indices of the matrix, and vectors. A STREAM triad (McCalpin; a = b + s c, 24 bytes an entry as
there) on all ranks at once says what the machine can move.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from hpc_sla.distributed.world import World
from hpc_sla.linear.linear_solver import LinearSolver
from hpc_sla.linear.method import Method
from hpc_sla.observe.held import held_bytes
from hpc_sla.observe.memory import peak_rss_bytes, release_free_memory, reset_peak, rss_bytes
from hpc_sla.precond import AMG, Preconditioner
from hpc_sla.precond.amg.cycle import MultigridLevel
from hpc_sla.sparse.matrix import DSparseMatrix

_TRIAD = 1 << 23
"""Entries of a rank's vectors in the triad: 64 MiB each, more than caches hold."""

VECTORS = {"cg": 12, "bicgstab": 25, "minres": 20, "pipelined_cg": 29}
"""Vectors that a step with a pointwise preconditioner reads and writes, its diagonal among them:
those of the products (one read, one written) and of the passes in kernels/fused.py and passes.py.
"""

PRODUCTS = {"bicgstab": 2}
"""Products of a step, where there is not one."""

_PARTS = {"operator": ("operator", "steps"), "transfer": ("transfer", "shrink")}
"""Attributes of a multigrid level that are told apart from the rest of it."""


@dataclass
class Stage:
    """One of build, set-up and solve, over all ranks.

    Attributes
    ----------
    seconds : float
        Of the slowest rank.
    after, peak : float or None
        Bytes over what the process had before the matrix; None where the kernel does not tell.
    """

    seconds: float
    after: float | None
    peak: float | None


@dataclass
class Weight:
    """What was found. Replicated; bytes over all ranks.

    Attributes
    ----------
    rows, iterations : int
    converged : bool
    method, precond : str
    held : dict of owner to bytes
    stages : dict of name to Stage
    moved : float or None
        An iteration's bytes; None for a method or preconditioner whose passes are not known.
    seconds_per_iteration : float
        Solve over iterations.
    triad : float
        Bytes a second.
    """

    rows: int
    iterations: int
    converged: bool
    method: str
    precond: str
    held: dict[str, int]
    stages: dict[str, Stage] = field(default_factory=dict)
    moved: float | None = None
    seconds_per_iteration: float = 0.0
    triad: float = 0.0

    @property
    def achieved(self) -> float | None:
        """The part of the triad's speed that iterations reach."""
        if self.moved is None or not self.seconds_per_iteration or not self.triad:
            return None
        return self.moved / self.seconds_per_iteration / self.triad


def weigh(
    world: World,
    build: Callable[[], tuple[DSparseMatrix, torch.Tensor]],
    method: str,
    precond: str,
    rtol: float | None,
    max_iterations: int | None,
) -> Weight:
    """Solve once and tell. **Collective.**

    Parameters
    ----------
    world : World
    build : callable
        Gives the matrix and the right-hand side [n_owned]; **Collective.**
    method, precond : str
    rtol : float, optional
    max_iterations : int, optional
    """
    scale = _Scale(world)
    A, b = scale.stage("build", build)
    solver = LinearSolver(A, method, precond, rtol, max_iterations=max_iterations)
    scale.stage("set-up", solver.set_up)
    working = _watched(solver)
    x, info = scale.stage("solve", lambda: solver.solve(b))
    held = held_bytes(_owners(solver, b, x, working[-1] if working else None), [world])
    moved = _moved(solver)
    return Weight(
        A.shape[0],
        info.iterations,
        info.converged,
        info.method,
        info.precond,
        {name: int(world.sum(size)) for name, size in held.items()},
        scale.stages,
        None if moved is None else world.sum(moved),
        scale.stages["solve"].seconds / max(info.iterations, 1),
        _triad(world),
    )


class _Scale:
    """Runs stages and weighs the process between them. **Collective.**"""

    def __init__(self, world: World) -> None:
        self._world, self.stages = world, dict[str, Stage]()
        release_free_memory()
        self._before = rss_bytes() or 0

    def stage(self, name: str, run: Callable[[], Any]) -> Any:
        world = self._world
        told = reset_peak() is None
        world.barrier()
        begin = time.perf_counter()
        result = run()
        seconds = world.max(time.perf_counter() - begin)
        peak = peak_rss_bytes() - self._before
        release_free_memory()
        after = (rss_bytes() or 0) - self._before
        if world.sum(int(told)) < world.size:
            self.stages[name] = Stage(seconds, None, None)
        else:
            self.stages[name] = Stage(seconds, world.sum(after), world.sum(peak))
        return result


def _watched(solver: LinearSolver) -> list[Method]:
    """The methods at work in the solves to come, which outlive them here. Local."""
    found: list[Method] = []
    on = solver.method.on

    def watch(system: Any) -> Method:
        found[:] = [on(system)]
        return found[0]

    solver.method.on = watch  # type: ignore[method-assign]
    return found


def _owners(
    solver: LinearSolver, b: torch.Tensor, x: torch.Tensor, working: Method | None
) -> dict[str, Any]:
    """What there is to own anything, in the order in which it counts. **Collective.**"""
    A, M = solver.A, solver.precond
    owners: dict[str, Any] = {"layout": [A.layout, A.columns], "matrix": [A, solver.operator]}
    owners |= {"right-hand side": b, "solution": x}
    if isinstance(M, AMG):
        levels = _levels(M)
        for depth in range(int(A.world.max(len(levels)))):  # fewer where ranks have no part
            level = levels[depth] if depth < len(levels) else None
            for part, names in _PARTS.items():
                owners[f"multigrid, level {depth}: {part}"] = [
                    getattr(level, n, None) for n in names
                ]
            owners[f"multigrid, level {depth}: vectors, rest"] = level
    owners["preconditioner" if len(owners) == 4 else "multigrid, rest"] = M
    owners["method's vectors"] = working
    owners["solver, rest"] = vars(solver)
    return owners


def _levels(M: Preconditioner) -> list[MultigridLevel]:
    """This rank's, and none where it has no part. Local."""
    return list(M.hierarchy.levels) if isinstance(M, AMG) else []


def _moved(solver: LinearSolver) -> float | None:
    """This rank's bytes an iteration. Local."""
    A, M, name = solver.A, solver.precond, solver.method.name
    if name not in VECTORS or not (M.pointwise or isinstance(M, AMG)):
        return None
    vector = A.layout.n_owned * torch.finfo(A.dtype).bits // 8
    matrix = held_bytes({"": A.layout, "matrix": A}, [A.world])["matrix"]
    diagonals = 2 if M.up_to_a_factor.inverse is None else 0  # of a pass each, in what is counted
    total = PRODUCTS.get(name, 1) * matrix + (VECTORS[name] - diagonals) * vector
    return total + sum(map(_cycle_bytes, _levels(M)))


def _cycle_bytes(level: MultigridLevel) -> float:
    """What one visit to the level moves: smoothing, residual, both transfers. Local."""
    steps = len(level.steps.coefficients)
    vector = level.steps.inverse.numel() * level.steps.inverse.element_size()
    if level.transfer is None:
        return held_bytes({"": level.layout, "direct": level.direct})["direct"]
    sizes = held_bytes({"": level.layout, "A": level.operator, "P": level.transfer})
    # From zero a step is a product by the diagonal (3 vectors); others read x, b, the diagonal and
    # what came before, and write two; the residual is three, a transfer two and the coarse vector.
    products, vectors = 2 * steps, 3 + 6 * (2 * steps - 1) + 3 + 4
    return products * sizes["A"] + vectors * vector + 2 * sizes["P"]


def _triad(world: World) -> float:
    """Bytes a second of a triad on all ranks at once. **Collective.**"""
    a, b, c = (
        torch.full((_TRIAD,), float(i), dtype=torch.float64, device=world.device) for i in range(3)
    )
    times = []
    for _ in range(5):
        world.barrier()
        begin = time.perf_counter()
        torch.add(b, c, alpha=3.0, out=a)
        times.append(world.max(time.perf_counter() - begin))
    return world.size * 3 * a.numel() * a.element_size() / median(times[1:])
