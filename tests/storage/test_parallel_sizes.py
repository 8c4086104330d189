"""What a file declares, and what ranks need memory for."""

from __future__ import annotations

import gzip
import re
import struct

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.storage import limits
from tests.collective import everywhere
from tests.storage.files import market, npz, random_square
from tests.storage.together import (
    alone,
    differences,
    message,
    on_root,
    rows_of_vector,
    together,
)

pytestmark = pytest.mark.mpi

LARGE = 10**15
BEYOND = 10**30
"""More than any integer of 64 bits."""


@pytest.fixture
def unaided(monkeypatch):
    """As in a file that is too large for one process to say what is wrong with it."""
    monkeypatch.setattr("hpc_sla.storage.parallel.source._READ_AGAIN", -1)


def coordinate(*sizes, symmetry="general"):
    return market(f"coordinate real {symmetry}", " ".join(map(str, sizes)) + "\n1 1 2.5")


def compressed_by_rows(shape):
    arrays = {"indptr": [0, 1], "indices": [0], "data": [2.5]}
    return npz(format=b"csr", shape=np.array(shape), **{k: np.array(v) for k, v in arrays.items()})


def exaggerating(factor):
    """An archive in whose directory a member is longer than the file."""
    content = bytearray(compressed_by_rows([1, 1]))
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data.npy"))
    (size,) = struct.unpack_from("<I", content, place + 24)
    struct.pack_into("<II", content, place + 20, factor * size, factor * size)
    return bytes(content)


TOLD = re.compile("declares|[Oo]ut of range")
MATRICES = {
    "entries": ("m.mtx", coordinate(9, 9, LARGE)),
    "entries, compressed": ("m.mtx.gz", gzip.compress(coordinate(9, 9, LARGE))),
    "entries of both triangles": ("m.mtx", coordinate(9, 9, LARGE, symmetry="symmetric")),
    "entries beyond": ("m.mtx", coordinate(9, 9, BEYOND)),
    "rows": ("m.mtx", coordinate(LARGE, 9, 1)),
    "rows beyond": ("m.mtx", coordinate(BEYOND, BEYOND, 1)),
    "columns beyond": ("m.mtx", coordinate(9, BEYOND, 1)),
    "array": ("m.mtx", market("array real general", f"{LARGE} 3\n1.0")),
    "npz rows": ("m.npz", compressed_by_rows([LARGE, 3])),
    "npz length": ("m.npz", exaggerating(1 << 20)),
}


@pytest.mark.usefixtures("unaided")
@pytest.mark.parametrize("case", MATRICES)
def test_matrices_that_declare_more_than_there_is(world, folder, case):
    name, content = MATRICES[case]
    path = folder / name
    on_root(world, lambda: path.write_bytes(content))
    said = message(lambda: together(world, path))
    assert everywhere(world, TOLD.search(said)), said


@pytest.mark.usefixtures("unaided")
def test_vectors_that_declare_more_than_there_is(world, folder):
    for sizes in ((LARGE, 1, 1), (3, LARGE, 1), (3, BEYOND, 1)):
        path = folder / "b.mtx"
        on_root(world, lambda path=path, sizes=sizes: path.write_bytes(coordinate(*sizes)))
        said = message(lambda path=path: rows_of_vector(world, path))
        assert everywhere(world, TOLD.search(said)), (sizes, said)


def of_memory(monkeypatch, n_bytes):
    monkeypatch.setattr(limits, "machine_memory", lambda: n_bytes)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_rank_needs_memory_for_its_own_part_of_an_archive(world, folder, monkeypatch, compressed):
    path = folder / "m.npz"
    matrix = sp.csr_array(random_square(2, n=60, density=0.5))
    on_root(world, lambda: sp.save_npz(path, matrix, compressed=compressed))
    whole = alone(path)
    of_memory(monkeypatch, matrix.data.nbytes * 3 // 4)
    monkeypatch.setattr("hpc_sla.storage.parallel.source._READ_AGAIN", -1)
    found: list = []
    said = message(lambda: found.append(together(world, path)))
    if world.size == 1:
        assert "declares" in said
    else:
        assert everywhere(world, said == ""), said
        assert everywhere(world, differences(found[0], whole) == [])
    of_memory(monkeypatch, 99)
    said = message(lambda: together(world, path))
    assert everywhere(world, "declares" in said), said
