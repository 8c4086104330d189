"""Files read by many ranks give what one process reads, bit for bit."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.messages.peers import Peers
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.storage import matrix_market_lines
from hpc_sla.storage.importers import read_source, read_vector
from hpc_sla.storage.parallel import market_lines
from hpc_sla.storage.parallel.source import read_source_rows, read_vector_rows
from tests.collective import everywhere
from tests.storage.files import market, random_content, random_square
from tests.storage.test_other_formats import anndata, matlab73
from tests.storage.test_petsc_binary import mat, vec

pytestmark = pytest.mark.mpi


def cut_for(world):
    return lambda shape, block_size=None: even_offsets(shape[0], world.size)


def together(world, path):
    """The whole on every rank: arrays of what `read_source` has in its fields."""
    with Peers(world.comm) as peers:
        mine = read_source_rows(peers, path, cut_for(world))
    matrix = mine.rows.matrix
    gathered = world.comm.allgather
    counts = np.concatenate(gathered(np.diff(matrix.indptr)))
    found = {
        "counts": counts.astype(np.int64),
        "indices": np.concatenate(gathered(matrix.indices)).astype(np.int64),
        "data": np.concatenate(gathered(matrix.data)),
        "shape": mine.rows.shape,
        "block_size": mine.block_size,
    }
    for name in ("coordinates", "near_nullspace"):
        part = getattr(mine, name)
        found[name] = None if part is None else np.concatenate(gathered(part))
    for group in ("rhs_by_name", "solution_by_name"):
        for name, part in getattr(mine, group).items():
            found[f"{group}/{name}"] = np.concatenate(gathered(part))
    return found


def alone(path):
    whole = read_source(path)
    return {
        "counts": np.diff(whole.matrix.indptr).astype(np.int64),
        "indices": whole.matrix.indices.astype(np.int64),
        "data": whole.matrix.data,
        "shape": whole.matrix.shape,
        "block_size": whole.block_size,
        "coordinates": whole.coordinates,
        "near_nullspace": whole.near_nullspace,
        **{f"rhs_by_name/{name}": b for name, b in whole.rhs_by_name.items()},
        **{f"solution_by_name/{name}": x for name, x in whole.solution_by_name.items()},
    }


def differences(one, other):
    """Names of what is not the same, to the last bit."""
    if one.keys() != other.keys():
        return [f"{sorted(one)} and {sorted(other)}"]
    return [name for name in one if not _same(one[name], other[name])]


def _same(one, other):
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return one is other or one == other


def on_root(world, make):
    world.on_root(lambda: make() and None)


def repeated(seed, shape, entries):
    """Entries in no order, many of them given more than once."""
    rng = np.random.default_rng(seed)
    rows, cols = (rng.integers(0, n, entries) for n in shape)
    return sp.coo_array((rng.standard_normal(entries), (rows, cols)), shape=shape)


def a_market(kind, n=23):
    rng = np.random.default_rng(5)
    full = random_square(n=n, density=0.2).toarray()
    form, values, symmetry = kind.split()
    if symmetry == "symmetric":
        full = full + full.T
    if symmetry == "skew-symmetric":
        full = full - full.T
    lines = []
    for j in range(n):
        for i in range(0 if symmetry == "general" else j + (symmetry[1] == "k"), n):
            value = int(100 * full[i, j]) if values == "integer" else float(full[i, j])
            if form == "array":
                lines.append(f"{value!r}")
            elif full[i, j]:
                lines.append(f"{i + 1} {j + 1}" + ("" if values == "pattern" else f" {value!r}"))
    count = len(lines)
    if form == "coordinate":
        rng.shuffle(lines)
        lines.insert(3, "% a comment")
        lines.insert(7, "")
    sizes = f"{n} {n} {count}" if form == "coordinate" else f"{n} {n}"
    return market(kind, "\n".join([f"% {'long ' * 9}", sizes, *lines]))


KINDS = [
    f"{form} {values} {symmetry}"
    for form in ("coordinate", "array")
    for values in ("real", "integer", "pattern")
    for symmetry in ("general", "symmetric", "skew-symmetric")
    if values != "pattern" or (form == "coordinate" and symmetry != "skew-symmetric")
]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few lines, so that a small file has many."""
    monkeypatch.setattr(market_lines, "BLOCK", 100)
    monkeypatch.setattr(market_lines, "_SCAN", 7)
    monkeypatch.setattr(matrix_market_lines, "BLOCK", 100)


@pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix_market(world, folder, small_blocks, kind, suffix):
    path = folder / f"m{suffix}"
    text = a_market(kind)
    on_root(world, lambda: path.write_bytes(gzip.compress(text) if suffix[4:] else text))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["data"]) > 20


def test_matrix_market_that_is_rectangular_repeats_entries_and_has_no_last_newline(
    world, folder, small_blocks
):
    path = folder / "m.mtx"
    coo = repeated(1, (9, 31), 400)

    def write():
        scipy.io.mmwrite(path, coo, precision=17)
        path.write_bytes(path.read_bytes().rstrip())

    on_root(world, write)
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_npz(world, folder, form, dtype, compressed):
    path = folder / "m.npz"

    def write():
        if form == "coo":
            matrix = repeated(2, (26, 38), 500)
        elif form == "dia":
            diagonals = np.random.default_rng(3).integers(-2, 3, (4, 30))
            matrix = sp.dia_array((diagonals, [-7, 3, 0, 12]), shape=(26, 28))
        else:
            rows = sp.csr_array(random_square(4, n=36))
            matrix = rows.tobsr((3, 2)) if form == "bsr" else rows.asformat(form)
        matrix = matrix.copy()
        matrix.data = (matrix.data * 10).astype(dtype)
        sp.save_npz(path, matrix, compressed=compressed)

    on_root(world, write)
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["data"]) > 20


def test_npz_by_hand(world, folder):
    """Rows unsorted and with entries given twice; arrays longer than the pointers say."""
    path = folder / "m.npz"
    rng = np.random.default_rng(6)
    n, counts = 17, rng.integers(0, 30, 17)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    arrays = {
        "format": b"csr",
        "shape": np.array([n, n]),
        "indptr": indptr,
        "indices": rng.integers(0, n, indptr[-1] + 5).astype("i4"),
        "data": rng.standard_normal(indptr[-1] + 5),
    }
    for save in (np.savez, np.savez_compressed):
        on_root(world, lambda save=save: save(path, **arrays))
        assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("wide", [False, True])
def test_petsc(world, folder, wide):
    path = folder / "m.petsc"
    matrix = sp.csr_array(random_square(7, n=29))
    lengths = np.diff(matrix.indptr)
    arguments = (29, 29, matrix.nnz, lengths, matrix.indices, matrix.data)
    content = mat(wide, *arguments) + vec(wide, np.arange(29.0)) + vec(wide)
    on_root(world, lambda: path.write_bytes(content))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["rhs_by_name/b"]) == 29


@pytest.mark.parametrize("form", ["csr", "csc", "matlab", "empty"])
def test_hdf5_of_other_programs(world, folder, form):
    path = folder / "m.h5"
    full = random_square(8, n=21).toarray()[:, :18]

    def write():
        if form in ("csr", "csc"):
            anndata(path, full, form)
        else:
            matlab73(path, "A", full if form == "matlab" else np.zeros((5, 3)))

    on_root(world, write)
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_matrix_files_come_back_in_the_users_order(world, folder, dtype):
    path = folder / "m.h5"
    on_root(world, lambda: random_content(9, n=43, dtype=dtype).write(path, block_size=1))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert found["coordinates"] is not None and "solution_by_name/b" in found


def test_what_is_read_on_rank_0_and_handed_out(world, folder):
    path = folder / "m.mat"
    matrix = random_square(10, n=19)
    on_root(world, lambda: scipy.io.savemat(path, {"A": matrix, "b": np.arange(19.0)}))
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


def test_fewer_rows_than_ranks(world, folder):
    for name, write in (
        ("m.npz", lambda p: sp.save_npz(p, sp.csr_array(np.array([[2.0]])))),
        ("c.npz", lambda p: sp.save_npz(p, sp.csc_array(np.array([[0.0, 2.0]])))),
        ("m.mtx", lambda p: scipy.io.mmwrite(p, sp.coo_array(np.array([[2.0]])))),
        ("m.petsc", lambda p: p.write_bytes(mat(False, 1, 1, 1, (1,), (0,), (2.0,)))),
        ("no.npz", lambda p: sp.save_npz(p, sp.csr_array((0, 0)))),
    ):
        path = folder / name
        on_root(world, lambda write=write, path=path: write(path))
        assert everywhere(world, differences(together(world, path), alone(path)) == []), name


# Vectors


def rows_of_vector(world, path):
    with Peers(world.comm) as peers:
        mine = read_vector_rows(peers, path, cut_for(world))
    return np.concatenate(world.comm.allgather(mine))


@pytest.mark.parametrize("shape", [(23,), (23, 1), (23, 3), (0,), (2, 2)])
@pytest.mark.parametrize("suffix", [".npy", "F.npy", ".mtx", ".mtx.gz", ".petsc", ".mat"])
def test_vectors(world, folder, small_blocks, suffix, shape):
    path = folder / f"b{suffix}"
    values = np.random.default_rng(11).standard_normal(shape)
    if (".mtx" in suffix and len(shape) == 1) or (suffix == ".mat" and not values.size):
        return
    if suffix == ".petsc":
        values = values.reshape(-1)

    def write():
        if "npy" in suffix:
            np.save(path, np.asfortranarray(values) if suffix[0] == "F" else values)
        elif ".mtx" in suffix:
            text = io.BytesIO()
            scipy.io.mmwrite(text, values, precision=17)
            content = text.getvalue()
            path.write_bytes(gzip.compress(content) if suffix[4:] else content)
        elif suffix == ".petsc":
            path.write_bytes(vec(False, values))
        else:
            scipy.io.savemat(path, {"b": values.reshape(len(values), -1)})

    on_root(world, write)
    assert everywhere(world, _same(rows_of_vector(world, path), read_vector(path)))


def test_a_vector_given_as_entries(world, folder):
    path = folder / "b.mtx"
    on_root(world, lambda: scipy.io.mmwrite(path, repeated(12, (20, 2), 300), precision=17))
    assert everywhere(world, _same(rows_of_vector(world, path), read_vector(path)))


def test_readers_leave_paths_alone(world, folder):
    """A path may be a Path, or text."""
    path = folder / "m.npz"
    on_root(world, lambda: sp.save_npz(path, random_square(18)))
    one, other = together(world, str(path)), together(world, Path(path))
    assert everywhere(world, differences(one, other) == [])
