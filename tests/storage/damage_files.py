"""The good files that are damaged, and what is read of each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.partition import order_by_part, reorder
from hpc_sla.storage.importers import read_source, read_vector
from hpc_sla.storage.matrix_writer import write_matrix
from hpc_sla.storage.result_file import ResultWriter, read_result
from tests.storage.files import random_content, read_everything

File = tuple[bytes, str, Callable[[Path], dict[str, Any]]]


def small(path: Path) -> None:
    """Mostly HDF5's own bookkeeping."""
    random_content(0).write(path, source="here", text="some words")


def rectangular(path: Path) -> None:
    random_content(1, n_cols=23).write(path)


def many_blocks(path: Path) -> None:
    """Several blocks a dataset, each with a sum of its own."""
    matrix = problems.make("poisson2d:n=180").matrix()
    n = matrix.shape[0]
    permutation, part_offsets = order_by_part(np.arange(n) % 3, 3)
    rhs = np.random.default_rng(0).random((n, 6))
    write_matrix(path, reorder(matrix, permutation), part_offsets, permutation, {"b": rhs})


def many_chunks(path: Path) -> None:
    """The same as earlier versions wrote it, and others may: in chunks, with fletcher32."""
    many_blocks(path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for name in ("data", "indices", "indptr", "permutation", "rhs/b"):
            values, attributes = file[name][:], dict(file[name].attrs)
            del file[name]
            rows = int(attributes["crc32_rows"])
            item = file.create_dataset(
                name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True
            )
            item.attrs.update(attributes)


def result(path: Path) -> None:
    with ResultWriter(path, 200_000, "f8") as writer:
        writer.write_slab("x", 0, np.random.default_rng(0).random(200_000))
        writer.finish([1.0, 0.5], {"status": "converged"})


def read_whole_result(path: Path) -> dict[str, Any]:
    found = read_result(path)
    return {"x": found.x, "history": found.residual_history, "attributes": found.attributes}


def checksummed() -> dict[str, File]:
    """Files in which damage cannot go unseen: those that this package writes."""
    return {
        "small": (_content(small, ".h5"), ".h5", read_everything),
        "rectangular": (_content(rectangular, ".h5"), ".h5", read_everything),
        "many blocks": (_content(many_blocks, ".h5"), ".h5", read_everything),
        "many chunks": (_content(many_chunks, ".h5"), ".h5", read_everything),
        "result": (_content(result, ".h5"), ".h5", read_whole_result),
    }


def foreign() -> dict[str, File]:
    """Files of other programs: damage to some of them makes another matrix of them."""
    matrix = sp.csr_array(problems.make("poisson2d:n=12").matrix())

    def petsc(path: Path) -> None:
        words = [1211216, *matrix.shape, matrix.nnz, *np.diff(matrix.indptr), *matrix.indices]
        path.write_bytes(np.array(words, ">i4").tobytes() + matrix.data.astype(">f8").tobytes())

    makers: dict[str, tuple[Callable[[Path], Any], str]] = {
        "MatrixMarket": (lambda path: scipy.io.mmwrite(path, matrix), ".mtx"),
        "npz": (lambda path: sp.save_npz(path, matrix), ".npz"),
        "PETSc": (petsc, ".petsc"),
    }
    files: dict[str, File] = {
        name: (_content(make, suffix), suffix, read_matrix)
        for name, (make, suffix) in makers.items()
    }
    files["npy"] = (_content(lambda path: np.save(path, matrix.data), ".npy"), ".npy", read_values)
    return files


def read_matrix(path: Path) -> dict[str, Any]:
    found = read_source(path).matrix
    found.check_format(full_check=True)
    return {"indptr": found.indptr, "indices": found.indices, "data": found.data}


def read_values(path: Path) -> dict[str, Any]:
    return {"values": read_vector(path)}


def _content(make: Callable[[Path], Any], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        make(path)
        return path.read_bytes()
