"""Vectors that many ranks read are what one process reads, bit for bit."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
import scipy.io

from hpc_sla.storage.importers import read_vector
from tests.collective import everywhere
from tests.storage.test_petsc_binary import vec
from tests.storage.together import (
    on_root,
    repeated,
    rows_of_vector,
    same,
    small_blocks,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.mpi


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", [(23,), (23, 1), (23, 3), (0,), (2, 2)])
@pytest.mark.parametrize("suffix", [".npy", "F.npy", ".mtx", ".mtx.gz", ".petsc", ".mat"])
def test_vectors(world, folder, suffix, shape):
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
    assert everywhere(world, same(rows_of_vector(world, path), read_vector(path)))


def test_a_vector_given_as_entries(world, folder):
    path = folder / "b.mtx"
    on_root(world, lambda: scipy.io.mmwrite(path, repeated(12, (20, 2), 300), precision=17))
    assert everywhere(world, same(rows_of_vector(world, path), read_vector(path)))
