"""NumPy's .npy and .npz: the headers against what is there, before anything is allocated."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy

from hpc_sla.errors import InputError
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.hdf5 import FLOATS
from hpc_sla.storage.limits import check_fits
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


def read_npz(path: str) -> Any:
    """The matrix that `scipy.sparse.save_npz` wrote, in its format; its indices are checked.

    float64 or float32. Other real types become float64 before anything is summed, since repeated
    entries of a small integer type would wrap around.

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    dtypes = check_npz(path)
    if not {"format", "shape", "data"} <= dtypes.keys():
        raise ValueError(f"it holds {', '.join(dtypes)}, not what scipy.sparse.save_npz writes")
    for name in INDEX_ARRAYS:
        if name in dtypes and dtypes[name].kind not in "iu":
            raise InputError(
                f"holds {dtypes[name]} values, not integers",
                file=path,
                field=name,
                remedy="Write it with scipy.sparse.save_npz.",
            )
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in dtypes}
    data = arrays["data"].astype(real_dtype(dtypes["data"], path), copy=False)
    shape = tuple(int(n) for n in arrays["shape"])
    if len(shape) != 2:
        raise InputError(
            f"has {len(shape)} dimension(s)",
            file=path,
            field="shape",
            remedy="Give a matrix, of two dimensions.",
        )
    # Pointers to as many rows as are declared, of which the file need not have anything.
    check_fits(8 * sum(shape), path, "shape")
    form = arrays["format"].item()
    form = form.decode("ascii") if isinstance(form, bytes) else form
    # Converting runs compiled loops over the indices, which must not be trusted before.
    if form in ("csr", "csc", "bsr"):
        make = {"csr": sp.csr_array, "csc": sp.csc_array, "bsr": sp.bsr_array}[form]
        return checked(make((data, arrays["indices"], arrays["indptr"]), shape=shape))
    if form == "dia":
        return checked(sp.dia_array((data, arrays["offsets"]), shape=shape))
    if form == "coo":
        row, col = arrays["coords"] if "coords" in arrays else (arrays["row"], arrays["col"])
        return checked(sp.coo_array((data, (row, col)), shape=shape))
    raise ValueError(f"it is of the format {form!r}")


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


def check_npz(path: str | os.PathLike[str]) -> dict[str, np.dtype[Any]]:
    """Every member of an .npz archive must be an array as long as it says, and all must fit.

    Returns
    -------
    dict of name to dtype

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_fits(sum(member.file_size for member in members), path)
        dtypes = {}
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename!r} is compressed in an unusual way")
            if not member.filename.endswith(".npy"):
                raise ValueError(f"{member.filename!r} is not an array")
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                dtypes[name] = check_header(stream, member.file_size)[2]
        return dtypes


def check_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come one after another, and dtype of a .npy of so many bytes. Local.

    The stream is then where the values begin.

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
    declared = stream.tell() + math.prod(shape) * dtype.itemsize
    if declared != size:
        raise ValueError(f"{declared} bytes are declared, {size} are there")
    return shape, fortran, dtype
