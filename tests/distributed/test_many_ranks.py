"""16 ranks, more than small problems have rows for: every solver, to its answer."""

from __future__ import annotations

import json

import pytest

from tests.launch import launch_python

PROGRAM = """
import json, sys
import numpy as np, torch
import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.linear.choices import METHODS

world = hs.World(device="cpu")
file, sizes = sys.argv[1], [int(n) for n in sys.argv[2].split(",")]
found = {}


def distance(A, x, exact):
    return float(A.layout.norm(x - exact) / A.layout.norm(exact))


for n in sizes:
    A = problems.distribute(problems.make(f"poisson2d:n={n}"), world)
    exact = torch.from_numpy(np.sin(1.0 + A.layout.rows))
    b = A @ exact
    for name in METHODS:
        precond = "jacobi" if name == "richardson" else "none"
        x, info = hs.solve(A, b, method=name, precond=precond, rtol=1e-9, max_iterations=20000)
        found[f"{name} {n}"] = distance(A, x, exact), info.status
    x, info = hs.solve(A, b, method="cg", precond="amg", rtol=1e-10)
    found[f"amg {n}"] = distance(A, x, exact), info.status
    w, V, info = hs.eigsh(A, k=2)
    i = np.pi / (n + 1)
    lowest = 4 - 2 * np.cos(i) - 2 * np.cos(np.array([i, 2 * i]))
    found[f"eigsh {n}"] = float(abs(w.numpy() / lowest - 1).max()), info.status
    right = b + 0.1 * exact**3
    u, info = hs.nonlinear_solve(
        lambda u: A @ u + 0.1 * u**3 - right, 0.9 * exact, layout=A.layout, rtol=1e-10
    )
    found[f"newton {n}"] = distance(A, u, exact), info.status

A = hs.DSparseMatrix.from_hdf5(file, world)
exact = torch.from_numpy(np.sin(1.0 + A.layout.rows))
x, info = hs.solve(A, A @ exact, rtol=1e-10)
found["file"] = distance(A, x, exact), info.status
found["ranks"] = world.size, "converged"
if world.rank == 0:
    print(json.dumps(found))
"""


def run(folder, ranks: int, sizes: str, timeout: float) -> dict[str, tuple[float, str]]:
    program = folder / "every_solver.py"
    program.write_text(PROGRAM)
    file = folder / "a.h5"
    made = launch_python(
        0, "-m", "hpc_sla", "partition", "poisson2d:n=12", "-o", str(file), "--parts", "5",
        cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = launch_python(ranks, str(program), str(file), sizes, timeout=timeout, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(500)  # 16 processes that load torch, on as many cores as there are
def test_every_solver_on_16_ranks(tmp_path):
    found = run(tmp_path, 16, "3,12", 400)
    assert found.pop("ranks")[0] == 16
    wrong = {name: said for name, said in found.items() if said[1] != "converged" or said[0] > 1e-5}
    assert len(found) > 20 and not wrong
