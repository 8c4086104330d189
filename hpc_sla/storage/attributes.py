"""Root attributes: the format's name and version, and whatever else a file says about itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.hdf5 import (
    DAMAGED,
    HOW_TO_EITHER,
    HOW_TO_MAKE,
    HOW_TO_SOLVE,
    open_read,
    reading,
)

MATRIX_FORMAT = "hpc_sla.matrix"
RESULT_FORMAT = "hpc_sla.result"
CHECKPOINT_FORMAT = "hpc_sla.checkpoint"
# Version 2 of a matrix file says how a rectangular matrix's columns are stored, that of a result
# has dimension scales.
VERSIONS = {MATRIX_FORMAT: 2, RESULT_FORMAT: 2, CHECKPOINT_FORMAT: 1}
_REMEDIES: dict[tuple[str, ...], str] = {
    (MATRIX_FORMAT,): HOW_TO_MAKE,
    (RESULT_FORMAT,): HOW_TO_SOLVE,
}


def check_format(file: h5py.File, *formats: str) -> str:
    """The file's format name, which must be one of `formats`, in a version this code knows."""
    path = file.filename
    found = _only(attribute(file, "format"))
    if not isinstance(found, str) or found not in formats:
        kinds = " or ".join(name.removeprefix("hpc_sla.") for name in formats)
        if isinstance(found, str) and found in VERSIONS:
            problem = f"is a {found.removeprefix('hpc_sla.')} file"
        elif found is None:
            problem = "is missing: this is not a file of hpc_sla"
        else:
            problem = f"is {_short(found)}: this is not a file of hpc_sla"
        raise InputError(
            f"{problem}, and a {kinds} file is needed",
            file=path,
            field="format",
            remedy=_REMEDIES.get(formats, HOW_TO_EITHER),
        )
    version = integer_attribute(file, "version")
    newest = VERSIONS[str(found)]
    if version > newest:
        raise InputError(
            f"is {version}, and this hpc_sla reads versions up to {newest}",
            file=path,
            field="version",
            remedy="Install a newer hpc_sla.",
        )
    if version < 1:
        raise InputError(
            f"is {version}, and versions start at 1", file=path, field="version", remedy=DAMAGED
        )
    return str(found)


def kind_of(path: str | os.PathLike[str]) -> Literal["matrix", "result"]:
    """Which of the project's own kinds of file `path` is.

    Raises
    ------
    InputError
        Missing, unreadable, not HDF5, not one of ours, or of a newer format version.
    """
    with open_read(path, HOW_TO_EITHER) as file:
        found = check_format(file, MATRIX_FORMAT, RESULT_FORMAT)
    return "matrix" if found == MATRIX_FORMAT else "result"


def attribute(item: h5py.Group, name: str) -> Any:
    """An attribute of a file's root or a group in it as a plain value; None when there is none."""
    path = item.file.filename
    with reading(path, name):
        if name not in item.attrs:
            return None
        kind = item.attrs.get_id(name)
        # HDF5 asks for all the memory that an attribute declares before it looks for the bytes.
        declared = math.prod(kind.shape or ()) * kind.dtype.itemsize
        if declared > os.path.getsize(path):
            raise ValueError(f"{declared} bytes are declared, which the file does not have")
        return _plain(item.attrs[name])


def integer_attribute(file: h5py.File, name: str) -> int:
    """A root attribute that must be a whole number of 64 bits (MATLAB stores those as doubles)."""
    value = _only(attribute(file, name))
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not -(2**63) <= value < 2**63:
        raise InputError(
            "is missing" if value is None else f"is {_short(value)}, not a whole number of 64 bits",
            file=file.filename,
            field=name,
            remedy="Write it as a 64-bit integer attribute of the root group.",
        )
    return int(value)


def attributes(file: h5py.File, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """All root attributes but `leave_out`, as plain Python values, sorted by name."""
    with reading(file.filename, "attributes"):
        return {name: attribute(file, name) for name in sorted(file.attrs) if name not in leave_out}


def set_attributes(file: h5py.File, values: Mapping[str, Any]) -> None:
    """Store numbers, text, and arrays of numbers as they are, anything else as JSON text."""
    for name, value in values.items():
        file.attrs[name] = _storable(value)


def _only(value: Any) -> Any:
    """Some languages write a scalar as an array of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _storable(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return np.int64(value)
    if isinstance(value, (bool, float, np.number, np.bool_)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if not isinstance(value, str):
        value = json.dumps(value, default=str, sort_keys=True)
    # Fixed length on purpose: variable-length text goes to HDF5's global heap, which has no
    # checksum. A file's name need not be UTF-8: what is not is shown as escapes.
    text = value.encode("utf-8", "backslashreplace")
    return np.array(text, dtype=h5py.string_dtype("utf-8", max(1, len(text))))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (str, bool, int, float)) else str(value)
