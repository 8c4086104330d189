"""Time and weigh one of our solvers beside PETSc's, on the same rows, ranks and stopping rule.

How each figure is measured
---------------------------
A *lap* of one contender goes from the file, or the generator, to the solution: each rank reads or
makes its own rows, the matrix is built, the method solves, everything is freed. Laps of the two
alternate (ours, PETSc's, PETSc's, ours, ...), so that a drift of the machine meets both. Before the
first lap both run a small problem, so that loading libraries and starting thread pools is charged
to neither, and every rank has its rows once, so that both find a file in the page cache.

- *set-up*: from a barrier to the matrix and right-hand side being ready on every rank. Both read
  the slab of a file with the same reader; ours takes a generator's rows by blocks, PETSc all at
  once. Ours finds its halo here; PETSc copies the CSR arrays into its AIJ matrix (which is where
  its memory peaks) and sets up its KSP and PC.
- *solve*: from a barrier to the solution on every rank, initial guess zero. Ours includes its
  preconditioner's set-up and the final true residual b - A x, which PETSc does not compute.
- *time per iteration*: solve over that contender's own iteration count.
- *peak memory*: within one process, the kernel's peak counter is reset at the start of a lap and
  read at its end; the growth over the resident size at the start, summed over ranks. Freed pages
  are handed back to the kernel between laps, so that neither lives off what the other left. The
  largest lap counts.

PETSc's KSP and PC are those that `hpc_sla.reference.krylov` gives for our names, and where these
are left open for what a solve ahead of the race has chosen. Where its method has it, the
*unpreconditioned* residual norm is tested (its default is the preconditioned one), so both stop by
||r|| <= rtol ||b||. It runs as many BLAS threads a rank as torch does. Times are those of the
slowest rank; of several laps the median is taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from hpc_sla.distributed.world import World
from hpc_sla.linear import solve
from hpc_sla.observe.memory import peak_rss_bytes, release_free_memory, reset_peak, rss_bytes
from hpc_sla.problems.system import NamedSystem
from hpc_sla.reference.petsc import PetscMatrix


@dataclass(frozen=True)
class Task:
    """The system that both contenders solve, and how.

    Attributes
    ----------
    system : NamedSystem
        Which one.
    rtol : float
    max_iterations : int
    method, precond : str
        Ours; "auto" where it is left open.
    """

    system: NamedSystem
    rtol: float
    max_iterations: int
    method: str
    precond: str


@dataclass(frozen=True)
class Lap:
    """One contender, from the rows to the solution; seconds of the slowest rank.

    `peak_bytes` is the growth of the resident size, summed over ranks; None where the kernel's
    counter cannot be reset.
    """

    set_up: float
    solve: float
    iterations: int
    converged: bool
    peak_bytes: float | None


class Contender(Protocol):
    """A solver in the race. Every method is **Collective.**"""

    name: str

    def set_up(self, task: Task) -> None:
        """From the rows to a matrix and a right-hand side."""

    def solve(self) -> tuple[int, bool]:
        """From zero to the solution; the iterations, and whether it converged."""

    def free(self) -> None:
        """Let go of everything."""


class Ours:
    """Our solver in the race, `hpc_sla.solve`."""

    name = "hpc_sla"

    used = ("", "")
    """Method and preconditioner of the last solve."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._state: Any = None

    def set_up(self, task: Task) -> None:
        A = task.system.matrix(self._world)
        self._state = (A, task.system.right_hand_side(A.layout), task)

    def solve(self) -> tuple[int, bool]:
        A, b, task = self._state
        _x, info = solve(
            A, b, task.method, task.precond, rtol=task.rtol, max_iterations=task.max_iterations
        )
        self.used = info.method, info.precond
        return info.iterations, info.converged

    def free(self) -> None:
        self._state = None


class Petsc:
    """PETSc's solver in the race: the counterpart KSP and PC on a MATAIJ.

    Of this method and preconditioner, which the task may leave open.
    """

    name = "PETSc"

    def __init__(self, world: World, method: str, precond: str) -> None:
        self._world, self._names = world, (method, precond)
        self._state: Any = None

    def set_up(self, task: Task) -> None:
        n, rows, b = task.system.arrays(self._world)
        matrix = PetscMatrix(self._world.comm, n, *rows)
        # PETSc holds its own copy now; ours would be charged to it.
        matrix.forget_source()
        del rows
        limit = task.max_iterations
        ksp = matrix.solver(*self._names, task.rtol, 0.0, limit).ksp
        ksp.setUp()
        right = matrix.vector(b)
        self._state = (matrix, ksp, right, right.duplicate())

    def solve(self) -> tuple[int, bool]:
        _matrix, ksp, right, x = self._state
        ksp.solve(right, x)
        return int(ksp.getIterationNumber()), int(ksp.getConvergedReason()) > 0

    def free(self) -> None:
        matrix, *others = self._state
        for item in others:
            item.destroy()
        matrix.close()
        self._state = None


def race(
    contenders: Sequence[Contender], task: Task, warm_up: Task, world: World, laps: int
) -> dict[str, list[Lap]]:
    """Run the laps. **Collective.**

    Parameters
    ----------
    contenders : sequence of Contender
    task : Task
        What is measured.
    warm_up : Task
        A small problem that both run first.
    world : World
    laps : int
        Of each contender.

    Returns
    -------
    dict of name to list of Lap
    """
    for contender in contenders:
        run_lap(contender, warm_up, world)
    task.system.arrays(world)
    done: dict[str, list[Lap]] = {contender.name: [] for contender in contenders}
    for number in range(laps):
        order = contenders if number % 2 == 0 else contenders[::-1]
        for contender in order:
            done[contender.name].append(run_lap(contender, task, world))
    return done


def run_lap(contender: Contender, task: Task, world: World) -> Lap:
    """Run one lap of a contender, from the rows to the solution. **Collective.**"""
    release_free_memory()
    before = rss_bytes() or 0
    measured = reset_peak() is None
    world.barrier()
    begin = time.perf_counter()
    contender.set_up(task)
    world.barrier()
    ready = time.perf_counter()
    iterations, converged = contender.solve()
    world.barrier()
    end = time.perf_counter()
    growth = float(peak_rss_bytes() - before)
    contender.free()
    known = world.sum(float(measured)) == world.size
    total = world.sum(growth)
    return Lap(
        set_up=world.max(ready - begin),
        solve=world.max(end - ready),
        iterations=iterations,
        converged=converged,
        peak_bytes=total if known else None,
    )


def summarise(laps: Sequence[Lap]) -> dict[str, Any]:
    """Medians of one contender's laps, ready for JSON."""
    iterations = laps[0].iterations
    solve = median(lap.solve for lap in laps)
    peaks = [lap.peak_bytes for lap in laps if lap.peak_bytes is not None]
    return {
        "iterations": iterations,
        "converged": all(lap.converged for lap in laps),
        "seconds_per_iteration": solve / max(iterations, 1),
        "seconds_set_up": median(lap.set_up for lap in laps),
        "seconds_solve": solve,
        "seconds_total": median(lap.set_up + lap.solve for lap in laps),
        "peak_bytes": max(peaks) if len(peaks) == len(laps) else None,
        "laps_solve": [lap.solve for lap in laps],
        "laps_set_up": [lap.set_up for lap in laps],
        "laps_peak_bytes": [lap.peak_bytes for lap in laps],
    }


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs; None where either is missing or theirs is zero."""
    if ours is None or not theirs:
        return None
    return ours / theirs
