"""NumPy's .npy and .npz: the headers against what is there, before anything is allocated."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy

from hpc_sla.errors import InputError
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.hdf5 import FLOATS
from hpc_sla.storage.limits import DEFLATE_RATIO, check_fits
from hpc_sla.storage.scipy_matrix import checked


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in a .npy file; never a pickle.

    Raises
    ------
    InputError, ValueError, OSError
        Not a .npy file, of Python objects, or with other than the declared length.
    """
    with open(path, "rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            raise InputError("is not a .npy file", file=path, remedy="Write it with numpy.save.")
        stream.seek(0)
        check_header(stream, os.fstat(stream.fileno()).st_size)
        stream.seek(0)
        found: np.ndarray = np.load(stream, allow_pickle=False)
        return found


INDEX_ARRAYS = ("row", "col", "coords", "indices", "indptr", "offsets", "shape")
_NEEDED = {
    "csr": {"indptr", "indices"},
    "csc": {"indptr", "indices"},
    "bsr": {"indptr", "indices"},
    "dia": {"offsets"},
}
_FEW_BYTES = 1 << 10
"""More than a format's name and a shape take."""


class NpyHeader(NamedTuple):
    """What a .npy says of its array, in so many bytes, and whether columns come one by one."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int

    @property
    def bytes_of_values(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: str) -> Any:
    """The matrix that `scipy.sparse.save_npz` wrote, in its format; its indices are checked.

    float64 or float32. Other real types become float64 before anything is summed, since repeated
    entries of a small integer type would wrap around.

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    headers = check_npz(path)
    form, shape = describe_npz(path, headers)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in headers}
    data = arrays["data"].astype(real_dtype(headers["data"].dtype, path), copy=False)
    # Pointers to as many rows as are declared, of which the file need not have anything.
    check_fits(8 * sum(shape), path, "shape")
    # Converting runs compiled loops over the indices, which must not be trusted before.
    if form == "dia":
        return checked(sp.dia_array((data, arrays["offsets"]), shape=shape))
    if form == "coo":
        row, col = arrays["coords"] if "coords" in arrays else (arrays["row"], arrays["col"])
        return checked(sp.coo_array((data, (row, col)), shape=shape))
    make = {"csr": sp.csr_array, "csc": sp.csc_array, "bsr": sp.bsr_array}[form]
    return checked(make((data, arrays["indices"], arrays["indptr"]), shape=shape))


def describe_npz(path: str, headers: Mapping[str, NpyHeader]) -> tuple[str, tuple[int, int]]:
    """Format and shape of the matrix in an archive of such arrays; no more is read. Local.

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    if not {"format", "shape", "data"} <= headers.keys():
        raise ValueError(f"it holds {', '.join(headers)}, not what scipy.sparse.save_npz writes")
    for name in INDEX_ARRAYS:
        if name in headers and headers[name].dtype.kind not in "iu":
            raise InputError(
                f"holds {headers[name].dtype} values, not integers",
                file=path,
                field=name,
                remedy="Write it with scipy.sparse.save_npz.",
            )
    real_dtype(headers["data"].dtype, path)
    for name in ("format", "shape"):
        if headers[name].bytes_of_values > _FEW_BYTES:
            raise ValueError(f"{name} has the shape {headers[name].shape}")
    with np.load(path, allow_pickle=False) as archive:
        form, declared = archive["format"].item(), archive["shape"]
    form = form.decode("ascii") if isinstance(form, bytes) else form
    shape = tuple(int(n) for n in declared)
    if len(shape) != 2:
        raise InputError(
            f"has {len(shape)} dimension(s)",
            file=path,
            field="shape",
            remedy="Give a matrix, of two dimensions.",
        )
    if min(shape) < 0:
        raise ValueError("'shape' elements cannot be negative")
    needed = {**_NEEDED, "coo": {"coords"} if "coords" in headers else {"row", "col"}}
    if form not in needed:
        raise ValueError(f"it is of the format {form!r}")
    if absent := needed[form] - headers.keys():
        raise ValueError(f"{min(absent)!r} is not a file in the archive")
    return form, (shape[0], shape[1])


def real_dtype(dtype: np.dtype[Any], path: str) -> np.dtype[Any]:
    """float64 or float32, in which numbers of `dtype` are held.

    Raises
    ------
    InputError
        They are not real.
    """
    if dtype.kind not in "biuf":
        raise complex_values(path, dtype=dtype)
    native = dtype.newbyteorder("=")
    return native if native in FLOATS else np.dtype(np.float64)


def check_npz(path: str | os.PathLike[str]) -> dict[str, NpyHeader]:
    """`npz_headers`, and all arrays must fit into this machine's memory. Local.

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    headers = npz_headers(path)
    check_fits(sum(header.bytes_of_values for header in headers.values()), path)
    return headers


def npz_headers(path: str | os.PathLike[str]) -> dict[str, NpyHeader]:
    """Those of the members of an .npz archive, by name, held against what is there. Local.

    Raises
    ------
    ValueError, OSError, zipfile.BadZipFile
        A member is no array, or not as long as it says.
    """
    there = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename!r} is compressed in an unusual way")
            if not member.filename.endswith(".npy"):
                raise ValueError(f"{member.filename!r} is not an array")
            deflated = member.compress_type == zipfile.ZIP_DEFLATED
            most = min(member.compress_size, there) * (DEFLATE_RATIO if deflated else 1)
            if member.file_size > most:
                raise ValueError(
                    f"{member.filename!r} declares {member.file_size} bytes, more than are there"
                )
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                headers[name] = check_header(stream, member.file_size)
        return headers


def check_header(stream: IO[bytes], size: int) -> NpyHeader:
    """The header of a .npy of so many bytes; the stream is then where the values begin. Local.

    Raises
    ------
    ValueError
        Not a .npy file, of Python objects, or with other than the declared length.
    """
    version = npy.read_magic(stream)
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    elif version in ((2, 0), (3, 0)):
        # Version 3 differs in that names of fields may be in UTF-8; numbers have no fields.
        shape, fortran, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"it declares the shape {shape}")
    length = stream.tell()
    declared = length + math.prod(shape) * dtype.itemsize
    if declared != size:
        raise ValueError(f"{declared} bytes are declared, {size} are there")
    return NpyHeader(shape, fortran, dtype, length)
