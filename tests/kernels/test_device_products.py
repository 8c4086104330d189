"""A GPU's sparse products: their kernels interpreted, the forms, and what takes their place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.kernels import csr, csr_operator, device_products, slices
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.slices import Slices
from hpc_sla.problems import make
from hpc_sla.sparse import pattern as sparse_pattern
from hpc_sla.sparse import split
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern
from tests.launch import REPOSITORY, launch_python

triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@triton
@pytest.mark.timeout(900)
def test_the_kernels_equal_scipy_interpreted():
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.interpreted_products"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == "same\n", done.stderr


@triton
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ranks", "precond"), [(1, "jacobi"), (2, "jacobi"), (2, "amg")])
def test_solves_by_them_are_those_by_torch_interpreted(ranks, precond, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    program = "tests.kernels.interpreted_solves"
    done = launch_python(ranks, "-m", program, precond, timeout=900, cwd=REPOSITORY)
    assert done.stdout == "same\n", done.stderr


BROKEN = """
import warnings
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from hpc_sla.kernels import device_products, device_steps, fused

def broken(*arguments, **named):
    raise OSError("no compiler here")

with FakeTensorMode(), warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    x = torch.ones(3, device="cuda")
    assert device_products.serves(x) and not device_products.serves(torch.ones(3, 2, device="cuda"))
    device_products._load.cache_clear()
    {what} = broken
    device_steps.works.cache_clear()
    assert not device_products.serves(x) and not device_products.serves(x)
print(len(told), told[0].message)
"""


@triton
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("device_products.DeviceRows.__call__", "1 sparse products in Triton do not work on cuda"),
        ("fused.device_step", "1 Triton does not work on cuda"),
    ],
)
def test_where_triton_fails_one_warning_says_so(what, said):
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(what=what)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith(said), done


def _pattern(matrix):
    matrix = matrix.tocsr()
    matrix.sort_indices()
    arrays = (torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices))
    return CsrPattern(*arrays, matrix.shape[1]), torch.from_numpy(matrix.data)


def _lattice(n):
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    return sp.kron(line, sp.eye(n)) + sp.kron(sp.eye(n), line)


def test_the_form_is_that_of_the_fewest_bytes():
    rng = np.random.default_rng(0)
    n = 60
    even, constant = _pattern(_lattice(n))
    found = DeviceMatrix.of(even, constant)
    assert found.form == "coded 8"
    # Two bytes of a column and one of a value, and little else, where there were twelve.
    assert 3 * even.nnz < found.bytes < 3.5 * even.nnz
    varying = torch.from_numpy(rng.random(even.nnz))
    found = DeviceMatrix.of(even, varying)
    assert found.form == "sliced" and 10 * even.nnz < found.bytes < 10.6 * even.nnz
    several = torch.from_numpy(rng.integers(0, 1000, even.nnz) / 7)
    assert DeviceMatrix.of(even, several).form == "coded 16"
    assert DeviceMatrix.of(*_pattern(_lattice(30))).form == "csr"  # too few rows

    # A few long rows would be padding for all of their slices.
    arrow = sp.lil_matrix(sp.eye(2500))
    arrow[::40, :] = 1.0
    pattern, values = _pattern(arrow)
    assert DeviceMatrix.of(pattern, values).form == "csr"
    assert pattern._cache["slices"] is None

    uneven = sp.random(5000, 5000, 0.001, random_state=1) + sp.eye(5000)
    s = Slices.of(*(getattr(_pattern(uneven)[0], name) for name in ("indptr", "indices")))
    assert s is not None and s.order is not None and s.slots < 1.05 * uneven.nnz


def test_slices_are_made_once_and_values_laid_anew():
    pattern, values = _pattern(_lattice(50))
    first = DeviceMatrix.of(pattern, values)
    made = pattern._cache["slices"]
    assert first.holds(values) and not first.holds(2 * values)
    for other in (2 * values, torch.rand_like(values)):
        second = DeviceMatrix.of(pattern, other)
        assert pattern._cache["slices"] is made
        assert second.holds(other) and not second.holds(values) and first.holds(values)
    nan = values.clone()
    nan[7] = float("nan")
    assert DeviceMatrix.of(pattern, nan).holds(nan)
    zeros = torch.zeros_like(values)
    assert not DeviceMatrix.of(pattern, zeros).holds(-zeros)  # told apart by their bits


def test_values_with_more_than_a_dictionary_holds_are_found_to_be_so(monkeypatch):
    monkeypatch.setattr(slices, "_COLUMNS", 8)
    bits = torch.arange(slices._MOST_DISTINCT + 1).repeat_interleave(3)
    assert slices._distinct(bits) is None
    assert slices._distinct(bits[3:]).tolist() == bits[3::3].tolist()
    late = torch.zeros(5000, dtype=torch.int64)
    late[4711] = 5  # where no sample is taken
    monkeypatch.setattr(slices, "_SAMPLE", 4)
    assert slices._distinct(late).tolist() == [0, 5]


def test_lanes_follow_from_row_lengths():
    def lanes(lengths):
        indptr = torch.tensor(np.concatenate([[0], np.cumsum(lengths)]))
        return device_products.lanes_of(indptr, int(indptr[-1]))

    assert lanes([5] * 100) == 4
    assert lanes([27] * 100) == 16
    assert lanes([1] * 100) == lanes([0] * 10) == lanes([]) == 1
    assert lanes([1000] * 3) == 32
    # A row that would be waited for gets more; one that is longer still is the library's.
    assert lanes([1] * 10000 + [2000]) == 8
    assert lanes([1] * 10000 + [2049]) == 0
    assert lanes([300] * 100 + [32 * 256 + 1]) == 0


def test_entries_that_32_bits_do_not_count(monkeypatch):
    """As 2**31 entries are, so here are 50."""
    for module in (csr, split):
        monkeypatch.setattr(module, "COUNTED", 50)
    monkeypatch.setattr(csr_operator, "_MOST_ENTRIES", 15)
    matrix = sp.random(20, 20, 0.3, random_state=1, format="csr")
    matrix.sort_indices()
    assert matrix.nnz >= 50 and np.diff(matrix.indptr).max() < 15
    arrays = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data.copy()
    rows = split.SplitRows.of(*arrays, 0, 20)
    assert rows.indptr.dtype == np.int64 and rows.indices.dtype == np.int32
    few = split.SplitRows.of(matrix.indptr[:3], matrix.indices[:9], matrix.data[:9], 0, 20)
    assert few.indptr.dtype == np.int32

    pattern = CsrPattern(torch.from_numpy(rows.indptr), torch.from_numpy(rows.indices), 20)
    values, x = torch.from_numpy(rows.values), np.linspace(-1, 1, 20)
    for columns in (x, np.stack([x, x * x], 1)):
        out = torch.full(columns.shape, float("nan"), dtype=torch.float64)
        pattern.matmul(values, torch.from_numpy(columns), out)  # the library, in pieces
        torch.testing.assert_close(out, torch.from_numpy(matrix @ columns))
    assert pattern.rows().dtype == torch.int32
    where = pattern.diagonal_entries(7)
    stored = where >= 0
    np.testing.assert_array_equal(values[where[stored]], matrix.diagonal()[stored.numpy()])
    with pytest.raises(InputError, match="32 bits"):
        pattern.host_arrays()
    monkeypatch.setattr(sparse_pattern, "COUNTED", 50)
    with pytest.raises(InputError, match="32-bit local indices"):
        DSparseMatrix.from_scipy(matrix, World.serial("cpu"))
    s = Slices.of(pattern.indptr, pattern.indices)
    assert s is None or s.starts.dtype == torch.int32
    monkeypatch.setattr(csr_operator, "_MOST_ENTRIES", 2)
    out = torch.full((20,), float("nan"), dtype=torch.float64)
    pattern.matmul(values, torch.from_numpy(x), out)  # of rows that are longer
    torch.testing.assert_close(out, torch.from_numpy(matrix @ x))


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("sorted_", [1, 7, 50, 1 << 27])
def test_a_transpose_is_sorted_in_pieces(sorted_, kind, monkeypatch):
    """2**31 entries cannot be sorted at once. Row pointers are as wide as before."""
    monkeypatch.setattr(csr, "_SORTED", sorted_)
    for shape in ((20, 13), (3, 0), (0, 4), (1, 60)):
        matrix = sp.random(*shape, 0.4, random_state=2, format="csr")
        matrix.sort_indices()
        ends, indices = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
        turned, entries = CsrPattern(ends.to(kind), indices.int(), shape[1]).transposed
        expected = matrix.T.tocsr()
        assert turned.indptr.dtype == entries.dtype == kind
        np.testing.assert_array_equal(turned.indptr, expected.indptr)
        np.testing.assert_array_equal(turned.indices, expected.indices)
        np.testing.assert_array_equal(matrix.data[entries.numpy()], expected.data)


def test_what_cannot_be_set_up_of_so_many_entries_is_refused_on_every_rank(monkeypatch):
    """The rank that has them is another one."""
    pattern = DSparseMatrix.from_scipy(sp.eye(9, format="csr"), World.serial("cpu")).pattern
    layout = pattern.layout
    world = type(
        "Other", (), {"sums": lambda self, counts: counts + np.array([60, 1]), "size": 2}
    )()
    other = type("Layout", (), {"world": world, "n_owned": 9, "n_global": 69, "start": 0})()
    owned = CsrPattern(pattern.owned.indptr, pattern.owned.indices, 9)
    plan = type("Plan", (), {"layout": layout})()
    made = DistributedPattern(other, owned, pattern.halo, pattern.boundary, plan)
    assert made.nnz_global == 69 and owned.nnz < csr.COUNTED
    for block in (made.owned, made.halo, made.owned.at_hand()):
        with pytest.raises(InputError, match="32 bits"):
            block.host_arrays()


def test_values_of_another_dtype_are_others():
    """Be they coded or not, and whatever their bits say."""
    matrix = make("poisson2d:n=60").matrix().tocsr()
    arrays = (torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices))
    pattern = CsrPattern(*arrays, matrix.shape[1])
    rng = np.random.default_rng(0)
    for values in (np.zeros(matrix.nnz), rng.random(matrix.nnz)):
        given = torch.from_numpy(values)
        found = DeviceMatrix.of(pattern, given)
        assert found.form != "csr" and found.holds(given)
        assert not found.holds(given.float())
