"""Reading HDF5 with every failure turned into one clear `InputError`."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.storage.block_sums import check_block_sums
from hpc_sla.storage.limits import DEFLATE_RATIO, check_fits

FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
INDICES = (np.dtype(np.int64), np.dtype(np.int32))
INT64 = (np.dtype(np.int64),)

CHUNK_BYTES = 1 << 20
# A rank reads whole chunks, so a chunk must stay small beside a rank's share.
_LARGEST_CHUNK = 64 << 20
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_SIGNATURE = b"\x89HDF\r\n\x1a\n"

DAMAGED = "Copy the file again, or write it again."
HOW_TO_MAKE = "Make a matrix file with `python -m hpc_sla partition SOURCE -o FILE.h5 --parts P`."
HOW_TO_SOLVE = "Name a result file, as `python -m hpc_sla solve FILE.h5 -o RESULT.h5` writes one."
HOW_TO_EITHER = "Name a matrix file, as `partition` writes one, or a result, as `solve` does."


_ABOUT_LOCKS = re.compile("unable to lock|file locking")
_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check its permissions."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit of open files (ulimit -n)."),
    **dict.fromkeys((errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG), "Check the name."),
    errno.ENOENT: "It was there before: see what removes it.",
}


class AccessError(InputError):
    """The file cannot be got at, whatever is in it."""


@contextmanager
def reading(path: str | os.PathLike[str], field: str | None = None) -> Iterator[None]:
    """Turn what HDF5 raises on damaged bytes into an `InputError` naming file and field."""
    try:
        yield
    except HpcSlaError:
        raise
    except MemoryError as error:
        raise InputError(
            "does not fit into memory", file=path, field=field, remedy="Use more ranks."
        ) from error
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, OSError) and error.errno:
            raise _no_access(error, path, field) from error
        message = str(error).lower()
        # HDF5 2 says no more than that a filter failed, and fletcher32 is the filter.
        mismatch = "checksum" in message or "filter returned failure" in message
        cause = "checksum mismatch" if mismatch else _brief(error)
        raise InputError(
            f"cannot be read, the stored bytes are damaged ({cause})",
            file=path,
            field=field,
            remedy=DAMAGED,
        ) from error


def path_of(given: Any) -> str:
    """A path as text. Local."""
    try:
        return os.fsdecode(given)
    except TypeError as error:
        raise InputError(
            f"{given!r} is not a path", field="path", remedy="Pass a str or a pathlib.Path"
        ) from error


def open_read(path: str | os.PathLike[str], remedy: str = HOW_TO_MAKE) -> h5py.File:
    """Open `path` read-only, after telling apart missing, unreadable, foreign and truncated.

    `remedy` is for files that are missing or no HDF5.

    Raises
    ------
    AccessError
        It cannot be read, or another program has it open.
    InputError
        Any other cause.
    """
    name = Path(path)
    try:
        found = name.stat()
    except FileNotFoundError as error:
        raise InputError("no such file", file=path, remedy=remedy) from error
    except OSError as error:
        raise _no_access(error, path) from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError("is a folder, not a file", file=path, remedy="Name an HDF5 file.")
    if not stat.S_ISREG(found.st_mode):
        raise InputError("is not a regular file", file=path, remedy="Name an HDF5 file.")
    try:
        return _open(name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        message = str(error)
        try:
            signed = is_hdf5(name)
        except OSError as refused:
            raise _no_access(refused, path) from refused
        if not signed:
            raise InputError("is not an HDF5 file", file=path, remedy=remedy) from error
        if "already open" in message:
            raise AccessError(
                "is open for writing in another program, or was left so by one that was ended",
                file=path,
                remedy="Close it there; if nothing has it open, `h5clear -s` makes it readable.",
            ) from error
        if _ABOUT_LOCKS.search(message):
            raise AccessError(
                f"is locked by another program ({_brief(error)})",
                file=path,
                remedy="Close it there.",
            ) from error
        if isinstance(error, OSError) and error.errno:
            raise _no_access(error, path) from error
        if "truncated" in message:
            problem = f"is truncated: {found.st_size} bytes are left of it"
        else:
            problem = f"cannot be opened as HDF5, its header is damaged ({_brief(error)})"
        raise InputError(problem, file=path, remedy=DAMAGED) from error


def _no_access(
    error: OSError, path: str | os.PathLike[str], field: str | None = None
) -> AccessError:
    """The error that the system's own makes, with what helps against it."""
    remedy = _REMEDIES.get(error.errno or 0, "See whether its disk or network can be read.")
    cause = os.strerror(error.errno) if error.errno else error
    what = "opened" if field is None else "read"
    return AccessError(f"cannot be {what}: {cause}", file=path, field=field, remedy=remedy)


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file has HDF5's signature where one may stand. Raises OSError."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return any(_signature_at(stream, offset) for offset in _signature_offsets(size))


def _open(path: Path) -> h5py.File:
    # Some parallel file systems have no locks, and two opens of one file in one process must
    # agree about them. Files of ours never change once they have their name: any way will do.
    for locking in (None, False):
        try:
            return _open_with(path, locking)
        except OSError as error:
            if not _ABOUT_LOCKS.search(str(error)):
                raise
    return _open_with(path, True)


def _open_with(path: Path, locking: bool | None) -> h5py.File:
    # HDF5's own chunk cache, 8 MiB a dataset, would dwarf a small slab.
    return h5py.File(path, "r", rdcc_nbytes=CHUNK_BYTES, locking=locking)


def dataset(
    file: h5py.File,
    name: str,
    dtypes: tuple[np.dtype[Any], ...],
    *,
    ndim: tuple[int, ...] = (1,),
    length: int | None = None,
) -> h5py.Dataset:
    """The dataset `name`, checked before a byte of it is read.

    It must be reached by hard links, lie wholly inside this file, have one of `dtypes` (any byte
    order), one of the `ndim` dimension counts, `length` rows when that is given, and as many
    stored bytes as its shape declares.
    """
    path, field = file.filename, f"/{name}"
    with reading(path, field):
        item = _walk(file, name)
        if not isinstance(item, h5py.Dataset):
            raise InputError(
                "is a group, not a dataset",
                file=path,
                field=field,
                remedy="Write the file again, with a dataset of that name.",
            )
        native = item.dtype.newbyteorder("=")
        if native not in dtypes:
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            raise InputError(
                f"has the wrong dtype {item.dtype}",
                file=path,
                field=field,
                remedy=f"Store it as {wanted}.",
            )
        shape = item.shape
        if shape is None or len(shape) not in ndim:
            wanted = " or ".join(f"{n}" for n in ndim)
            raise InputError(
                f"has shape {shape}",
                file=path,
                field=field,
                remedy=f"Store it with {wanted} dimension(s).",
            )
        if length is not None and shape[0] != length:
            raise InputError(
                f"has {shape[0]} rows where {length} are needed",
                file=path,
                field=field,
                remedy=f"Write the file again, with {length} rows in this dataset.",
            )
        _check_storage(item, path, field)
    return item


def read_slab(item: h5py.Dataset, start: int, stop: int, dtype: Any = None) -> np.ndarray:
    """Rows ``start:stop`` of a checked dataset as a new array in this machine's byte order.

    Their checksums, where the file has any, are right.
    """
    native = item.dtype.newbyteorder("=")
    shape = (stop - start, *item.shape[1:])
    check_fits(math.prod(shape) * native.itemsize, item.file.filename, item.name)
    with reading(item.file.filename, item.name):
        out = np.empty(shape, dtype=native)
        if out.size:
            item.read_direct(out, np.s_[start:stop])
            check_block_sums(item, start, out)
    return out if dtype is None else out.astype(dtype, copy=False)


def has(file: h5py.File, name: str) -> bool:
    """Whether the root group has a link of that name. It is not followed: it may lead astray."""
    with reading(file.filename, f"/{name}"):
        return file.get(name, getlink=True) is not None


def members(file: h5py.File, name: str) -> tuple[str, ...]:
    """Names inside the group `name`, sorted; none when the file has no such group."""
    with reading(file.filename, f"/{name}"):
        if not has(file, name):
            return ()
        group = _walk(file, name)
        if not isinstance(group, h5py.Group):
            raise InputError(
                "is a dataset, not a group of them",
                file=file.filename,
                field=f"/{name}",
                remedy=f"Store /{name}/NAME.",
            )
        return tuple(sorted(group))


def _walk(file: h5py.File, name: str) -> Any:
    item: Any = file
    for part in name.split("/"):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            raise InputError(
                "is missing",
                file=file.filename,
                field=f"/{name}",
                remedy="Write the file again, with it.",
            )
        if not isinstance(link, h5py.HardLink):
            raise InputError(
                "is a soft or external link",
                file=file.filename,
                field=f"/{name}",
                remedy="Store the dataset itself in the file.",
            )
        item = item[part]
    return item


def _check_storage(item: h5py.Dataset, path: str, field: str) -> None:
    if item.is_virtual or item.external:
        raise InputError(
            "keeps its values in another file",
            file=path,
            field=field,
            remedy="Store the dataset itself in the file.",
        )
    plist = item.id.get_create_plist()
    filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
    if unknown := filters - {_DEFLATE, _SHUFFLE, _FLETCHER32}:
        raise InputError(
            f"uses the HDF5 filter {min(unknown)}",
            file=path,
            field=field,
            remedy="Use only fletcher32, shuffle and gzip.",
        )
    chunk = 0
    if item.chunks is not None:
        chunk = math.prod(item.chunks) * item.dtype.itemsize
    if chunk > _LARGEST_CHUNK:
        raise InputError(
            f"has chunks of {chunk} bytes",
            file=path,
            field=field,
            remedy="Use chunks of about 1 MiB.",
        )
    declared = item.size * item.dtype.itemsize
    stored = item.id.get_storage_size()
    held = stored * DEFLATE_RATIO if _DEFLATE in filters else stored
    if item.chunks is not None:
        chunks = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
        # Without every chunk there, HDF5 would quietly hand out zeros.
        if held >= declared and item.id.get_num_chunks() != chunks:
            raise InputError(
                f"has {item.id.get_num_chunks()} of its {chunks} chunks",
                file=path,
                field=field,
                remedy=DAMAGED,
            )
    if held < declared or stored > os.path.getsize(path):
        raise InputError(
            f"declares {declared} bytes but {stored} are stored",
            file=path,
            field=field,
            remedy=DAMAGED,
        )


def _signature_offsets(size: int) -> Iterator[int]:
    yield 0
    offset = 512
    while offset < min(size, 1 << 20):
        yield offset
        offset *= 2


def _signature_at(stream: Any, offset: int) -> bool:
    stream.seek(offset)
    return stream.read(len(_SIGNATURE)) == _SIGNATURE


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
