""".npy files by runs of their rows."""

from __future__ import annotations

import os

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import on_root
from hpc_sla.storage.importers import importing
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.numpy_files import NpyHeader, check_header, real_dtype
from hpc_sla.storage.parallel.bytes_of_files import read_into
from hpc_sla.storage.parallel.local_rows import CutOfArray, cut_rows


def read_npy_rows(peers: Peers, path: str, cut: CutOfArray) -> np.ndarray:
    """Rows of an array in a .npy file. **Collective.**"""
    shape, fortran, dtype, place = on_root(peers, lambda: _npy(path))
    offsets = cut_rows(peers, path, shape, cut)
    with peers.agree():
        real = real_dtype(dtype, path)
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    with peers.agree(), importing(path), open(path, "rb") as stream:
        width = dtype.itemsize
        check_fits((last - first) * width * int(np.prod(shape[1:], dtype=object)), path)
        if fortran and len(shape) > 1:
            found = np.empty((shape[1], last - first), dtype=dtype)
            for column, out in enumerate(found):
                stream.seek(place + (column * shape[0] + first) * width)
                read_into(stream, out)
            found = found.T
        else:
            found = np.empty((last - first, *shape[1:]), dtype=dtype)
            stream.seek(place + first * width * int(np.prod(shape[1:], dtype=object)))
            read_into(stream, found.reshape(-1))
    return np.ascontiguousarray(found.astype(real, copy=False))


def _npy(path: str) -> NpyHeader:
    with importing(path), open(path, "rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            raise InputError("is not a .npy file", file=path, remedy="Write it with numpy.save.")
        stream.seek(0)
        return check_header(stream, os.fstat(stream.fileno()).st_size)
