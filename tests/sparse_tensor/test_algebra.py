"""Sums, products, functions, reductions, norms, determinants of SparseTensors: as dense torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import random_matrix, spd_matrix

BATCHES = [(), (3,), (2, 3)]


def _tensor(matrix, batch=(), seed=0):
    coo = sp.coo_array(matrix)
    rng = np.random.default_rng(seed)
    values = np.broadcast_to(coo.data, (*batch, coo.nnz)) * rng.uniform(0.8, 1.2, (*batch, 1))
    values = torch.from_numpy(values.copy()).requires_grad_()
    return values, hs.SparseTensor(values, coo.row, coo.col, coo.shape)


def _same(ours, theirs, inputs, rtol=1e-10):
    """Values and gradients of the two, beside the largest of each."""
    scale = float(theirs.detach().abs().max()) if theirs.numel() else 0.0
    assert torch.allclose(ours, theirs, rtol=rtol, atol=1e-12 * scale)
    weights = torch.linspace(0.5, 1.5, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), inputs, retain_graph=True),
        torch.autograd.grad((theirs * weights).sum(), inputs, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=rtol, atol=1e-11 * float(b.abs().max()))


@pytest.mark.parametrize("other", BATCHES)
@pytest.mark.parametrize("batch", BATCHES)
def test_of_two(batch, other):
    if len(batch) + len(other) == 3 and len(batch) != len(other):
        other = batch  # (3,) with (2, 3) broadcasts, and so is one of the others
    v, S = _tensor(random_matrix(6, 0.4, 1), batch, 1)
    w, T = _tensor(random_matrix(6, 0.3, 2), other, 2)
    s, t = S.to_dense(), T.to_dense()
    for ours, theirs in ((S + T, s + t), (S - T, s - t), (S * T, s * t), (S @ T, s @ t)):
        assert ours.batch_shape == theirs.shape[:-2]
        _same(ours.to_dense(), theirs, (v, w))
    assert (S + 2 * S)._sparsity is S._sparsity
    _same((S @ T.T @ S).to_dense(), s @ t.mT @ s, (v, w))


@pytest.mark.parametrize("batch", BATCHES)
def test_of_one(batch):
    v, S = _tensor(random_matrix(7, 0.4, 3), batch)
    s = S.to_dense()
    per = torch.linspace(1, 2, math.prod(batch), dtype=torch.float64).reshape(batch)
    assert torch.equal((2 * S).to_dense(), 2 * s)
    _same((S / 4).to_dense(), s / 4, (v,))
    _same((S * per).to_dense(), s * per[..., None, None], (v,))
    _same((np.float64(3) * -abs(S)).to_dense(), -3 * s.abs(), (v,))
    _same((S**2).to_dense(), s**2, (v,))
    _same(S.map(torch.sin).to_dense(), torch.sin(s), (v,))
    for axis, dim in ((None, (-2, -1)), (0, -2), (1, -1)):
        _same(S.sum(axis), s.sum(dim), (v,))
        _same(S.mean(axis), s.mean(dim), (v,))
    _same(S.max(), s.amax((-2, -1)), (v,))
    _same(S.min(), s.amin((-2, -1)), (v,))
    _same(S.diagonal(), s.diagonal(dim1=-2, dim2=-1), (v,))
    for ord in ("fro", 1, math.inf, 2):
        _same(S.norm(ord), torch.linalg.matrix_norm(s, ord), (v,), rtol=1e-7)


@pytest.mark.parametrize("batch", BATCHES)
def test_vectors_and_solves_of_any_batch(batch):
    v, S = _tensor(spd_matrix(8, 0), batch)
    s = S.to_dense()
    shapes = [(8,), (*batch, 8), (*batch, 8, 2)]
    for shape in shapes if len(batch) > 1 else shapes[1:]:
        x = torch.from_numpy(np.random.default_rng(1).standard_normal(shape))
        flat = len(shape) in (1, len(batch) + 1)
        wide = x.unsqueeze(-1) if flat else x
        theirs = s @ wide
        _same(S @ x, theirs.squeeze(-1) if flat else theirs, (v,))
        theirs = torch.linalg.solve(s, wide.expand(*batch, *wide.shape[-2:]))
        _same(S.solve(x), theirs.squeeze(-1) if flat else theirs, (v,), rtol=1e-6)
        iterated = S.solve(x, method="cg", precond="jacobi", rtol=1e-12)
        assert torch.allclose(iterated, theirs.squeeze(-1) if flat else theirs, rtol=1e-6)
    w, V = S.eigsh(2)
    assert w.shape == (*batch, 2) and V.shape == (*batch, 8, 2)
    assert torch.allclose(w, torch.linalg.eigvalsh(s)[..., :2], rtol=1e-6)
    if len(batch) == 2:
        assert S[1].batch_shape == (3,) and S[1, 2].batch_shape == ()
        assert torch.equal(S[1, 2].to_dense(), s[1, 2])
        with pytest.raises(hs.InputError, match="does not go with a batch"):
            S @ torch.ones(3, 8, 2, 5, dtype=torch.float64)
        with pytest.raises(hs.InputError, match="3 indices"):
            S[0, 0, 0]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", ["random", "spd", "permuted", "scaled"])
def test_determinants(kind, batch):
    matrix = {
        "random": lambda: random_matrix(9, 0.5, 5),
        "spd": lambda: spd_matrix(9, 1),
        "permuted": lambda: sp.csr_matrix(spd_matrix(9, 1)[[1, 2, 0, 4, 3, 5, 7, 8, 6]]),
        "scaled": lambda: sp.csr_matrix(sp.diags_array(10.0 ** np.arange(9)) @ spd_matrix(9, 2)),
    }[kind]()
    v, S = _tensor(matrix, batch)
    s = S.to_dense()
    sign, logarithm = S.slogdet()
    theirs = torch.linalg.slogdet(s)
    assert torch.equal(sign, theirs[0])
    # One entry's gradient is the inverse's, which is as wrong as the condition is large.
    assert torch.allclose(logarithm, theirs[1], rtol=1e-10)
    ours, dense = (
        torch.autograd.grad(x.sum(), v, retain_graph=True)[0] for x in (logarithm, theirs[1])
    )
    assert torch.allclose(ours, dense, rtol=1e-6, atol=1e-9 * float(dense.abs().max()))
    assert torch.allclose(S.det(), torch.linalg.det(s), rtol=1e-9)
    assert torch.equal(S.logdet().isnan(), sign < 0)


def test_determinants_twice_and_forward():
    v, S = _tensor(random_matrix(5, 0.6, 5))
    logarithm = lambda values: S.with_values(values).slogdet()[1]  # noqa: E731
    assert torch.autograd.gradcheck(logarithm, v, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(logarithm, v)


def test_determinants_of_what_has_none():
    _, S = _tensor(sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 4.0]])))
    assert [float(x.detach()) for x in S.slogdet()] == [0.0, -math.inf]
    assert float(S.det()) == 0.0 and float(S.logdet()) == -math.inf
    with pytest.raises(hs.SingularMatrixError):
        S.logdet().backward()
    with pytest.raises(hs.InputError, match="not square"):
        _tensor(sp.csr_matrix(np.ones((2, 3))))[1].det()
    empty = hs.SparseTensor(torch.zeros(0, dtype=torch.float64), [], [], (0, 0))
    assert float(empty.det()) == 1.0


def test_symmetry_and_definiteness():
    spd, other = spd_matrix(12, 0), random_matrix(12, 0.3, 0)
    _, S = _tensor(spd)
    assert bool(S.is_symmetric()) and bool(S.is_positive_definite())
    assert not bool((-S).is_positive_definite())
    shifted = S - float(
        torch.linalg.eigvalsh(S.to_dense().detach())[0] * 1.01
    ) * hs.SparseTensor.eye(12)
    assert bool(shifted.is_symmetric()) and not bool(shifted.is_positive_definite())
    _, T = _tensor(other)
    assert not bool(T.is_symmetric()) and not bool(T.is_positive_definite())
    assert not bool(hs.SparseTensor([1.0, 1.0], [0, 1], [1, 0], (2, 2)).is_positive_definite())
    near = S + 1e-6 * abs(S.norm()) * hs.SparseTensor(np.ones(1), [0], [5], (12, 12))
    assert not bool(near.is_symmetric()) and bool(near.is_symmetric(atol=1.0 * float(S.norm())))
    # A zero that is stored on one side of the diagonal only is none the less a zero.
    stored = hs.SparseTensor([2.0, 0.0, 3.0, -1.0, -1.0, 2.0], [0, 0, 1, 1, 2, 2],
                             [0, 1, 1, 2, 1, 2], (3, 3))  # fmt: skip
    assert bool(stored.is_symmetric()) and bool(stored.is_positive_definite())
    for value in (1e-3, -2.0):
        values = stored.values.clone()
        values[1] = value
        assert not bool(stored.with_values(values).is_positive_definite())
    zero = hs.SparseTensor([0.0, 1.0], [0, 1], [0, 1], (2, 2))
    assert bool(zero.is_symmetric()) and not bool(zero.is_positive_definite())
    _, batch = _tensor(spd, (2,))
    assert batch.is_positive_definite().tolist() == [True, True]
    assert (batch * torch.tensor([1.0, -1.0])).is_positive_definite().tolist() == [True, False]
    assert not bool(_tensor(sp.csr_matrix(np.ones((2, 3))))[1].is_symmetric())


@pytest.mark.parametrize("n", [3, 30, 150])
def test_conditions(n):
    matrix = sp.csr_matrix(spd_matrix(n, 0, 1 / n) + random_matrix(n, 1 / n, 1))
    v, S = _tensor(matrix)
    s = S.to_dense()
    for ord in (1, math.inf):
        assert float(S.cond(ord)) == pytest.approx(np.linalg.cond(matrix.toarray(), ord), rel=1e-6)
    ours, theirs = S.cond(), torch.linalg.cond(s)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    (mine,), (wanted,) = (torch.autograd.grad(x, v, retain_graph=True) for x in (ours, theirs))
    assert torch.allclose(mine, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert float(S.norm(2).detach()) == pytest.approx(
        float(torch.linalg.matrix_norm(s, 2).detach()), rel=1e-8
    )
    assert float(hs.SparseTensor([1.0], [0], [0], (2, 2)).cond(1)) == math.inf
    assert float(hs.SparseTensor([1.0], [0], [0], (2, 2)).cond()) == math.inf


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [30, 150])
def test_conditions_to_the_last_that_the_dtype_has(n, dtype):
    """Of 1e5, of which sums in single precision leave two digits; and of singular ones."""
    rows = sp.diags_array(np.logspace(0, -5, n)) @ (sp.eye_array(n) + 0.5 * sp.eye_array(n, k=1))
    matrix = sp.csr_matrix(rows.astype(dtype))
    S = hs.SparseTensor.from_scipy(matrix)
    expected = np.linalg.cond(matrix.toarray().astype(np.float64))
    assert S.cond().dtype == S.dtype and float(S.cond()) == pytest.approx(expected, rel=1e-6)
    last = sp.lil_matrix(matrix)
    last[n - 1] = last[0] + 2 * last[1]
    for singular in (last, last.T, 1e-9 * last, matrix * 0):
        assert not np.linalg.cond(singular.toarray().astype(np.float64)) < 1 / np.finfo(dtype).eps
        S = hs.SparseTensor.from_scipy(sp.csr_matrix(singular, dtype=dtype))
        values = S.values.requires_grad_()
        found = S.cond()
        assert float(found) == math.inf
        (gradient,) = torch.autograd.grad(found, values)
        assert not bool(gradient.any())


FACTORS = [
    3, 3.0, 0.1, 1e-310, np.float64(7), np.int64(7), np.float32(0.1),
    torch.tensor(3), torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.1),
    torch.tensor([3, 7]), torch.tensor([0.1, 7.0], dtype=torch.float64), torch.tensor([0.1, 7.0]),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", FACTORS, ids=repr)
def test_multiples_and_quotients_are_torchs(factor, dtype):
    """To the last bit, and of the same dtype."""
    _, S = _tensor(random_matrix(20, 0.5, 3), (2,))
    S = S.detach().to(dtype)
    beside = factor
    if isinstance(factor, torch.Tensor) and factor.dim():
        beside = factor[:, None]
    for found, values in ((S / factor, S.values / beside), (S * factor, S.values * beside)):
        assert found.dtype == values.dtype and torch.equal(found.values, values)
    if isinstance(factor, float) and dtype == torch.float64:
        assert np.array_equal((S[0] / factor).to_scipy().data, S[0].to_scipy().data / factor)


def test_factors_that_are_not_real():
    _, S = _tensor(random_matrix(4, 0.5, 0))
    for factor in (1j, np.complex64(2), torch.tensor(1j), torch.ones(2, dtype=torch.complex64)):
        for wrong in (lambda f=factor: S * f, lambda f=factor: S / f, lambda f=factor: f * S):
            with pytest.raises(hs.InputError, match="is not real"):
                wrong()
    assert torch.equal((S * 10**30).values, S.values * 1e30)  # which torch calls an overflow
    with pytest.raises(hs.InputError, match="beyond the range"):
        S / 10**400


def test_constructors():
    assert torch.equal(hs.SparseTensor.eye(3).to_dense(), torch.eye(3, dtype=torch.float64))
    d = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    for offset in (-2, 0, 1):
        _same(hs.SparseTensor.diag(d, offset).to_dense(), torch.diag_embed(d, offset), (d,))
    T = hs.SparseTensor.tridiagonal(-1.0, 2.0, -1.0, n=4).to_dense().numpy()
    assert np.array_equal(T, sp.diags([-1, 2, -1], [-1, 0, 1], shape=(4, 4)).toarray())
    T = hs.SparseTensor.tridiagonal([1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0]).to_dense().numpy()
    assert np.array_equal(T, np.array([[3, 6, 0], [1, 4, 7], [0, 2, 5]]))
    assert hs.SparseTensor.tridiagonal(1.0, 2.0, 1.0, n=1).to_dense().tolist() == [[2.0]]
    for wrong in (lambda: hs.SparseTensor.tridiagonal([1.0], [1.0], [1.0]),
                  lambda: hs.SparseTensor.tridiagonal(1.0, 2.0, 1.0),
                  lambda: hs.SparseTensor.eye(-1)):  # fmt: skip
        with pytest.raises(hs.InputError):
            wrong()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_torch_sparse(layout):
    v, S = _tensor(random_matrix(8, 0.3, 4))
    t = S.to_torch(layout)
    assert t.layout == layout
    back = hs.SparseTensor.from_torch(t)
    assert torch.equal(back.row, S.row) and torch.equal(back.col, S.col)
    _same(back.values * 3, S.values * 3, (v,))
    with pytest.raises(hs.InputError, match="sparse"):
        hs.SparseTensor.from_torch(torch.eye(2))
    with pytest.raises(hs.InputError, match="layout"):
        S.to_torch(torch.strided)


def test_files_of_elsewhere(tmp_path):
    matrix = spd_matrix(9, 0)
    scipy.io.mmwrite(tmp_path / "a.mtx", matrix)
    sp.save_npz(tmp_path / "a.npz", sp.csr_matrix(matrix))
    for name in ("a.mtx", "a.npz"):
        found = hs.SparseTensor.load(tmp_path / name).to_dense().numpy()
        assert np.allclose(found, matrix.toarray(), rtol=1e-15)
    _, S = _tensor(matrix, (2, 2))
    S.save(tmp_path / "batch")
    assert torch.equal(hs.SparseTensor.load(tmp_path / "batch").values, S.values.detach())


def test_a_list_of_matrices():
    pairs = [_tensor(spd_matrix(n, n)) for n in (4, 7, 1)]
    several = hs.SparseTensorList(S for _, S in pairs)
    leaves = [v for v, _ in pairs]
    bs = [torch.linspace(1, 2, n, dtype=torch.float64) for n in (4, 7, 1)]
    expected = [torch.linalg.solve(S.to_dense(), b) for S, b in zip(several, bs, strict=True)]
    for together in (False, True):
        found = several.solve(bs, together=together)
        _same(torch.cat(found), torch.cat(expected), leaves, rtol=1e-7)
    whole = several.block_diagonal()
    _same(whole.to_dense(), torch.block_diag(*[S.to_dense() for S in several]), leaves)
    again = hs.SparseTensorList.from_block_diagonal(whole, several.shapes)
    assert all(torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(again, several, strict=True))
    assert [y.shape for y in several @ bs] == [b.shape for b in bs]
    assert len(several[1:]) == 2 and several[0].shape == (4, 4)
    with pytest.raises(hs.InputError, match="2 for 3 matrices"):
        several.solve(bs[:2])
    with pytest.raises(hs.InputError, match="is a batch"):
        hs.SparseTensorList([_tensor(spd_matrix(3, 0), (2,))[1]])
    full = hs.SparseTensor.from_dense(torch.ones(4, 4))
    with pytest.raises(hs.InputError, match="outside of these blocks"):
        hs.SparseTensorList.from_block_diagonal(full, [(2, 2), (2, 2)])


def test_throw_and_monitor(capsys):
    _, S = _tensor(spd_matrix(20, 0))
    b = torch.ones(20, dtype=torch.float64)
    with pytest.raises(hs.NotConvergedError):
        S.solve(b, method="cg", precond="none", max_iterations=1, throw=True)
    S.solve(b, method="cg", monitor="print")
    assert capsys.readouterr().err.startswith("solve      0")
    with pytest.raises(hs.InputError, match="no monitor"):
        S.solve(b, backend="scipy", monitor="print")


def test_one_file_for_all_systems(tmp_path):
    """Of a batch, of a list: each goes on where the one before has stopped."""
    _, S = _tensor(spd_matrix(20, 0), (3,))
    b, path = torch.ones(20, dtype=torch.float64), tmp_path / "told.csv"
    _, infos = S.solve_with_info(b, method="cg", precond="none", monitor=f"file:{path}")
    every = [norm for info in infos for norm in info.residual_history]

    def told():
        return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1].tolist()

    assert len(infos) == 3 and told() == every
    several = hs.SparseTensorList([S[0], S[1], S[2]])
    several.solve([b] * 3, method="cg", precond="none", monitor=[f"file:{path}"])
    assert told() == every
    heard = []
    _, S = _tensor(spd_matrix(130, 0), (2,))
    S.eigsh(1, tol=1e-4, monitor=[f"file:{path}", lambda i, norm: heard.append(norm)])
    assert told() == heard and len(heard) >= 3


def test_spy():
    pytest.importorskip("matplotlib").use("agg")
    _, S = _tensor(random_matrix(30, 0.1, 0))
    import matplotlib.pyplot as plt

    axes = S.spy()
    picture = np.ma.filled(axes.images[0].get_array(), 0)
    assert np.array_equal(picture != 0, S.to_dense().detach().numpy() != 0)
    S.spy(plt.figure().gca(), values=True)
    plt.close("all")


def test_what_does_not_go_together():
    _, S = _tensor(random_matrix(4, 0.5, 0), (2,))
    _, T = _tensor(random_matrix(5, 0.5, 0))
    for wrong in (lambda: S + T, lambda: S @ T, lambda: S * T, lambda: S * torch.ones(3),
                  lambda: T + T.to(torch.float32), lambda: S + S.detach()[0:1].map(lambda v: v[:0]),
                  lambda: T.sum(2), lambda: T.norm(3), lambda: T.cond(3)):  # fmt: skip
        with pytest.raises(hs.InputError):
            wrong()
    for wrong in (lambda: S + 1, lambda: S * "two", lambda: S / "two"):
        with pytest.raises(TypeError):
            wrong()
