"""Matrices and vectors whose arrays nobody has looked at: refused, or read as what they say."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import factorize
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.precond import Preconditioner
from tests.collective import dense as dense_of
from tests.collective import everywhere, full, on, spd_matrix, spread

FAR = 99999999


def _with(kind, **arrays):
    matrix = kind(spd_matrix(12, 0))
    for name, change in arrays.items():
        setattr(matrix, name, change(np.array(getattr(matrix, name), copy=True)))
    return matrix


def _put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


def _lil():
    matrix = sp.lil_matrix(spd_matrix(12, 0))
    matrix.rows[3].append(FAR)
    return matrix


def _lil_short():
    matrix = sp.lil_matrix(spd_matrix(12, 0))
    matrix.data[3].append(1.0)
    return matrix


def _far64(kind):
    return _with(kind, indices=lambda a: _put(1, 2**40)(a.astype(np.int64)))


def _coo(name, value):
    """Through `coords`, which SciPy lets anyone replace."""
    matrix = sp.coo_matrix(spd_matrix(12, 0))
    row, col = (np.array(a) for a in (matrix.row, matrix.col))
    (row if name == "row" else col)[1] = value
    matrix.coords = (row, col)
    return matrix


BAD = {
    "csr, column too large": lambda: _with(sp.csr_matrix, indices=_put(1, FAR)),
    "csr array, column too large": lambda: _with(sp.csr_array, indices=_put(1, FAR)),
    "csr, column one too large": lambda: _with(sp.csr_matrix, indices=_put(1, 12)),
    "csr, negative column": lambda: _with(sp.csr_matrix, indices=_put(1, -1)),
    "csr, int64 column": lambda: _far64(sp.csr_matrix),
    "csr, indptr not monotone": lambda: _with(sp.csr_matrix, indptr=_put(3, FAR)),
    "csr, indptr negative": lambda: _with(sp.csr_matrix, indptr=_put(3, -7)),
    "csr, indptr from 1": lambda: _with(sp.csr_matrix, indptr=_put(0, 1)),
    "csr, indptr past the end": lambda: _with(sp.csr_matrix, indptr=_put(-1, FAR)),
    "csr, indptr too short": lambda: _with(sp.csr_matrix, indptr=lambda a: a[:-1]),
    "csr, data too short": lambda: _with(sp.csr_matrix, data=lambda a: a[:-2]),
    "csr, float columns": lambda: _with(sp.csr_matrix, indices=lambda a: a + 0.5),
    "csc, row too large": lambda: _with(sp.csc_matrix, indices=_put(1, FAR)),
    "csc, indptr not monotone": lambda: _with(sp.csc_matrix, indptr=_put(3, FAR)),
    "bsr, column too large": lambda: _with(
        lambda m: sp.bsr_matrix(m, blocksize=(2, 2)), indices=_put(1, FAR)
    ),
    "coo, row too large": lambda: _coo("row", FAR),
    "coo, negative column": lambda: _coo("col", -3),
    "lil, column too large": _lil,
    "lil, more entries than columns": _lil_short,
    "one dimension": lambda: sp.coo_array(np.arange(4.0)),
    "complex": lambda: spd_matrix(12, 0).astype(complex),
    "objects": lambda: _with(sp.csr_matrix, data=lambda a: a.astype(object)),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_indices_out_of_range_are_one_error_everywhere(world, name):
    for partition in ("metis", "contiguous"):
        with pytest.raises(hs.InputError) as caught:
            hs.DSparseMatrix.from_scipy(BAD[name]() if world.rank == 0 else None, world, partition)
        assert caught.value.field == "matrix"


@pytest.mark.parametrize("name", BAD)
def test_indices_out_of_range_on_one_process(name):
    for take in (hs.SparseTensor.from_scipy, factorize):
        with pytest.raises(hs.InputError):
            take(BAD[name]())


def _shuffled() -> sp.csr_matrix:
    """Columns in no order, and each entry twice, halved."""
    matrix = sp.coo_matrix(spd_matrix(12, 0))
    order = np.random.default_rng(0).permutation(2 * matrix.nnz)
    row, col = (np.tile(a, 2)[order] for a in (matrix.row, matrix.col))
    order = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=12))])
    data = np.tile(matrix.data / 2, 2)[np.random.default_rng(0).permutation(2 * matrix.nnz)]
    return sp.csr_matrix((data[order], col[order], indptr), shape=(12, 12))


def _strided():
    def twice(a):
        return np.repeat(a, 2)[::2]

    return _with(sp.csr_matrix, data=twice, indices=twice, indptr=twice)


def _readonly():
    def frozen(a):
        a.flags.writeable = False
        return a

    return _with(sp.csr_matrix, data=frozen, indices=frozen, indptr=frozen)


FINE = {
    "int64 indices": lambda: _with(
        sp.csr_matrix, indices=lambda a: a.astype(np.int64), indptr=lambda a: a.astype(np.int64)
    ),
    "big-endian": lambda: _with(
        sp.csr_matrix,
        data=lambda a: a.astype(">f8"),
        indices=lambda a: a.astype(">i4"),
        indptr=lambda a: a.astype(">i4"),
    ),
    "unsorted and twice": _shuffled,
    "strided": _strided,
    "read-only": _readonly,
    "longer than used": lambda: _with(
        sp.csr_matrix,
        data=lambda a: np.append(a, [7.0, 7.0]),
        indices=lambda a: np.append(a, [3, 3]).astype(np.int32),
    ),
    "bsr": lambda: sp.bsr_matrix(spd_matrix(12, 0), blocksize=(3, 3)),
    "dia": lambda: sp.dia_matrix(spd_matrix(12, 0)),
    "dok": lambda: sp.dok_matrix(spd_matrix(12, 0)),
    "lil": lambda: sp.lil_matrix(spd_matrix(12, 0)),
}


@cache
def _wanted() -> np.ndarray:
    return spd_matrix(12, 0) @ np.arange(12.0)


@pytest.mark.mpi
@pytest.mark.parametrize("name", FINE)
def test_arrays_of_any_make_are_read_as_what_they_say(world, name):
    matrix = FINE[name]()
    before = None if not hasattr(matrix, "indptr") else matrix.indptr.copy()
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    np.testing.assert_allclose(
        full(A.layout, A @ spread(A.layout, np.arange(12.0))), _wanted(), rtol=1e-12
    )
    assert before is None or np.array_equal(matrix.indptr, before)
    S = hs.SparseTensor.from_scipy(matrix)
    x = torch.arange(12, dtype=torch.float64)
    np.testing.assert_allclose((S @ x).numpy(), _wanted(), rtol=1e-12)
    b = torch.from_numpy(_wanted())
    for wide in (b, torch.stack([b, b], 1)[:, 0]):
        np.testing.assert_allclose(factorize(matrix).solve(wide).numpy(), x, atol=1e-6)


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["strided", "reversed", "big-endian", "read-only", "uint32"])
@pytest.mark.filterwarnings("error")
def test_triplets_of_any_make(world, how):
    matrix = sp.coo_matrix(spd_matrix(12, 0))
    mine = matrix.row % world.size == world.rank
    row, col, data = (np.ascontiguousarray(a[mine]) for a in (matrix.row, matrix.col, matrix.data))
    change = {
        "strided": lambda a: np.repeat(a, 2)[::2],
        "reversed": lambda a: a[::-1],
        "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
        "read-only": lambda a: np.frombuffer(a.tobytes(), dtype=a.dtype),
        "uint32": lambda a: a.astype(np.uint32) if a.dtype.kind == "i" else a,
    }[how]
    row, col, data = (change(a) for a in (row, col, data))
    A = hs.DSparseMatrix.from_coo(row, col, data, (12, 12), world)
    np.testing.assert_allclose(
        full(A.layout, A @ spread(A.layout, np.arange(12.0))), _wanted(), rtol=1e-12
    )
    S = hs.SparseTensor(data, row, col, (12, 12))
    assert S.nnz == len(data)


@pytest.mark.mpi
def test_values_with_strides_are_values_all_the_same(world):
    matrix = spd_matrix(31, 1)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    wide = torch.full((A.nnz_owned, 2), 1e9, dtype=torch.float64, device=world.device)
    wide[:, 0] = A.values
    wide.requires_grad_()
    B = A.with_values(wide[:, 0])
    b = spread(A.layout, np.arange(31.0))
    assert everywhere(world, torch.equal(B @ b, A @ b) and torch.equal(B.T @ b, A.T @ b))
    x, info = hs.solve(B, b)
    assert info.converged
    np.testing.assert_allclose(matrix @ full(A.layout, x.detach()), np.arange(31.0), atol=1e-6)
    A.layout.dot(x, b).backward()
    assert everywhere(world, bool((wide.grad[:, 1] == 0).all() and (wide.grad[:, 0] != 0).any()))


@pytest.mark.parametrize("wrong", ["length", "dtype", "two axes"])
def test_values_that_do_not_fit(wrong):
    A = hs.DSparseMatrix.from_scipy(spd_matrix(9, 0), hs.World.serial("cpu"))
    values = {
        "length": A.values[1:],
        "dtype": torch.ones(A.nnz_owned, dtype=torch.int64),
        "two axes": A.values[None],
    }[wrong]
    with pytest.raises((ValueError, TypeError)):
        A.with_values(values)


RETURNS = {
    "nothing": lambda x: None,
    "too short": lambda x: x[:3],
    "too long": lambda x: torch.cat([x, x]),
    "another dtype": lambda x: x.float(),
    "a column": lambda x: x.unsqueeze(1),
}


class _Own(Preconditioner):
    name, symmetric = "own", True

    def __init__(self, function) -> None:
        self._function = function

    def apply(self, r, out):
        return self._function(r)

    apply_transpose = apply


class _Operator:
    def __init__(self, layout, function) -> None:
        self.layout, self.dtype, self._function = layout, torch.float64, function

    def matvec(self, x):
        return self._function(x)


@pytest.mark.parametrize("method", ["cg", "gmres", "bicgstab", "minres", "pipelined_cg"])
@pytest.mark.parametrize("name", RETURNS)
def test_what_a_users_function_gives_is_looked_at(name, method):
    A = hs.DSparseMatrix.from_scipy(spd_matrix(9, 0), hs.World.serial("cpu"))
    b, bad = torch.ones(9, dtype=torch.float64), RETURNS[name]
    plain = type("Plain", (), {"apply": lambda self, r: bad(r)})()
    for precond in (bad, plain, _Own(bad)):
        with pytest.raises(ValueError, match="gave"):
            hs.solve(A, b, method=method, precond=precond)
    with pytest.raises(ValueError, match="gave"):
        hs.solve(_Operator(A.layout, bad), b, method=method, precond="none")


@pytest.mark.parametrize("method", ["cg", "gmres", "bicgstab", "minres", "pipelined_cg"])
def test_strides_in_what_a_users_function_gives(method):
    A = hs.DSparseMatrix.from_scipy(spd_matrix(9, 0), hs.World.serial("cpu"))
    wide = torch.ones((9, 2), dtype=torch.float64)

    def strided(x):
        return torch.stack([x, x * 1e9], 1)[:, 0]

    x, info = hs.solve(A, wide[:, 0], method=method, precond="none")
    assert info.converged
    for precond in (strided, _Own(strided), lambda r: strided(r).numpy()):
        y, info = hs.solve(A, wide[:, 0], method=method, precond=precond, x0=wide[:, 1])
        assert info.converged
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def _pattern(**change):
    arrays = {"indptr": [0, 1, 3], "indices": [0, 0, 1]} | change
    return CsrPattern(*(torch.tensor(a, dtype=torch.int32) for a in arrays.values()), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"indices": [0, 0, FAR]},
        {"indices": [0, -1, 1]},
        {"indices": [0, 1, 0]},
        {"indices": [0, 1, 1]},
        {"indptr": [0, 5, 3]},
        {"indptr": [1, 1, 3]},
        {"indptr": [0, 1, 2]},
        {"indptr": [0, 1, FAR]},
    ],
)
def test_a_pattern_is_checked_before_it_is_factorised(change):
    values = torch.ones(3, dtype=torch.float64)
    assert factorize(_pattern(), values).solve(torch.ones(2, dtype=torch.float64)).tolist() == [
        1,
        0,
    ]
    with pytest.raises(hs.InputError):
        factorize(_pattern(**change), values)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "coordinates", [[[0.0, 1.0]], np.zeros(12), [["a", "b"]] * 12, "none", np.zeros((12, 0))]
)
def test_coordinates_that_do_not_fit(world, coordinates):
    matrix = spd_matrix(12, 0) if world.rank == 0 else None
    with pytest.raises(hs.InputError) as caught:
        hs.DSparseMatrix.from_scipy(matrix, world, "rcb", coordinates)
    assert caught.value.field == "coordinates"
    A = hs.DSparseMatrix.from_scipy(matrix, world, "rcb", np.arange(24).reshape(12, 2).tolist())
    b = on(world, A.layout.rows.astype(np.float64))
    np.testing.assert_allclose(full(A.layout, A @ b), _wanted(), rtol=1e-12)


class _Other:
    """An array of another library, as DLPack knows it."""

    def __init__(self, array):
        self._array = np.array(array)

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to NumPy is not allowed")

    def __len__(self):
        raise TypeError("not a sequence")

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@pytest.mark.mpi
def test_arrays_of_other_libraries_come_by_dlpack(world):
    """As CuPy's do, of which there is no implicit copy."""
    n = 8
    A = hs.DSparseMatrix.from_scipy(spd_matrix(n, 0) if world.rank == 0 else None, world)
    rows, columns = A.entries()
    b = np.linspace(1, 2, A.layout.n_owned)
    triplets = [_Other(a) for a in (rows, columns, A.values.cpu().numpy())]
    B = hs.DSparseMatrix.from_coo(*triplets, (n, n), world)
    found = [hs.solve(M, v)[0] for M, v in ((A, b), (A, _Other(b)), (A, _Other(np.float32(b))))]
    close = torch.allclose(found[0], found[2], rtol=1e-5)
    assert everywhere(world, torch.equal(found[0], found[1]) and close)
    assert everywhere(world, torch.equal(A @ b, A @ _Other(b)))
    assert torch.equal(torch.as_tensor(dense_of(A)), torch.as_tensor(dense_of(B)))
    with pytest.raises(hs.InputError, match="real numbers"):
        hs.solve(A, _Other(b.astype(complex)))


@pytest.mark.mpi
def test_what_describes_a_matrix_may_be_other_libraries_arrays(world):
    n = 8
    part, points = np.arange(n) % world.size, np.arange(2.0 * n).reshape(n, 2)
    made = []
    for kind in (np.array, _Other):
        given = {
            "partition": kind(part),
            "coordinates": kind(points),
            "near_nullspace": kind(points),
        }
        matrix = spd_matrix(n, 0) if world.rank == 0 else None
        made.append(hs.DSparseMatrix.from_scipy(matrix, world, **given))
    A, B = made
    assert A.layout.same(B.layout) and everywhere(world, torch.equal(A.coordinates, B.coordinates))
    assert everywhere(world, torch.equal(A.near_nullspace, B.near_nullspace))
    layout = hs.RowLayout(world, _Other(A.layout.offsets), _Other(A.layout.rows))
    assert everywhere(world, torch.equal(layout.scatter(_Other(points)), A.coordinates))
    mine = np.ones(A.layout.n_owned)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    for vectors in (mine, _Other(mine)):
        assert hs.solve(A, b, "cg", hs.AMG(near_nullspace=vectors))[1].converged


def test_a_sparse_tensor_of_other_libraries_arrays():
    S = hs.SparseTensor(_Other([2.0, 4.0]), _Other([0, 1]), _Other([0, 1]), (2, 2))
    assert S.solve(_Other([2.0, 4.0])).tolist() == pytest.approx([1.0, 1.0])
