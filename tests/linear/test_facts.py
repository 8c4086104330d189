"""What is found of a matrix, beside dense formulas, on any number of ranks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from hpc_sla.linear.facts import MatrixFacts, look
from hpc_sla.sparse.symmetry import is_symmetric
from tests.collective import ALL_SHAPES, PARTITIONS, distribute, random_matrix, spd_matrix

pytestmark = pytest.mark.mpi

ROUNDED = {"dominance", "column_dominance", "wrong_sign"}
SMALL = {np.float64: 2e-13, np.float32: 4e-6}
SYMMETRIC = {np.float64: 1e-11, np.float32: 2e-5}


def oracle(matrix: sp.csr_matrix) -> dict:
    """Every fact, by dense formulas."""
    small = SMALL[matrix.dtype.type]
    stored, a = sp.csr_matrix(matrix), matrix.toarray().astype(np.float64)
    m, n = a.shape
    magnitude = np.abs(a)
    nonzero = a[a != 0]
    found = {
        "rows": m,
        "columns": n,
        "entries": stored.nnz,
        "dtype": torch.from_numpy(stored.data[:0]).dtype,
        "empty_rows": (~magnitude.any(axis=1)).sum(),
        "empty_columns": (~magnitude.any(axis=0)).sum(),
        "largest_row": np.diff(stored.indptr).max(initial=0),
        "largest_abs": magnitude.max(initial=0),
        "smallest_abs": np.abs(nonzero).min() if len(nonzero) else 0,
    }
    if m != n:
        keep, keep_columns = magnitude.any(axis=1), magnitude.any(axis=0)
        k = a[keep][:, keep_columns]
        off, diagonal = k, None
        found |= dict.fromkeys(("symmetric", "symmetric_rest", "pattern_symmetric"), False)
        found |= dict.fromkeys(("positive", "negative", "zero", "decoupled", "weakly_dominant"), 0)
        found |= {"asymmetry": 1.0, "diagonal_spread": 1.0, "wrong_sign": 0.0}
        found |= {"dominance": np.inf if len(k) else 0, "null_components": None}
        found["null_multipliers"] = False
        found["column_dominance"] = np.inf if k.shape[1] else 0
    else:
        keep = (magnitude - np.diag(np.diag(magnitude))).any(axis=1)
        k = a[keep][:, keep]
        diagonal = np.diag(k)
        off = k - np.diag(diagonal)
        with np.errstate(all="ignore"):
            scale = np.sqrt(magnitude.max(axis=1, initial=0))
            beside = np.maximum(magnitude + magnitude.T, np.outer(scale, scale))
            share = np.nan_to_num(np.abs(a - a.T) / beside)
            dominance = np.where(diagonal == 0, np.inf, np.abs(off).sum(axis=1) / abs(diagonal))
            columns = np.where(diagonal == 0, np.inf, np.abs(off).sum(axis=0) / abs(diagonal))
        on = np.abs(diagonal[diagonal != 0])
        weights = np.abs(off[diagonal != 0]) / magnitude[keep].max(axis=1)[diagonal != 0, None]
        wrong = weights * (np.sign(off) == np.sign(diagonal)[:, None])[diagonal != 0]
        tied = k[:, diagonal == 0]
        parts, label = connected_components(sp.csr_matrix(k), directed=False)
        null = np.abs(k.sum(axis=1)) <= small * np.abs(k).sum(axis=1)
        found |= {
            "symmetric": share.max(initial=0) <= SYMMETRIC[matrix.dtype.type],
            "symmetric_rest": share[keep][:, keep].max(initial=0) <= SYMMETRIC[matrix.dtype.type],
            "pattern_symmetric": np.array_equal(a != 0, a.T != 0),
            "asymmetry": share.max(initial=0),
            "decoupled": (~keep & magnitude.any(axis=1)).sum(),
            "positive": (diagonal > 0).sum(),
            "negative": (diagonal < 0).sum(),
            "zero": (diagonal == 0).sum(),
            "diagonal_spread": on.max() / on.min() if len(on) else 1,
            "dominance": dominance.max(initial=0),
            "weakly_dominant": (dominance <= 1 + small).sum(),
            "column_dominance": columns.max(initial=0),
            "wrong_sign": wrong.sum() / weights.sum() if weights.sum() else 0,
            "null_multipliers": len(on) < len(k)
            and (
                abs(tied.sum(axis=1)) <= small * abs(tied).sum(axis=1).clip(abs(tied).max())
            ).all(),
            "null_components": sum(null[label == i].all() for i in range(parts)),
        }
    for name, axis in (("zero_row_sums", 1), ("zero_column_sums", 0)):
        sums, sizes = np.abs(k.sum(axis=axis)), np.abs(k).sum(axis=axis)
        found[name] = bool(len(sums) and (sums <= small * sizes).all())
    return found


def grid(n: int) -> sp.csr_matrix:
    """Five points."""
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(line, line))


def ring(n: int, scale: float = 1.0) -> sp.csr_matrix:
    """A floating body."""
    turn = sp.csr_matrix((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return sp.csr_matrix(scale * (2 * sp.eye(n) - turn - turn.T))


def pulling(on: float) -> sp.csr_matrix:
    """The second has an entry in a column of the first, which knows nothing of it."""
    a = sp.lil_matrix(sp.block_diag([ring(12), ring(12)]))
    a[18, 3] = -1.0
    a[18, 18] += on
    return sp.csr_matrix(a)


def dirichlet(n: int, eliminated: bool) -> sp.csr_matrix:
    """Identity rows, whose columns others may still refer to."""
    a = sp.lil_matrix(1e6 * grid(n))
    fixed = np.arange(0, n * n, n)
    a[fixed] = 0
    if eliminated:
        a[:, fixed] = 0
    a[fixed, fixed] = 1
    return sp.csr_matrix(a)


def saddle(stored: bool, sign: float = 1.0) -> sp.csr_matrix:
    """12 zeros on the diagonal, stored or not."""
    b = random_matrix(36, 0.2, 5)[:12]
    a = sp.csr_matrix(sp.bmat([[grid(6), b.T], [sign * b, None]]))
    if stored:
        a = with_zeros(a, np.arange(36, 48), np.arange(36, 48))
    return a


def closed_flow() -> sp.csr_matrix:
    """Of pressures, only differences matter."""
    b = sp.csr_matrix(np.eye(13, 14) - np.eye(13, 14, k=1))
    flow = sp.diags([-1.0, 3.0, -1.0], [-1, 0, 1], shape=(13, 13))
    a = sp.lil_matrix(sp.bmat([[flow, b / 3], [b.T / 3, None]]))
    a[3, 20], a[20, 3] = 1e-17, 1e-17  # what rounding leaves of a zero
    return mixed(a, 11)


def with_zeros(matrix: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> sp.csr_matrix:
    """Some places stored, with nothing in them."""
    a = sp.coo_matrix(matrix)
    data = np.concatenate([a.data, np.zeros(len(rows), dtype=a.dtype)])
    places = (np.concatenate([a.row, rows]), np.concatenate([a.col, columns]))
    return sp.csr_matrix((data, places), shape=a.shape)


def cancelled() -> sp.csr_matrix:
    """What rounding leaves of sums that cancel: noise on one side, nothing on the other."""
    a = sp.lil_matrix(grid(6))
    a[3, 30], a[7, 20], a[20, 7] = 1e-16, 2e-16, -1e-16
    return sp.csr_matrix(a)


def nearly(by: float) -> sp.csr_matrix:
    a = sp.lil_matrix(grid(6))
    a[14, 15] *= 1 + by
    return sp.csr_matrix(a)


def arrow(n: int) -> sp.csr_matrix:
    """A row and a column through all."""
    a = sp.lil_matrix(sp.eye(n) * 3.0)
    a[0, :], a[:, 0] = -1.0, -1.0
    return sp.csr_matrix(a)


def units(matrix: sp.csr_matrix, decades: float) -> sp.csr_matrix:
    scale = sp.diags(10.0 ** np.random.default_rng(8).uniform(-decades, decades, matrix.shape[0]))
    return sp.csr_matrix(scale @ matrix @ scale)


def markov(n: int) -> sp.csr_matrix:
    """I - P^T: columns sum to zero, rows do not."""
    p = abs(random_matrix(n, 0.2, 6)) + 0.01 * sp.eye(n)
    return sp.csr_matrix(sp.eye(n) - (sp.diags(1 / np.asarray(p.sum(axis=1)).ravel()) @ p).T)


CASES = ALL_SHAPES | {
    "grid": lambda: grid(6),
    "negative grid": lambda: -grid(6),
    "shifted grid": lambda: sp.csr_matrix(grid(6) - 3 * sp.eye(36)),
    "grid in units": lambda: units(grid(6), 9),
    "grid in float32": lambda: grid(6).astype(np.float32),
    "random in float32": lambda: random_matrix(20, 0.3, 9, symmetric=True).astype(np.float32),
    "ring": lambda: ring(25),
    "ring in float32": lambda: ring(25, 1 / 3).astype(np.float32),
    "bodies": lambda: sp.csr_matrix(sp.block_diag([ring(9), ring(8, 1e9), ring(11), grid(3)])),
    "bodies, all floating": lambda: sp.csr_matrix(sp.block_diag([ring(9), ring(8, 1e-9)])),
    "bodies mixed up": lambda: mixed(sp.block_diag([ring(9), ring(8), grid(3), ring(5)]), 3),
    "many bodies": lambda: sp.csr_matrix(sp.kron(sp.eye(12), ring(3))),
    "one-way ties": lambda: mixed(sp.block_diag([np.eye(9) - np.roll(np.eye(9), 1, 1)] * 2), 5),
    "a body that pulls at another": lambda: pulling(0.0),
    "a body that hangs on another": lambda: pulling(1.0),
    "dirichlet": lambda: dirichlet(6, eliminated=True),
    "dirichlet with columns": lambda: dirichlet(6, eliminated=False),
    "saddle": lambda: saddle(stored=False),
    "saddle with zeros": lambda: saddle(stored=True),
    "saddle with a skew sign": lambda: saddle(stored=True, sign=-1),
    "closed flow": closed_flow,
    "cancelled": cancelled,
    "nearly by 1e-9": lambda: nearly(1e-9),
    "nearly by 1e-15": lambda: nearly(1e-15),
    "zeros stored on one side": lambda: with_zeros(grid(6), np.arange(9), np.arange(9) + 20),
    "arrow": lambda: arrow(30),
    "markov": lambda: markov(30),
    "convection": lambda: sp.csr_matrix(grid(6) + 0.5 * (sp.eye(36, k=1) - sp.eye(36, k=-1))),
    "diagonal": lambda: sp.csr_matrix(sp.diags(np.arange(1.0, 9.0))),
    "triangle": lambda: sp.csr_matrix(sp.tril(spd_matrix(19, 7))),
    "skew": lambda: sp.csr_matrix(np.kron(np.eye(6), [[0.0, 1.0], [-1.0, 0.0]])),
    "differences": lambda: sp.csr_matrix(np.eye(9, 10) - np.eye(9, 10, k=1)),
}


def mixed(matrix: sp.spmatrix, seed: int) -> sp.csr_matrix:
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    return sp.csr_matrix(sp.csr_matrix(matrix)[order][:, order])


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", CASES)
def test_facts_are_the_dense_ones(world, name, partition):
    matrix = CASES[name]()
    found = look(distribute(matrix, world, partition))
    everyones = world.comm.allgather(found)
    assert everyones == [found] * world.size  # NaN is not among them
    expected = oracle(matrix)
    for field in dataclasses.fields(MatrixFacts):
        value, right = getattr(found, field.name), expected.pop(field.name)
        if isinstance(value, float):
            digits = 1e-5 if field.name in ROUNDED else 1e-14
            least = 1e-6 if field.name == "wrong_sign" else 1e-300
            assert value == pytest.approx(right, rel=digits, abs=least), field.name
        else:
            assert value == right, field.name
    assert not expected
    assert is_symmetric(distribute(matrix, world, partition)) == found.symmetric


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, -1])
def test_what_is_not_finite_is_no_symmetry(world, bad, where):
    """In an entry of some rank: the first, in owned columns, or the last, perhaps in the halo."""
    A = distribute(grid(6), world)
    values = A.values.clone()
    if world.rank == world.size - 1:
        values[where] = bad
    A = A.with_values(values)
    found = look(A)
    assert world.comm.allgather(repr(found)) == [repr(found)] * world.size
    assert not (found.symmetric or found.symmetric_rest or is_symmetric(A))
    assert found.largest_abs == np.inf and not found.zero_row_sums


TOLD = {
    "grid": ["symmetric, to the last bit", "positive diagonal", "diagonally dominant"],
    "cancelled": ["symmetric, to rounding"],
    "nearly by 1e-9": ["not symmetric (differences to 2.5e-10), its pattern is"],
    "triangle": ["not symmetric (differences to 4.6e-01), its pattern is not, either"],
    "saddle": ["diagonal: 36 positive, 12 zero"],
    "closed flow": ["constants on the rows with a zero diagonal are in the nullspace"],
    "skew": ["zero diagonal"],
    "diagonal": ["diagonal"],
    "grid in units": ["positive diagonal, its magnitudes 8.7e+34 apart"],
    "dirichlet with columns": [
        "symmetric but for the columns of rows with nothing but a diagonal entry",
        "6 rows with nothing but a diagonal entry",
    ],
    "ring": ["row sums are zero: constants are in the nullspace"],
    "bodies": ["row sums are zero in all of 3 connected parts: singular"],
    "many bodies": ["12 connected parts, each with its own constants"],
    "markov": ["column sums are zero: it can only be solved where b sums to zero"],
    "disconnected": ["4 rows without a nonzero: singular"],
    "differences": ["9 x 10, 18 entries, at most 2 in a row, float64"],
}


M_MATRICES = {"grid", "nearly by 1e-9", "grid in units", "dirichlet with columns", "ring", "bodies"}
M_MATRICES |= {"many bodies", "markov", "cancelled"}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(world, name):
    lines = look(distribute(CASES[name](), world)).describe()
    assert set(TOLD[name]) <= set(lines)
    assert any("M-matrix" in line for line in lines) == (name in M_MATRICES)


def test_every_field_is_seen_both_ways():
    """The table has a case in which each fact holds, and one in which it does not."""
    seen = [oracle(make()) for make in CASES.values()]
    for field in dataclasses.fields(MatrixFacts):
        values = {facts[field.name] for facts in seen}
        assert len(values) > 1, field.name
