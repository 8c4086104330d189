"""Matrix files that each have one thing wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hpc_sla.cli.prepare import load_source, write_partitioned


def good(path: Path, spec: str = "poisson2d:n=12", parts: int = 3) -> Path:
    write_partitioned(load_source(spec), path, parts, "metis")
    return path


def _edited(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        good(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def _replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def _not_hdf5(path: Path) -> None:
    path.write_text("%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 1.0\n")


def _not_ours(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5.0)


def _truncated(path: Path) -> None:
    good(path)
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])


def _flipped(name: str, last: bool) -> Callable[[Path], None]:
    """One bit of the stored rows, seen only by the rank that reads it."""

    def make(path: Path) -> None:
        good(path)
        with h5py.File(path) as file:
            data = file[name].id
            offset = data.get_offset()
            length = data.get_storage_size()
        content = bytearray(path.read_bytes())
        content[offset + (length // 2 if last else 3)] ^= 0x10
        path.write_bytes(bytes(content))

    return make


def _set(name: str, index: int, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return change


def _newer(file: h5py.File) -> None:
    file.attrs["version"] = 99


def _wider(file: h5py.File) -> None:
    file.attrs["n_cols"] = int(file.attrs["n_cols"]) + 1


def _no_rhs(file: h5py.File) -> None:
    del file["rhs"]
    file.create_group("rhs")


def _several_rhs(file: h5py.File) -> None:
    n = int(file.attrs["n_rows"])
    del file["rhs/ones"]
    file["rhs/first"] = np.ones(n)
    file["rhs/second"] = np.ones(n)


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "not HDF5": (_not_hdf5, "not an HDF5 file"),
    "not ours": (_not_ours, "format"),
    "newer version": (_edited(_newer), "version: is 99"),
    "truncated": (_truncated, "truncated"),
    "flipped byte": (_flipped("data", last=False), "/data: cannot be read"),
    "flipped byte in the columns": (_flipped("indices", last=True), "/indices: cannot be read"),
    "indptr falls": (_edited(_set("indptr", 5, 0)), "/indptr"),
    "column out of range": (_edited(_set("indices", -1, 10_000)), "/indices"),
    "negative column": (_edited(_set("indices", 0, -1)), "/indices"),
    "NaN": (_edited(_set("data", 7, np.nan)), "/data"),
    "Inf": (_edited(_set("data", -7, np.inf)), "/data"),
    "NaN in the right-hand side": (_edited(_set("rhs/ones", -1, np.nan)), "/rhs/ones"),
    "not square": (_edited(_wider), "144 x 145"),
    "complex": (
        _edited(lambda file: _replace(file, "data", file["data"][()].astype("c16"))),
        "dtype",
    ),
    "integers": (
        _edited(lambda file: _replace(file, "data", file["data"][()].astype("i8"))),
        "dtype",
    ),
    "no right-hand side": (_edited(_no_rhs), "no right-hand side"),
    "several right-hand sides": (_edited(_several_rhs), "first, second"),
}
"""What is wrong: how to make such a file, and what the message must say."""
