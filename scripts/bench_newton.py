"""Time Newton's method beside PETSc's SNES newtonls on Bratu's problem, in turn.

mpiexec -n 2 python scripts/bench_newton.py bratu2d:n=512,lambda=6
mpiexec -n 2 python scripts/bench_newton.py bratu2d:n=512,lambda=6 --colours

Both: float64, the same rows on the same ranks, CG with multigrid, the Jacobian written out, from
u = 0 to ||F|| <= 1e-8 ||F(u0)||, everything from the residual function on included: assembly,
preconditioner, line search. PETSc's residual is its own product and one NumPy exponential; its
Jacobian gets a new diagonal. It runs with its defaults, with Eisenstat-Walker forcing, and with
that and lagging preconditioner or interpolation; `--ours` are the same choices of ours. `backward`
is the gradient of ||u|| with respect to lambda. `--colours` times a coloured Jacobian in place of
the race.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.nonlinear.coloured import ColouredJacobian
from hpc_sla.nonlinear.equations import Equations, JacobianProducts
from hpc_sla.nonlinear.info import NonlinearInfo
from hpc_sla.reference.petsc import PetscMatrix, load

RTOL = 1e-8
OURS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "lag 1": {"precond_lag": 1},
    "lag 0": {"precond_lag": 0},
    "forcing 1e-5": {"forcing": 1e-5},
    "forcing 1e-5, lag 0": {"forcing": 1e-5, "precond_lag": 0},
    "cg, nothing else named": {"precond": "auto"},
    "nothing named": {"precond": "auto", "linear_method": None},
}
_EW = {"snes_ksp_ew": True}
THEIRS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "EW": _EW,
    "EW, old interpolation": {**_EW, "pc_gamg_reuse_interpolation": True},
    "EW, first PC": {**_EW, "snes_lag_preconditioner": -2},
    "first PC": {"snes_lag_preconditioner": -2},
}


def timed(world: hs.World, function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the slowest rank, and the result. **Collective.**"""
    world.barrier()
    begin = time.perf_counter()
    result = function()
    return world.max(time.perf_counter() - begin), result


class Snes:
    """Bratu's problem by PETSc. **Collective.**"""

    def __init__(self, A: hs.DSparseMatrix, coefficient: float) -> None:
        self.petsc = load()
        self.matrix = PetscMatrix.from_matrix(A)
        self.A, self.coefficient = self.matrix.mat, coefficient
        self.diagonal = A.diagonal().numpy()

    def solve(self, options: dict[str, Any]) -> tuple[Any, ...]:
        """The solution on this rank, Newton and linear iterations. **Collective.**"""
        A = self.A
        J = A.duplicate(copy=True)
        x, f = A.createVecs()
        d = f.duplicate()
        kept = np.empty_like(self.diagonal)

        def function(snes: Any, x: Any, f: Any) -> None:
            A.mult(x, f)
            np.exp(x.array_r, out=kept)
            np.multiply(kept, self.coefficient, out=kept)
            f.array[:] -= kept

        def jacobian(snes: Any, x: Any, J: Any, P: Any) -> None:
            d.array[:] = self.diagonal - self.coefficient * np.exp(x.array_r)
            P.setDiagonal(d)

        snes = self.petsc.SNES().create(A.getComm())
        snes.setOptionsPrefix("hpc_sla_newton_")
        snes.setType("newtonls")
        snes.setFunction(function, f)
        snes.setJacobian(jacobian, J)
        ksp = snes.getKSP()
        ksp.setType("cg")
        ksp.setNormType(self.petsc.KSP.NormType.UNPRECONDITIONED)
        ksp.getPC().setType("gamg")
        given = self.petsc.Options("hpc_sla_newton_")
        for name, value in options.items():
            given[name] = value
        snes.setFromOptions()
        for name in options:
            given.delValue(name)
        # After the options: these say how far, those how.
        snes.setTolerances(rtol=RTOL, atol=1e-50, stol=0.0, max_it=50)
        x.set(0.0)
        snes.solve(None, x)
        assert snes.getConvergedReason() > 0
        found = x.array_r.copy(), snes.getIterationNumber(), snes.getLinearSolveIterations()
        for thing in (snes, J, x, f, d):
            thing.destroy()
        return found


def race(world: hs.World, spec: str, laps: int, precond: str) -> None:
    """Lap after lap, then medians. **Collective.**"""
    problem = problems.make_nonlinear(spec)
    system = problem.on(world)
    A, jacobian = system.A, system.jacobian
    assert jacobian is not None
    lam = system.theta[0]
    zero = system.jacobian(system.u0, 0.0 * lam)  # the Laplacian
    snes = Snes(zero, float(lam) * problem.h**2)
    seconds: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    theirs = np.empty(0)
    for _ in range(laps):
        for name, options in THEIRS.items():
            took, (theirs, newton, linear) = timed(world, lambda o=options: snes.solve(o))
            seconds.setdefault(f"PETSc, {name}", []).append(took)
            notes[f"PETSc, {name}"] = f"{newton} Newton, {linear} CG"
        for name, options in OURS.items():
            leaf = lam.clone().requires_grad_()

            def forward(leaf: torch.Tensor = leaf, options: Any = options) -> Any:
                named = {"linear_method": "cg", "precond": precond, **options}
                return hs.nonlinear_solve(
                    system.residual,
                    system.u0,
                    leaf,
                    pattern=A,
                    jacobian=jacobian,
                    rtol=RTOL,
                    **named,
                )

            took, (u, info) = timed(world, forward)
            assert info.converged
            back, _ = timed(world, lambda u=u: A.layout.norm(u).backward())
            seconds.setdefault(f"ours, {name}", []).append(took)
            seconds.setdefault(f"ours, {name}: backward", []).append(back)
            notes[f"ours, {name}"] = f"{info.iterations} Newton, {sum(info.inner_iterations)} CG"
            notes[f"ours, {name}: backward"] = f"{info.adjoint.iterations} CG"
            apart = world.max(float(np.abs(u.detach().numpy() - theirs).max(initial=0.0)))
    if world.rank:
        return
    middle = {name: median(found) for name, found in seconds.items()}
    print(f"{spec}: {A.shape[0]} rows, {world.size} ranks, medians of {laps} laps")
    print(f"  solutions {apart:.1e} apart")
    for name, took in middle.items():
        print(f"  {name}: {took:.3f} s, {notes[name]}")
    for name in OURS:
        ratios = ", ".join(f"{middle[f'ours, {name}'] / middle[f'PETSc, {k}']:.2f}" for k in THEIRS)
        back = middle[f"ours, {name}: backward"] / middle[f"ours, {name}"]
        print(f"  ours, {name}: over PETSc's {ratios}; backward over forward {back:.2f}")


def colours(world: hs.World, spec: str, laps: int) -> None:
    """What a coloured Jacobian costs. **Collective.**"""
    system = problems.make_nonlinear(spec).on(world)
    info = NonlinearInfo("converged")
    equations = Equations(lambda u: system.residual(u, *system.theta), system.layout, info)
    colour, made = timed(world, lambda: ColouredJacobian(system.A))
    found: dict[str, list[float]] = {"residual": [], "forward": [], "reverse": [], "fd": []}
    u = system.u0 + 0.1
    for _ in range(laps):
        found["residual"].append(timed(world, lambda: equations(u))[0])
        for kind in ("forward", "reverse", "fd"):
            products = JacobianProducts(equations, u, kind)
            found[kind].append(timed(world, lambda p=products: made.assemble(p))[0])
    if not world.rank:
        one = median(found.pop("residual"))
        costs = ", ".join(f"{kind} {median(t) / one:.1f}" for kind, t in found.items())
        print(
            f"{spec}: {made.colours} colours, found in {colour:.2f} s; a residual {one * 1e3:.2f} "
            f"ms; a Jacobian in residuals: {costs} ({world.size} ranks)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--precond", default="amg")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--colours", action="store_true")
    given = parser.parse_args()
    world = hs.World(device="cpu")
    for spec in given.specs:
        if given.colours:
            colours(world, spec, 7)
        else:
            race(world, "bratu2d:n=32,lambda=6", 1, given.precond)  # imports and first calls
            race(world, spec, given.laps, given.precond)


if __name__ == "__main__":
    main()
