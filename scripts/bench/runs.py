"""One run in a process of its own: build a system, or solve it by one of the solvers.

python scripts/bench/runs.py build NAME SYSTEM.npz
mpiexec -n 4 python scripts/bench/runs.py ours SYSTEM.npz RESULT.json '{"method": "gmres"}'

`scripts/bench/corpus.py` starts these; a crash or a hang then costs one run only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp
import systems

RTOL = 1e-8


def true_residual(A: sp.csr_matrix, b: np.ndarray, x: np.ndarray) -> float:
    """||b - A x|| / ||b||, in float64."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(b - A @ x) / np.linalg.norm(b))


def small_ones() -> list[sp.csr_matrix]:
    """Tiny systems to solve first, so that no import or lazy loading is timed.

    One definite, one non-symmetric, one saddle point.
    """
    n = 40
    K = sp.diags([-np.ones(n - 1), 2.5 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1], format="csr")
    N = sp.diags([-np.ones(n - 1), 2.5 * np.ones(n)], [-1, 0], format="csr")
    B = sp.eye(5, n, format="csr")
    return [K, N, sp.bmat([[K, B.T], [B, None]], format="csr")]


def timed(solve: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Median of the wall and of this process's CPU seconds, and the last result."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = solve()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return median(walls), median(cpus), result


def ours(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """**Collective.** Nothing is named but what `options` names."""
    import torch  # only where it is needed: the peers go without

    import hpc_sla as hs

    world = hs.World(device="cpu")
    named = {key: options[key] for key in ("method", "precond") if options.get(key)}
    A, b, known = systems.load(path) if world.rank == 0 else (None, None, {})
    coordinates = known.pop("coordinates", None)
    known = world.comm.bcast(known)
    for matrix in small_ones():
        D = hs.DSparseMatrix.from_scipy(matrix, world)
        with suppress(hs.InputError):  # a method for symmetric ones only, say
            hs.solve(D, torch.ones(D.layout.n_owned, dtype=torch.float64), **named)
    world.comm.barrier()
    start = time.perf_counter()
    D = hs.DSparseMatrix.from_scipy(A, world, coordinates=coordinates, **known)
    right = D.layout.scatter(None if b is None else torch.from_numpy(b))
    world.comm.barrier()
    spread = time.perf_counter() - start

    def solve():
        found = hs.solve(D, right, **named)
        world.comm.barrier()
        return found

    wall, cpu, (x, info) = timed(solve, options["repeats"])
    cpu = world.comm.allreduce(cpu)
    x = D.layout.gather(x)
    if A is None or b is None:
        return None
    return {
        "seconds": wall,
        "cpu": cpu,
        "from_scipy": spread,
        "status": info.status,
        "converged": bool(info.converged),
        "residual": true_residual(A, b, x.numpy()),
        "told": float(info.relative_residual),
        "iterations": int(info.iterations),
        "method": str(info.method),
        "precond": str(info.precond),
        "reason": str(info.reason),
    }


def petsc(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """PETSc's defaults. **Collective.**"""
    return _petsc(path, options)


def petsc_true(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """As `petsc`, but from the right, so that its norm is that of b - A x. **Collective.**"""
    return _petsc(path, options, right=True)


def gamg(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """CG and GAMG, by the true residual's norm. **Collective.**"""
    return _petsc(path, options, "gamg")


def _petsc(
    path: Path, options: dict[str, Any], precond: str | None = None, right: bool = False
) -> dict[str, Any] | None:
    import petsc4py  # optional

    petsc4py.init(["runs.py", "-no_signal_handler"])
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD.tompi4py()
    A, b, known = systems.load(path)

    def place(A: sp.csr_matrix, known: dict[str, Any]) -> PETSc.Mat:
        block = known.get("block_size", 1)
        nodes = A.shape[0] // block
        start, stop = (block * (nodes * rank // comm.size) for rank in (comm.rank, comm.rank + 1))
        rows, n = A[start:stop], A.shape[0]
        rows.sort_indices()
        size = ((stop - start, n), (stop - start, n))
        csr = (rows.indptr.astype(PETSc.IntType), rows.indices.astype(PETSc.IntType), rows.data)
        M = PETSc.Mat().createAIJ(size=size, bsize=block, csr=csr, comm=PETSc.COMM_WORLD)
        M.assemble()
        return M

    def solve(M: PETSc.Mat, b: np.ndarray, known: dict[str, Any]):
        x, vector = M.createVecs()
        start, stop = M.getOwnershipRange()
        vector.getArray()[:] = b[start:stop]
        ksp = PETSc.KSP().create(PETSc.COMM_WORLD)
        ksp.setOperators(M)
        if right:
            ksp.setPCSide(PETSc.PC.Side.RIGHT)
        if precond:
            ksp.setType("cg")
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
            ksp.getPC().setType(precond)
            if "coordinates" in known:
                block = known.get("block_size", 1)
                ksp.getPC().setCoordinates(known["coordinates"][start:stop:block])
        ksp.setTolerances(rtol=RTOL, max_it=10_000)
        ksp.solve(vector, x)
        comm.barrier()
        return ksp, x

    for matrix in small_ones()[:1]:
        solve(place(matrix, {}), np.ones(matrix.shape[0]), {})
    M = place(A, known)
    comm.barrier()
    wall, cpu, (ksp, x) = timed(lambda: solve(M, b, known), options["repeats"])
    cpu = comm.allreduce(cpu)
    parts = comm.gather(x.getArray().copy())
    if parts is None:
        return None
    reason = ksp.getConvergedReason()
    names = {v: k for k, v in vars(PETSc.KSP.ConvergedReason).items() if isinstance(v, int)}
    return {
        "seconds": wall,
        "cpu": cpu,
        "status": names.get(reason, str(reason)),
        "converged": reason > 0,
        "residual": true_residual(A, b, np.concatenate(parts)),
        "iterations": ksp.getIterationNumber(),
        "method": ksp.getType(),
        "precond": ksp.getPC().getType(),
    }


def superlu(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """SciPy's splu as it comes: factor and solve."""
    from scipy.sparse.linalg import splu  # only where it is needed

    A, b, _ = systems.load(path)
    for matrix in small_ones():
        splu(matrix.tocsc()).solve(np.ones(matrix.shape[0]))
    columns = A.tocsc()
    wall, cpu, x = timed(lambda: splu(columns).solve(b), options["repeats"])
    residual = true_residual(A, b, x)
    return {
        "seconds": wall,
        "cpu": cpu,
        "status": "solved" if residual <= RTOL else "inaccurate",
        "converged": residual <= RTOL,
        "residual": residual,
        "iterations": 1,
        "method": "superlu",
        "precond": "",
    }


def main() -> None:
    who, source, target = sys.argv[1:4]
    if who == "build":
        systems.save(systems.SYSTEMS[source], Path(target))
        return
    options = json.loads(sys.argv[4])
    limit = int(options["memory"] * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    solvers = (ours, petsc, petsc_true, gamg, superlu)
    solver = {solver.__name__: solver for solver in solvers}[who]
    try:
        found = solver(Path(source), options)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        if "mpi4py.MPI" in sys.modules:  # else ranks without the error would wait for this one
            sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(1)
        sys.exit(1)
    if found is not None:
        Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
