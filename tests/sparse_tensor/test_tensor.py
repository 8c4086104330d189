"""SparseTensor against dense tensors: its forms, its algebra, its files."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.cli import main
from tests.collective import random_matrix

needs_rectangular = pytest.mark.skipif(
    "columns" not in inspect.signature(hs.DSparseMatrix.from_coo).parameters,
    reason="DSparseMatrix is square",
)


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def dense_batch(*shape: int) -> torch.Tensor:
    """Random, with a quarter of the entries, the same ones in all of a batch."""
    generator = torch.Generator().manual_seed(1)
    there = torch.rand(shape[-2:], generator=generator) < 0.25
    return double(*shape) * there


TRIPLETS = ([2, 0, 1, 0, 2, 2], [1, 3, 0, 3, 1, 0], (3, 4))


def dense_of(values: torch.Tensor) -> torch.Tensor:
    row, col, shape = TRIPLETS
    zeros = torch.zeros(*values.shape[:-1], *shape, dtype=values.dtype)
    for i, (r, c) in enumerate(zip(row, col, strict=True)):
        mask = torch.zeros(shape, dtype=values.dtype)
        mask[r, c] = 1
        zeros = zeros + values[..., i, None, None] * mask
    return zeros


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_triplets_in_any_order_with_repeats(batch, kind):
    values = double(*batch, 6)
    S = hs.SparseTensor(values, kind(TRIPLETS[0]), kind(TRIPLETS[1]), TRIPLETS[2])
    assert (S.shape, S.nnz, S.batch_size) == ((3, 4), 4, batch[0] if batch else None)
    assert S.row.tolist() == [0, 1, 2, 2] and S.col.tolist() == [3, 0, 0, 1]
    torch.testing.assert_close(S.to_dense(), dense_of(values))


@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_through_repeated_entries(batch):
    def f(values):
        S = hs.SparseTensor(values, *TRIPLETS)
        return S.to_dense(), S.T.values, S.norm()

    assert torch.autograd.gradcheck(f, double(*batch, 6).requires_grad_())
    torch.testing.assert_close(
        hs.SparseTensor(double(*batch, 6), *TRIPLETS).norm(),
        torch.linalg.vector_norm(dense_of(double(*batch, 6)), dim=(-2, -1)),
    )


def test_order_without_repeats_is_canonical_too():
    S = hs.SparseTensor(torch.tensor([1.0, 2.0, 3.0]), [1, 0, 0], [0, 2, 1], (2, 3))
    assert S.values.tolist() == [3.0, 2.0, 1.0]


def test_the_norm_of_zero_has_gradient_zero():
    values = torch.zeros(2, requires_grad=True)
    hs.SparseTensor(values, [0, 1], [0, 1], (2, 2)).norm().backward()
    assert values.grad is not None and values.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(5, 7), (6, 6), (3, 5, 4), (2, 0, 3), (0, 0)])
def test_dense_there_and_back(shape):
    dense = dense_batch(*shape).requires_grad_()
    S = hs.SparseTensor.from_dense(dense)
    back = S.to_dense()
    assert torch.equal(back, dense)
    assert torch.equal(S.T.to_dense(), dense.mT)
    assert torch.equal(S.T.T.values, S.values)
    if S.nnz:
        back.square().sum().backward()
        assert dense.grad is not None and torch.equal(dense.grad, 2 * dense.detach())


def test_an_entry_that_is_zero_in_one_member_only_stays():
    dense = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert hs.SparseTensor.from_dense(dense).values.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.coo_array, sp.csc_matrix])
def test_scipy_there_and_back(kind):
    matrix = random_matrix(9, 0.3, 1)[:, :6]
    S = hs.SparseTensor.from_scipy(kind(matrix))
    assert S.dtype == torch.float64
    np.testing.assert_array_equal(S.to_scipy().toarray(), matrix.toarray())
    assert hs.SparseTensor.from_scipy(matrix.astype(np.float32)).dtype == torch.float32
    assert hs.SparseTensor.from_scipy(matrix.astype(np.int64)).dtype == torch.float64


MATVEC = [
    ((6, 6), (6,), (6,)),
    ((6, 6), (6, 3), (6, 3)),
    ((6, 6), (2, 6, 3), (2, 6, 3)),
    ((4, 6, 6), (6,), (4, 6)),
    ((4, 6, 6), (4, 6), (4, 6)),
    ((4, 6, 6), (4, 6, 3), (4, 6, 3)),
    ((4, 6, 6), (1, 6, 3), (4, 6, 3)),
    ((4, 6, 6), (1, 6), (4, 6)),
    ((1, 6, 6), (4, 6), (4, 6)),
    ((1, 6, 6), (6,), (1, 6)),
    ((6, 6, 6), (6, 6), (6, 6)),
    ((0, 6, 6), (6,), (0, 6)),
    ((6, 6), (6, 0), (6, 0)),
]


def product(dense: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """By the rules of the shapes, with dense tensors."""
    if x.dim() == 1 or (x.dim() == 2 and dense.dim() == 3):
        return (dense @ x.unsqueeze(-1)).squeeze(-1)
    return dense @ x


@pytest.mark.parametrize(("shape", "x", "result"), MATVEC)
def test_product(shape, x, result):
    dense, vectors = dense_batch(*shape), double(*x, seed=2)
    S = hs.SparseTensor.from_dense(dense)
    if not shape[0]:
        S = hs.SparseTensor(double(0, 2), [0, 1], [1, 0], (6, 6))
    found = S @ vectors
    assert found.shape == result
    torch.testing.assert_close(found, product(dense, vectors))
    torch.testing.assert_close(S.T @ vectors, product(dense.mT, vectors))


@pytest.mark.parametrize(("shape", "x"), [((3, 3), (3, 2)), ((2, 3, 3), (2, 3)), ((2, 3, 3), (3,))])
def test_product_is_differentiable_in_both(shape, x):
    S = hs.SparseTensor.from_dense(dense_batch(*shape) + torch.eye(3, dtype=torch.float64))

    def f(values, vectors):
        return S.with_values(values) @ vectors

    inputs = S.values.requires_grad_(), double(*x).requires_grad_()
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@needs_rectangular
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (2, 7, 4)])
def test_rectangular_product(shape):
    dense = dense_batch(*shape)
    S = hs.SparseTensor.from_dense(dense)
    x, y = double(shape[-1], seed=3), double(shape[-2], seed=4)
    torch.testing.assert_close(S @ x, product(dense, x))
    torch.testing.assert_close(S.T @ y, product(dense.mT, y))


def test_to_another_dtype_or_device():
    S = hs.SparseTensor.from_dense(dense_batch(6, 6).requires_grad_())
    single = S.to(torch.float32)
    assert single.dtype == torch.float32 and single.values.requires_grad
    assert S.to("cpu").device == S.device and S.to("cpu", torch.float32).dtype == torch.float32
    assert not S.detach().values.requires_grad
    x = torch.ones(6)
    torch.testing.assert_close(single @ x, S.to_dense().float() @ x)


def test_a_member_of_a_batch():
    dense = dense_batch(3, 5, 5)
    S = hs.SparseTensor.from_dense(dense)
    assert torch.equal(S[1].to_dense(), dense[1]) and S[1].batch_size is None
    np.testing.assert_array_equal(S[2].to_scipy().toarray(), dense[2])
    assert S[0].matrix.nnz_global == S.nnz
    for call in (S.to_scipy, lambda: S.matrix, S.factorize):
        with pytest.raises(hs.InputError, match="works on one matrix"):
            call()
    with pytest.raises(hs.InputError, match="no members"):
        S[0][0]


def test_repr():
    S = hs.SparseTensor(torch.ones(2, 3, requires_grad=True), [0, 1, 1], [0, 0, 1], (2, 2))
    assert repr(S) == (
        "SparseTensor(batch=2, shape=(2, 2), nnz=3, torch.float32, cpu, requires_grad=True)"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6), (3, 5, 7), (1, 1), (0, 0)])
def test_files_there_and_back(shape, dtype, tmp_path):
    S = hs.SparseTensor.from_dense(dense_batch(*shape).to(dtype))
    path = tmp_path / "a.h5"
    S.save(path)
    back = hs.SparseTensor.load(path)
    assert back.dtype == dtype and back.shape == S.shape and back.batch_size == S.batch_size
    assert torch.equal(back.to_dense(), S.to_dense())


@needs_rectangular
def test_a_rectangular_matrix_there_and_back(tmp_path):
    S = hs.SparseTensor.from_dense(dense_batch(5, 7))
    S.save(tmp_path / "a.h5")
    assert torch.equal(hs.SparseTensor.load(tmp_path / "a.h5").to_dense(), S.to_dense())


def test_files_go_through_the_partition_command(tmp_path):
    """`partition` reads what `save` wrote, and `load` gives a partitioned file in our order."""
    dense = dense_batch(12, 12) + 5 * torch.eye(12, dtype=torch.float64)
    ours, parts = str(tmp_path / "a.h5"), str(tmp_path / "p.h5")
    hs.SparseTensor.from_dense(dense).save(ours)
    assert main(["partition", ours, "-o", parts, "--parts", "3"]) == 0
    assert torch.equal(hs.SparseTensor.load(parts).to_dense(), dense)
    assert main(["info", ours]) == 0


def test_files_that_are_none(tmp_path):
    (tmp_path / "text").write_text("nothing of ours")
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    for name, message in (("text", "text"), ("other.npz", "SparseTensor.save"), ("gone", "gone")):
        with pytest.raises(hs.InputError, match=message):
            hs.SparseTensor.load(tmp_path / name)


def test_a_batch_is_readable_with_numpy_alone(tmp_path):
    dense = dense_batch(2, 4, 4)
    hs.SparseTensor.from_dense(dense).save(tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as archive:
        found = np.zeros((2, *archive["shape"]))
        found[:, archive["row"], archive["col"]] = archive["values"]
    np.testing.assert_array_equal(found, dense)


def test_what_cannot_be_is_refused():
    one = torch.ones(2)
    S = hs.SparseTensor(one, [0, 1], [0, 1], (2, 2))
    batch = S.with_values(torch.ones(3, 2))
    cases = [
        ("outside 0 to 1", lambda: hs.SparseTensor(one, [0, 2], [0, 1], (2, 2))),
        ("index -1", lambda: hs.SparseTensor(one, [0, 1], [0, -1], (2, 2))),
        ("do not make pairs", lambda: hs.SparseTensor(one, [0, 1], [0], (2, 2))),
        ("not integers", lambda: hs.SparseTensor(one, [0.5, 1], [0, 1], (2, 2))),
        ("neither", lambda: hs.SparseTensor(one, [0], [0], (2, 2))),
        ("neither", lambda: hs.SparseTensor(torch.ones(1, 1, 3), [0, 1], [0, 1], (2, 2))),
        ("not supported", lambda: hs.SparseTensor(one.long(), [0, 1], [0, 1], (2, 2))),
        ("not the shape", lambda: hs.SparseTensor(one, [0, 1], [0, 1], (2,))),
        ("too large", lambda: hs.SparseTensor(one, [0, 1], [0, 1], (2**32, 2**32))),
        ("does not go with a matrix", lambda: S @ torch.ones(3)),
        ("does not go with a batch", lambda: batch @ torch.ones(3, 3)),
        ("a batch of 2 does not go", lambda: batch @ torch.ones(2, 2)),
        ("not 1 to 3", lambda: S @ torch.ones(1, 1, 1, 2)),
        ("does not go with", lambda: S @ torch.ones(2, dtype=torch.float64)),
        ("neither", lambda: S.with_values(torch.ones(3))),
        ("not supported", lambda: S.to(torch.float16)),
        ("complex", lambda: hs.SparseTensor.from_scipy(sp.eye(2) * 1j)),
        ("not a SciPy", lambda: hs.SparseTensor.from_scipy(np.eye(2))),
    ]
    for message, call in cases:
        with pytest.raises(hs.InputError, match=message):
            call()
    with pytest.raises(TypeError):
        S @ 3
