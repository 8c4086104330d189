"""Incomplete factorisations beside their dense definitions, in C and in NumPy alike."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels import incomplete
from hpc_sla.kernels import native as native_kernels
from hpc_sla.kernels.incomplete import Block, ic0, ilu0
from hpc_sla.kernels.levels import LevelSchedule, dependency_levels
from tests.collective import disconnected, random_matrix, spd_matrix
from tests.kernels.dense import dense_ic0, dense_ilu0

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                native_kernels.LIBRARY is None, reason="the kernels were not compiled"
            ),
        ),
        False,
    ],
)


@pytest.fixture
def _without_c(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native_kernels, "LIBRARY", None)


def _local(matrix):
    coo = matrix.tocoo()
    return Block.from_entries(matrix.shape[0], coo.row, coo.col, coo.data)


def _diagonally_dominant(n, seed):
    matrix = random_matrix(n, 0.2, seed)
    matrix.setdiag(5.0 * np.random.default_rng(seed).choice([-1, 1], n))
    return matrix.tocsr()


def _solved(factor, b, transpose=False):
    b = torch.from_numpy(b)
    return factor.solve(b, torch.full_like(b, float("nan")), transpose).numpy()


@BOTH
@pytest.mark.usefixtures("_without_c")
@pytest.mark.parametrize("columns", [(), (1,), (3,), (8,), (11,)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_ilu0_is_the_dense_definition(n, dtype, columns, compiled):
    matrix = _diagonally_dominant(n, n)
    L, U = dense_ilu0(matrix.toarray())
    factor = ilu0(_local(matrix.astype(dtype)), CPU)
    assert factor.shift == 0 and not factor.symmetric
    b = np.random.default_rng(1).standard_normal((n, *columns)).astype(dtype)
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(_solved(factor, b), np.linalg.solve(L @ U, b), **close)
    transposed = np.linalg.solve((L @ U).T, b)
    np.testing.assert_allclose(_solved(factor, b, True), transposed, **close)


@BOTH
@pytest.mark.usefixtures("_without_c")
@pytest.mark.parametrize("columns", [(), (3,), (11,)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_ic0_is_the_dense_definition(n, dtype, columns, compiled):
    matrix = spd_matrix(n, n)
    L = dense_ic0(matrix.toarray())
    assert np.isfinite(L).all()
    factor = ic0(_local(matrix.astype(dtype)), CPU)
    assert factor.shift == 0 and factor.symmetric
    b = np.random.default_rng(2).standard_normal((n, *columns)).astype(dtype)
    exact = sla.cho_solve((L, True), b)
    close = (
        {"rtol": 1e-9} if dtype == np.float64 else {"rtol": 1e-3, "atol": 1e-4 * abs(exact).max()}
    )
    np.testing.assert_allclose(_solved(factor, b), exact, **close)
    assert np.array_equal(_solved(factor, b, True), _solved(factor, b))


@BOTH
@pytest.mark.usefixtures("_without_c")
def test_ilu0_of_a_full_pattern_is_lu(compiled):
    matrix = random_matrix(12, 1.0, 3)
    matrix.setdiag(20.0)
    b = np.arange(12.0)
    exact = np.linalg.solve(matrix.toarray(), b)
    np.testing.assert_allclose(_solved(ilu0(_local(matrix), CPU), b), exact, rtol=1e-11)


@BOTH
@pytest.mark.usefixtures("_without_c")
@pytest.mark.parametrize("factorise", [ilu0, ic0])
@pytest.mark.parametrize(
    "make",
    [
        lambda: random_matrix(25, 0.2, 4, symmetric=True),  # indefinite, diagonals missing
        lambda: disconnected(23, 5),  # rows with nothing in them
        lambda: random_matrix(6, 0.0, 6),
        lambda: 0 * spd_matrix(5, 7),  # stored zeros
    ],
)
def test_a_missing_pivot_is_shifted_and_never_a_nan(make, factorise, compiled):
    matrix = make()
    factor = factorise(_local(matrix), CPU)
    x = _solved(factor, np.ones(matrix.shape[0]))
    assert np.isfinite(x).all() and (factor.inverse != 0).all()
    if matrix.nnz == 0:
        assert factor.shift == 0 and np.array_equal(x, np.ones(matrix.shape[0]))


@BOTH
@pytest.mark.usefixtures("_without_c")
def test_the_shift_is_the_first_that_works(compiled):
    """An SPD matrix whose IC(0) does not exist (Kershaw 1978)."""
    kershaw = np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])
    assert np.linalg.eigvalsh(kershaw).min() > 0
    factor = ic0(_local(sp.csr_matrix(kershaw)), CPU)
    assert factor.shift > 1e-3
    shifted = [s for s in 1e-3 * 2.0 ** np.arange(15) if _exists(kershaw, s)]
    assert factor.shift == pytest.approx(shifted[0])
    L = dense_ic0(kershaw + factor.shift * np.diag(np.diag(kershaw)))
    b = np.arange(4.0)
    np.testing.assert_allclose(_solved(factor, b), sla.cho_solve((L, True), b), rtol=1e-10)
    assert (factor.inverse > 0).all()


def _exists(matrix, shift):
    with np.errstate(invalid="ignore"):
        L = dense_ic0(matrix + shift * np.diag(np.diag(matrix)))
    return bool(np.isfinite(L).all())


def test_the_shift_of_ilu0_keeps_the_sign_of_the_diagonal():
    matrix = sp.csr_matrix(np.array([[-1.0, 1.0], [1.0, -1.0]]))
    factor = ilu0(_local(matrix), CPU)
    assert factor.shift == 1e-3
    exact = np.linalg.solve(matrix.toarray() - 1e-3 * np.eye(2), np.array([1.0, 2.0]))
    np.testing.assert_allclose(_solved(factor, np.array([1.0, 2.0])), exact, rtol=1e-12)


@BOTH
@pytest.mark.usefixtures("_without_c")
@pytest.mark.parametrize("factorise", [ilu0, ic0])
def test_a_pivot_of_rounding_errors_is_a_missing_one(factorise, compiled):
    a = np.array([[3.0, 0.7], [0.7, 0.7 * (0.7 / 3.0) * (1 + 2e-16)]])
    pivot = a[1, 1] - a[1, 0] / a[0, 0] * a[0, 1]
    assert 0 < pivot < 1e-15
    for scale in (1.0, 1e-30, 1e30):
        assert factorise(_local(sp.csr_matrix(scale * a)), CPU).shift == 1e-3
    a[1, 1] += 1e-10  # small, and meant
    assert factorise(_local(sp.csr_matrix(a)), CPU).shift == 0


def test_what_is_not_finite_stays_so():
    matrix = spd_matrix(9, 8)
    matrix.data[3] = np.nan
    for factorise in (ilu0, ic0):
        assert np.isnan(_solved(factorise(_local(matrix), CPU), np.ones(9))).all()


def test_a_hopeless_block_is_an_input_error(monkeypatch):
    monkeypatch.setattr(incomplete, "_attempt", lambda *_: False)
    with pytest.raises(InputError, match="breaks down"):
        ilu0(_local(spd_matrix(4, 9)), CPU)


def test_entries_are_sorted_summed_and_given_a_diagonal():
    rows, columns = np.array([2, 0, 0, 0]), np.array([1, 2, 0, 2])
    matrix = Block.from_entries(3, rows, columns, np.array([1.0, 2.0, 3.0, 4.0]))
    assert matrix.indptr.tolist() == [0, 2, 3, 5] and matrix.indices.tolist() == [0, 2, 1, 1, 2]
    assert matrix.values.tolist() == [3, 6, 1, 1, 0] and matrix.diagonal.tolist() == [0, 2, 4]
    assert matrix.indptr.dtype == matrix.indices.dtype == matrix.diagonal.dtype == np.int32
    assert Block.from_entries(0, rows[:0], rows[:0], np.empty(0)).n == 0


def test_csr_arrays_are_kept_where_they_will_do():
    made = spd_matrix(30, 13)
    made.sort_indices()
    arrays = made.indptr, made.indices, made.data
    block = Block.from_csr(*arrays)
    assert all(mine is theirs for mine, theirs in zip(vars(block).values(), arrays, strict=False))
    expected = _local(made)
    assert np.array_equal(block.diagonal, expected.diagonal)
    row = slice(made.indptr[3], made.indptr[4])
    backwards = made.copy()
    for array in (backwards.indices, backwards.data):
        array[row] = array[row][::-1].copy()
    without = made.copy()
    without.setdiag(0)
    for other in (backwards, without, without.copy()):
        if other is not backwards:
            expected = _local(other)
        before = other.data.copy()
        block = Block.from_csr(other.indptr, other.indices, other.data)
        assert np.array_equal(other.data, before)
        for mine, theirs in zip(vars(block).values(), vars(expected).values(), strict=True):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
        without.eliminate_zeros()
    with_zero_row = sp.csr_matrix((np.array([2.0, 0.0]), ([0, 1], [0, 1])), shape=(2, 2))
    block = Block.from_csr(with_zero_row.indptr, with_zero_row.indices, with_zero_row.data)
    assert block.values.tolist() == [2, 1] and with_zero_row.data.tolist() == [2, 0]


@BOTH
@pytest.mark.usefixtures("_without_c")
@pytest.mark.parametrize("order", ["natural", "reversed", "shuffled"])
def test_sweeps_along_a_chain_and_across_it(order, compiled):
    """Where each row waits for the one before it, and where none does."""
    n = 50
    chain = sp.diags_array([-1.0, 2.5, -1.4], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    where = {
        "natural": np.arange(n),
        "reversed": np.arange(n)[::-1],
        "shuffled": np.random.default_rng(14).permutation(n),
    }[order]
    matrix = sp.csr_matrix(chain[where][:, where])
    L, U = dense_ilu0(matrix.toarray())
    factor = ilu0(_local(matrix), CPU)
    b = np.random.default_rng(15).standard_normal(n)
    np.testing.assert_allclose(_solved(factor, b), np.linalg.solve(L @ U, b), rtol=1e-11)
    exact = np.linalg.solve((L @ U).T, b)
    np.testing.assert_allclose(_solved(factor, b, True), exact, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_symmetry_is_seen_up_to_rounding(dtype):
    matrix = spd_matrix(30, 10).astype(dtype)
    assert _local(matrix).is_symmetric()
    noisy = matrix.copy()
    noisy.data *= 1 + np.finfo(dtype).eps * np.random.default_rng(0).integers(-2, 3, matrix.nnz)
    assert _local(noisy).is_symmetric()
    for entry in (1, 5):
        wrong = matrix.tolil()
        i, j = matrix.tocoo().row[entry], matrix.tocoo().col[entry]
        if i != j:
            wrong[i, j] *= 1.01
            assert not _local(wrong.tocsr()).is_symmetric()
            wrong[i, j] = 0
            assert not _local(wrong.tocsr()).is_symmetric()


def test_levels_of_a_chain_and_of_no_dependence():
    chain = dependency_levels(np.array([0, 0, 1, 2, 3]), np.array([0, 1, 2]))
    assert [level.tolist() for level in chain] == [[0], [1], [2], [3]]
    free = dependency_levels(np.zeros(4, dtype=np.int32), np.empty(0, dtype=np.int32))
    assert [level.tolist() for level in free] == [[0, 1, 2]]
    assert dependency_levels(np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.int32)) == []
    with pytest.raises(ValueError, match="triangular"):
        dependency_levels(np.array([0, 1, 2]), np.array([1, 0]))


@pytest.mark.parametrize("columns", [(), (5,)])
def test_a_schedule_solves_a_permuted_triangle(columns):
    rng = np.random.default_rng(11)
    order = rng.permutation(50)
    strict = np.tril(random_matrix(50, 0.1, 12).toarray(), -1)[np.ix_(order, order)]
    csr, scale = sp.csr_matrix(strict), rng.uniform(1, 2, 50)
    schedule = LevelSchedule(csr.indptr, csr.indices, csr.data, CPU)
    b = torch.from_numpy(rng.standard_normal((50, *columns)))
    scaled = (scale * b.numpy().T).T
    out = torch.empty_like(b)
    schedule.solve(b, torch.from_numpy(scale), out)
    exact = np.linalg.solve(np.eye(50) + strict, scaled)
    np.testing.assert_allclose(out.numpy(), exact, rtol=1e-11, atol=1e-12)
    schedule.solve(b, torch.from_numpy(scale), b)  # in place
    assert torch.equal(b, out)
