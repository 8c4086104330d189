"""Files to read, to spoil and to compare."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_writer import write_matrix

DENSE = np.array([[4.0, 0, -1], [0, 2.5, 0], [7, 0, 0]])
SYMMETRIC = np.array([[4.0, -1, 0], [-1, 4, -1], [0, -1, 4]])
GENERAL = "coordinate real general"
CSR = {"format": b"csr", "shape": np.array([2, 2]), "data": np.ones(2)}
COO = {"format": b"coo", "shape": np.array([2, 2]), "data": np.ones(2)}


@dataclass
class Content:
    """What goes into a matrix file, in stored order."""

    matrix: Any
    part_offsets: np.ndarray
    permutation: np.ndarray
    rhs: dict[str, np.ndarray]
    solutions: dict[str, np.ndarray]
    coordinates: np.ndarray | None
    column_part_offsets: np.ndarray | None = None
    column_permutation: np.ndarray | None = None

    def write(self, path: Path, **attributes: Any) -> Path:
        write_matrix(
            path,
            self.matrix,
            self.part_offsets,
            self.permutation,
            self.rhs,
            self.coordinates,
            attributes,
            self.solutions,
            self.column_part_offsets,
            self.column_permutation,
        )
        return path


def random_content(
    seed: int, n: int = 40, dtype: Any = np.float64, density: float = 0.1, n_cols: int | None = None
) -> Content:
    """A random matrix with some empty rows, three parts of random size, everything optional.

    A rectangular one has its columns in three parts, too.
    """
    rng = np.random.default_rng(seed)
    n_cols = n if n_cols is None else n_cols
    matrix = sp.random_array((n, n_cols), density=density, rng=rng, format="csr", dtype=dtype)
    matrix = sp.csr_array(matrix)
    matrix.sort_indices()
    cuts = np.sort(rng.integers(0, n + 1, 2))
    rectangular = n_cols != n
    return Content(
        matrix,
        np.array([0, *cuts, n]),
        rng.permutation(n),
        {"b": rng.standard_normal(n).astype(dtype), "two": rng.random((n, 2)).astype(dtype)},
        {"b": rng.random(n_cols).astype(dtype)},
        rng.random((n, 3)),
        np.array([0, *np.sort(rng.integers(0, n_cols + 1, 2)), n_cols]) if rectangular else None,
        rng.permutation(n_cols) if rectangular else None,
    )


def read_everything(path: Path) -> dict[str, Any]:
    """All that a matrix file tells through its reader."""
    with MatrixFile(path) as file:
        n, n_cols = file.n_rows, file.n_cols
        indptr, indices, data = file.read_rows(0, n)
        return {
            "shape": (file.n_rows, file.n_cols, file.nnz),
            "indptr": indptr,
            "indices": indices,
            "data": data,
            "part_offsets": file.part_offsets,
            "permutation": file.read_permutation(0, n),
            "column_part_offsets": file.column_part_offsets,
            "column_permutation": file.read_column_permutation(0, n_cols),
            "coordinates": file.read_coordinates(0, n) if file.has_coordinates else None,
            "digest": file.digest,
            "attributes": file.attributes,
            **{f"rhs/{name}": file.read_rhs(name, 0, n) for name in file.rhs_names},
            **{
                f"solution/{name}": file.read_solution(name, 0, n_cols)
                for name in file.solution_names
            },
        }


def assert_identical(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Same keys, same bits."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == other[key].dtype, key
            assert value.shape == other[key].shape, key
            assert value.tobytes() == other[key].tobytes(), key
        else:
            assert value == other[key], key


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a finished file in place, the way a faulty writer would have made it."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)


def replace(file: h5py.File, name: str, values: Any, **options: Any) -> None:
    """Put another dataset in the place of `name`."""
    if name in file:
        del file[name]
    file.create_dataset(name, data=values, **options)


def assert_message(
    error: InputError, path: str | os.PathLike[str], field: str | None, *words: str
) -> None:
    """One line that names the file and the field, and says what to do."""
    text = str(error)
    assert "\n" not in text
    assert text.startswith(os.fspath(path))
    assert error.file == os.fspath(path)
    assert error.field == field
    assert error.remedy, "no remedy"
    for word in words:
        assert word in text, text


@contextmanager
def as_ordinary_user() -> Iterator[Path]:
    """A folder open to all, and for the block no more rights than anybody's, root or not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        if not os.access(folder, os.W_OK):
            pytest.skip("an ordinary user cannot get at the temporary folder")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o777)
        shutil.rmtree(folder)


def random_square(seed=0, n=30, density=0.15):
    return sp.random_array((n, n), density=density, rng=np.random.default_rng(seed), format="csr")


def dense(path):
    return read_source(path).matrix.toarray()


def refused(path, *words, read=read_source, file=None):
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.remedy
    assert caught.value.file == str(file or path)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def without(name):
    return lambda file: file.__delitem__(name)


def market(header, body):
    return f"%%MatrixMarket matrix {header}\n{body}\n".encode()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(values, **options):
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()
