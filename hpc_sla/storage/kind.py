"""Tell the project's own files apart."""

from __future__ import annotations

import os
from typing import Literal

from hpc_sla.storage.attributes import MATRIX_FORMAT, RESULT_FORMAT, check_format
from hpc_sla.storage.hdf5 import HOW_TO_EITHER, open_read


def kind_of(path: str | os.PathLike[str]) -> Literal["matrix", "result"]:
    """What kind of file `path` is.

    Raises
    ------
    InputError
        Missing, unreadable, not HDF5, not one of ours, or of a newer format version.
    """
    with open_read(path, HOW_TO_EITHER) as file:
        found = check_format(file, MATRIX_FORMAT, RESULT_FORMAT)
    return "matrix" if found == MATRIX_FORMAT else "result"
