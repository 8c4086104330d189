"""NumPy's .npy and .npz: the headers against what is there, before anything is allocated."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from hpc_sla.errors import InputError
from hpc_sla.storage.limits import check_fits


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
        _check_header(stream, os.fstat(stream.fileno()).st_size)
        stream.seek(0)
        found: np.ndarray = np.load(stream, allow_pickle=False)
        return found


def check_npz(path: str | os.PathLike[str]) -> None:
    """Every member of an .npz archive must be an array as long as it says, and all must fit.

    Raises
    ------
    InputError, ValueError, OSError, zipfile.BadZipFile
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_fits(sum(member.file_size for member in members), path)
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename!r} is compressed in an unusual way")
            if not member.filename.endswith(".npy"):
                raise ValueError(f"{member.filename!r} is not an array")
            with archive.open(member) as stream:
                _check_header(stream, member.file_size)


def _check_header(stream: IO[bytes], size: int) -> None:
    version = npy.read_magic(stream)
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"it declares the shape {shape}")
    declared = stream.tell() + math.prod(shape) * dtype.itemsize
    if declared != size:
        raise ValueError(f"{declared} bytes are declared, {size} are there")
