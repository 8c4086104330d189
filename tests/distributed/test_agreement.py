"""Arguments that differ between ranks: one message on every rank, and nobody waits."""

from __future__ import annotations

import tempfile
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.distributed.agreement import describe
from hpc_sla.precond import AMG, AdditiveSchwarz, BlockJacobi, Chebyshev, Polynomial
from tests.collective import distribute, distribute_once, everywhere, spd_matrix

pytestmark = pytest.mark.mpi


@pytest.fixture
def system(world):
    A = distribute_once(spd_matrix(31, 4), world, "contiguous")
    return A, torch.ones(A.layout.n_owned, dtype=torch.float64)


def refused(world, call, *words):
    """`call` raises the same InputError, with these words, on every rank."""
    with pytest.raises(hs.InputError) as caught:
        call()
    text = str(caught.value)
    assert everywhere(world, all(word in text for word in words)), text
    assert len(set(world.comm.allgather(text))) == 1


def several(world):
    if world.size == 1:
        pytest.skip("one rank agrees with itself")
    return world.rank == world.size - 1


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("rtol", 1e-8, 1e-6),
        ("atol", 0.0, 1e-3),
        ("max_iterations", 10, 11),
        ("max_iterations", None, 5),
        ("method", "cg", "gmres"),
        ("method", "gmres:restart=5", "gmres:restart=6"),
        ("method", "auto", "minres"),
        ("precond", "jacobi", "none"),
        ("precond", "chebyshev:degree=3", "chebyshev:degree=4"),
        ("precond", "amg", lambda r: r),
        ("adjoint_rtol", 1e-8, None),
        ("checkpoint", None, hs.Checkpoint("no such folder/x.h5")),
    ],
)
@pytest.mark.several
def test_of_solve(world, system, name, one, other):
    A, b = system
    mine = other if several(world) else one
    refused(world, lambda: hs.solve(A, b, **{name: mine}), f"solve: {name}", "ranks differ")
    _, info = hs.solve(A, b)  # and all goes on
    assert info.converged


def test_vectors_of_other_kinds(world, system):
    A, b = system
    last = several(world)
    two = torch.stack([b, b], dim=1)
    refused(world, lambda: hs.solve(A, two if last else b), "solve: b", "float64 [n, 2]")
    refused(world, lambda: hs.solve(A, b, x0=b if last else None), "solve: x0")
    refused(world, lambda: hs.eigsh(A, 2, x0=two if last else b), "eigsh: x0")
    refused(world, lambda: A.layout.gather(two if last else b), "gather: x")


def test_what_does_not_matter_may_differ(world, system):
    A, b = system
    first = world.rank == 0
    _, info = hs.solve(
        A,
        b,
        rtol=1e-8 if first else np.float64(1e-8),
        atol=0 if first else 0.0,
        max_iterations=100 if first else np.int64(100),
        callback=(lambda i, norm: None) if first else None,
        precond=(lambda r: r) if first else (lambda r: 1.0 * r),
    )
    assert info.status in ("converged", "max_iterations")


def other_file(world, A, b, last):
    path = world.comm.bcast(tempfile.mkdtemp() if world.rank == 0 else None) + "/a.h5"
    if world.rank == 0:
        hs.SparseTensor(torch.ones(3), range(3), range(3), (3, 3)).save(path)
    world.barrier()
    return hs.DSparseMatrix.from_hdf5(5 if last else path, world)


def spread(world, seed=0, **how):
    matrix = spd_matrix(12, 1 + seed)
    return hs.DSparseMatrix.from_scipy(matrix, world, **how)


def ring(world, *, wide=0, columns=None, layout=None):
    rows = hs.RowLayout.even(8, world).rows
    shape = (8, 8 + wide)
    return hs.DSparseMatrix.from_coo(rows, rows, rows * 1.0, shape, world, columns, layout)


def replicated_loss(world, theta):
    world.all_sum((world.replicate(theta).double() ** 2).sum()).backward()


def two(last, requires_grad=False, dtype=torch.float64):
    return torch.ones(2 + last, dtype=dtype, requires_grad=requires_grad)


def newton(name, values, world, A, b, last):
    argument = {name.rstrip("."): values(A)[last]}
    return hs.nonlinear_solve(lambda u: A @ u - b, b, layout=A.layout, **argument)


NEWTON = {
    "jacobian": lambda A: ("auto", "matrix_free"),
    "jacobian.": lambda A: ("auto", lambda u: A),
    "pattern": lambda A: (None, A),
    "atol": lambda A: (0.0, 1e-3),
    "forcing": lambda A: (None, 0.1),
    "linear_max_iterations": lambda A: (None, 7),
    "adjoint_rtol": lambda A: (None, 1e-9),
    "fixed_point": lambda A: (None, lambda u: u),
    "precond": lambda A: ("none", "jacobi"),
}

COLLECTIVE = {
    "World: transport": lambda w, A, b, i: hs.World(w.comm, "cpu", ("mpi", "gloo")[i]),
    "path: 5 is not a path": other_file,
    "from_scipy: partition": lambda w, A, b, i: spread(w, partition=("metis", "contiguous")[i]),
    "from_scipy: partition.": lambda w, A, b, i: spread(w, partition=(None, "metis")[i]),
    "from_scipy: partition..": lambda w, A, b, i: spread(
        w, partition=(np.zeros(12, dtype=int), "metis")[i]
    ),
    "from_scipy: column_partition": lambda w, A, b, i: hs.DSparseMatrix.from_scipy(
        sp.csr_matrix((3, 5)), w, column_partition=("majority", "contiguous")[i]
    ),
    "from_scipy: matrix": lambda w, A, b, i: spread(w, seed=i),
    "from_scipy: matrix.": lambda w, A, b, i: hs.DSparseMatrix.from_scipy(
        sp.csr_matrix(np.diag([1.0, 2.0 + i])), w
    ),
    "from_scipy: layout": lambda w, A, b, i: hs.DSparseMatrix.from_scipy(
        None, w, layout=(A.layout, None)[i]
    ),
    "from_scipy: columns": lambda w, A, b, i: hs.DSparseMatrix.from_scipy(
        None, w, columns=(A.layout, None)[i]
    ),
    "from_scipy: block_size": lambda w, A, b, i: spread(w, block_size=1 + i),
    "from_coo: shape": lambda w, A, b, i: ring(w, wide=i),
    "from_coo: layout": lambda w, A, b, i: ring(w, layout=(None, hs.RowLayout.even(8, w))[i]),
    "from_coo: columns": lambda w, A, b, i: ring(
        w, wide=1, columns=(None, np.zeros(0, dtype=int))[i]
    ),
    "replicate: tensor": lambda w, A, b, i: replicated_loss(w, two(i, True)),
    "replicate: tensor.": lambda w, A, b, i: replicated_loss(
        w, two(0, True, (torch.float64, torch.float32)[i])
    ),
    "replicate: tensor..": lambda w, A, b, i: replicated_loss(w, two(i, True) * 2),
    "replicate_module: broadcast": lambda w, A, b, i: w.replicate_module(
        torch.nn.Linear(1, 1), broadcast=not i
    ),
    "requires_grad of the parameters": lambda w, A, b, i: w.replicate_module(
        torch.nn.Linear(1, 1 + i)
    ),
    "nonlinear_solve: u0": lambda w, A, b, i: hs.nonlinear_solve(
        lambda u: u - 1, (b, torch.stack([b, b], 1))[i], layout=A.layout
    ),
    "gather: x": lambda w, A, b, i: A.layout.gather((b, b[:, None])[i]),
    "solve: dtol": lambda w, A, b, i: hs.solve(A, b, dtol=1e5 + i),
    "eigsh: max_iterations": lambda w, A, b, i: hs.eigsh(A, 1, max_iterations=5 + i),
    "eigsh: B": lambda w, A, b, i: hs.eigsh(A, 1, B=(None, A)[i]),
    "eigsh: precond": lambda w, A, b, i: hs.eigsh(A, 1, precond=("jacobi", None)[i]),
    "eigsh: deflate": lambda w, A, b, i: hs.eigsh(A, 1, deflate=(None, b)[i]),
    "eigsh: adjoint_rtol": lambda w, A, b, i: hs.eigsh(A, 1, adjoint_rtol=(None, 1e-3)[i]),
    "AMG: cycle": lambda w, A, b, i: AMG(cycle="VW"[i]).on(A),
    "AMG: near_nullspace": lambda w, A, b, i: AMG(near_nullspace=(None, b)[i]).on(A),
    "Chebyshev: eigenvalue_ratio": lambda w, A, b, i: Chebyshev(3, eigenvalue_ratio=4.0 + i).on(A),
    "AdditiveSchwarz: type": lambda w, A, b, i: AdditiveSchwarz(1, ("restrict", "basic")[i]).on(A),
    "AdditiveSchwarz: factor": lambda w, A, b, i: AdditiveSchwarz(factor=("ilu0", "lu")[i]).on(A),
    "BlockJacobi: backend": lambda w, A, b, i: BlockJacobi("lu", ("auto", "scipy")[i]).on(A),
    **{
        f"nonlinear_solve: {name}": partial(newton, name, values) for name, values in NEWTON.items()
    },
}


@pytest.mark.parametrize("words", COLLECTIVE)
@pytest.mark.several
def test_of_all_collective_functions(world, system, words):
    """The last rank says something else: all hear of it, and nobody waits."""
    A, b = system
    last = int(several(world))
    refused(world, lambda: COLLECTIVE[words](world, A, b, last), words.rstrip("."), "rank")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("k", 2, 3), ("which", "smallest", "largest"), ("tol", 1e-8, 1e-6), ("guard", 2, 4)],
)
@pytest.mark.several
def test_of_eigsh(world, system, name, one, other):
    mine = {"k": 2, name: other if several(world) else one}
    refused(world, lambda: hs.eigsh(system[0], **mine), f"eigsh: {name}")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("rtol", 1e-8, 1e-6),
        ("method", "newton", "picard"),
        ("linear_method", "gmres", "cg"),
        ("precond_lag", 1, 2),
        ("jvp", "forward", "reverse"),
        ("line_search", True, False),
        ("line_search", np.True_, np.False_),
        ("max_iterations", None, 3),
    ],
)
@pytest.mark.several
def test_of_nonlinear_solve(world, system, name, one, other):
    A, b = system
    mine = other if several(world) else one
    call = lambda: hs.nonlinear_solve(lambda u: A @ u - b, b, layout=A.layout, **{name: mine})  # noqa: E731
    refused(world, call, f"nonlinear_solve: {name}")


def test_of_preconditioners(world, system):
    A, _ = system
    last = int(several(world))
    refused(world, lambda: Chebyshev(degree=3 + last).on(A), "Chebyshev: degree", "4 on rank")
    refused(world, lambda: Polynomial(degree=3 + last).on(A), "Polynomial: degree")
    refused(world, lambda: BlockJacobi(("ilu0", "ic0")[last]).on(A), "BlockJacobi: factor")
    refused(world, lambda: AdditiveSchwarz(overlap=1 + last).on(A), "AdditiveSchwarz: overlap")
    refused(world, lambda: AMG(degree=2 + last).on(A), "AMG: degree")
    M = AMG().on(A)
    refused(world, lambda: M.update(A, ("prolongators", "aggregates")[last]), "AMG.update: keep")


def test_of_constructors(world, folder):
    last = int(several(world))
    matrix = sp.identity(6, format="csr")
    none = np.zeros(0, dtype=np.int64)
    call = lambda: hs.DSparseMatrix.from_coo(none, none, none * 1.0, (6, 6 + last), world)  # noqa: E731
    refused(world, call, "from_coo: shape")
    call = lambda: hs.DSparseMatrix.from_scipy(matrix, world, block_size=1 + last)  # noqa: E731
    refused(world, call, "from_scipy: block_size")
    problem = problems.make(f"poisson2d:n={4 + last}")
    refused(world, lambda: problems.distribute(problem, world), "distribute: problem")
    for i in (0, 1):
        if world.rank == 0:
            hs.SparseTensor(torch.ones(4 + i), range(4 + i), range(4 + i), (4 + i, 4 + i)).save(
                folder / f"{i}.h5"
            )
    world.barrier()
    call = lambda: hs.DSparseMatrix.from_hdf5(folder / f"{last}.h5", world)  # noqa: E731
    refused(world, call, "different files")
    kinds = (torch.float64, torch.float32)
    call = lambda: hs.DSparseMatrix.from_hdf5(folder / "0.h5", world, kinds[last])  # noqa: E731
    refused(world, call, "from_hdf5: dtype", "float32")
    refused(world, lambda: hs.World(device="cpu", transport=("mpi", "gloo")[last]), "transport")


def test_ranks_in_different_functions(world, system):
    A, b = system
    last = several(world)
    refused(
        world,
        lambda: hs.eigsh(A) if last else hs.solve(A, b),
        "different functions",
        "solve on rank",
        "eigsh on rank",
    )
    refused(world, lambda: Chebyshev().on(A) if last else hs.solve(A, b), "Chebyshev on rank")
    refused(world, lambda: A.layout.scatter(b) if last else hs.solve(A, b), "scatter on rank")


def test_ranks_hear_what_they_do_not_have_in_common(world):
    with world.agree("f", a=1) as agreed:
        agreed.say(world.rank // 2)
    assert set(agreed.heard) == {rank // 2 for rank in range(world.size)}


def test_descriptions():
    assert describe(1.0) == describe(np.float32(1)) == describe(1)
    assert describe(torch.zeros(3, 2)) == describe(np.zeros((9, 2), dtype=np.float32))
    assert describe(torch.zeros(3)) != describe(torch.zeros(3, 1))
    assert describe(AMG()) != describe(AMG(degree=9))
    assert describe({"a": (1, None, "x")}) == {"a": [1, None, "x"]}
    assert describe(np.True_) is True and describe(np.False_) is False
    assert describe(np.str_("cg")) == "cg" and type(describe(np.str_("cg"))) is str
    assert describe(float("nan")) != describe(0.0)
    assert repr(describe(float("inf"))) == "inf"


CLOSED = {
    "A @ x": lambda A, x: A @ x,
    "A.T @ x": lambda A, x: A.T @ x,
    "halo": lambda A, x: A.halo(x),
    "solve": hs.solve,
    "eigsh": lambda A, x: hs.eigsh(A, 2),
    "amg": lambda A, x: AMG().on(A),
    "dot": lambda A, x: A.layout.dot(x, x),
    "gather": lambda A, x: A.layout.gather(x),
    "from_scipy": lambda A, x: distribute(spd_matrix(9, 1), A.world),
    "from_hdf5": lambda A, x: hs.DSparseMatrix.from_hdf5("x.h5", A.world),
    "nonlinear_solve": lambda A, x: hs.nonlinear_solve(lambda u: A @ u - x, x, layout=A.layout),
    "all_sum": lambda A, x: A.world.all_sum(x),
    "sum": lambda A, x: A.world.sum(1.0),
    "max": lambda A, x: A.world.max(1.0),
    "barrier": lambda A, x: A.world.barrier(),
    "comm": lambda A, x: A.world.comm.rank,
}


def test_a_closed_world_says_so_whatever_is_asked_of_it(any_world):
    with hs.World(any_world.comm, any_world.device, any_world.transport.name) as part:
        A = distribute(spd_matrix(9, 1), part)
        x = torch.ones(A.layout.n_owned, dtype=torch.float64)
        y = A @ x
    assert part.closed and "closed" in repr(part)
    for call in CLOSED.values():
        with pytest.raises(hs.HpcSlaError, match="World has been closed"):
            call(A, x)
    part.close()
    assert everywhere(any_world, bool(y.isfinite().all()))
