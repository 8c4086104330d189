"""copy.deepcopy, pickle and torch.save of what holds a matrix."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.errors import InputError
from hpc_sla.precond import make_preconditioner
from tests.collective import distribute, everywhere, random_rectangular, spread
from tests.methods import GENERAL

N = 12
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(N, N)))


class Model(torch.nn.Module):
    """A module that holds a matrix, whose entries are its parameter."""

    def __init__(self, A):
        super().__init__()
        self.values = torch.nn.Parameter(A.values.clone())
        self.A = A.with_values(self.values)
        self.layer = torch.nn.Linear(1, 1).double().to(A.device)
        self.replicated = A.world.replicate_module(self.layer)

    def forward(self, b):
        return hs.solve(self.A, self.replicated(b[:, None])[:, 0] + 1)[0]


@pytest.mark.mpi
def test_a_copy_has_its_own_values_on_the_same_world(world):
    A = distribute(MATRIX, world)
    B = copy.deepcopy(A)
    assert B.world is A.world and B.layout is A.layout and B.pattern is A.pattern
    assert torch.equal(B.values, A.values) and (
        not A.nnz_owned or B.values.data_ptr() != A.values.data_ptr()
    )
    with torch.no_grad():
        B.values *= 2
    b = spread(A.layout, np.ones(N))
    assert everywhere(world, torch.equal(B @ b, 2 * (A @ b)))
    assert copy.copy(A).values is A.values
    for thing in (world, A.layout, A.pattern, A.pattern.plan):
        assert copy.deepcopy(thing) is thing and copy.copy(thing) is thing
    T = copy.deepcopy(A.T)
    assert T.layout is A.columns and everywhere(world, torch.equal(T @ b, A.T @ b))


@pytest.mark.mpi
def test_a_module_that_holds_one(world):
    torch.manual_seed(0)
    model = Model(distribute(MATRIX, world))
    b = spread(model.A.layout, np.linspace(0, 1, N))
    other = copy.deepcopy(model)
    assert other.A.values is other.values and other.values is not model.values
    assert torch.equal(other(b), model(b))
    with torch.no_grad():
        other.values *= 2
    other.A.layout.norm(other(b)).backward()
    assert everywhere(world, other.values.grad is not None and model.values.grad is None)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert everywhere(world, torch.equal(other(b), model(b)))


@pytest.mark.mpi
def test_pickling_is_refused(world):
    A = distribute(MATRIX, world)
    for thing in (world, A.layout, A.pattern, A.pattern.plan, A, A.T, Model(A)):
        with pytest.raises(InputError, match=r"cannot be pickled. Save tensors .*from_hdf5"):
            pickle.dumps(thing)
        with pytest.raises(InputError, match="cannot be pickled"):
            torch.save({"model": thing}, io.BytesIO())


@pytest.mark.mpi
@pytest.mark.parametrize("name", GENERAL)
def test_preconditioners_are_shared(world, name):
    A = distribute(MATRIX, world)
    M = make_preconditioner(name, A)
    assert copy.deepcopy({"M": M})["M"] is M


def test_of_one_process_everything_can_be_pickled():
    world = hs.World.serial("cpu")
    for matrix in (MATRIX, random_rectangular(7, 5, 0.5, 0)):
        A = hs.DSparseMatrix.from_scipy(matrix, world)
        A = A.with_values(A.values.clone().requires_grad_())
        B = pickle.loads(pickle.dumps(A))
        x = torch.linspace(0, 1, matrix.shape[1], dtype=torch.float64)
        y = torch.linspace(0, 1, matrix.shape[0], dtype=torch.float64)
        assert torch.equal(A @ x, B @ x) and torch.equal(A.T @ y, B.T @ y)
        assert B.values.requires_grad and B.layout.offsets.tolist() == A.layout.offsets.tolist()
        assert (B.columns is B.layout) == (A.columns is A.layout)


@pytest.mark.parametrize("batch", [False, True])
def test_sparse_tensors(batch):
    S = hs.SparseTensor.from_scipy(MATRIX)
    if batch:
        S = S.with_values(torch.stack([S.values, S.values * 2]))
    b = torch.ones(N, dtype=torch.float64)
    x = S.solve(b)  # makes what is kept
    file = io.BytesIO()
    torch.save(S, file)
    file.seek(0)
    for T in (
        copy.deepcopy(S),
        copy.copy(S),
        pickle.loads(pickle.dumps(S)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(T.solve(b), x) and torch.equal(T.row, S.row)
    T = copy.deepcopy(S)
    T.values.mul_(2)
    assert torch.allclose(T.solve(b), x / 2)


def test_factors():
    factors = hs.SparseTensor.from_scipy(MATRIX).factorize()
    assert copy.deepcopy(factors) is factors
    with pytest.raises(InputError, match="factorise it again"):
        pickle.dumps(factors)
