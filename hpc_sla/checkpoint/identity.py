"""What a checkpoint belongs to: a matrix, a right-hand side, a method, ..."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hpc_sla.errors import InputError
from hpc_sla.hashing import noise
from hpc_sla.sparse.fingerprint import matrix_fingerprint
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.stored import StoredMatrix

_WORDS = {
    "matrix": "another matrix",
    "rhs": "another right-hand side",
    "kind": "another kind of solver",
    "tag": "another problem",
}


def identify_matrix(A: Any, operator: Operator) -> str | float:
    """Tell a matrix from others. **Collective.**

    By the digest of its entries; a matrix-free operator by the norm of its product with a fixed
    vector.
    """
    if isinstance(A, StoredMatrix):
        return matrix_fingerprint(A.stored) + ":T" * A.transposed
    v = torch.from_numpy(noise(operator.columns.rows, 3))
    v = v.to(operator.device, operator.dtype or torch.float64)
    image = v.new_empty(operator.layout.n_owned)
    operator(v, image)
    square = float(image.double().square().sum())
    return math.sqrt(operator.world.sum(square))


def check_identity(saved: Mapping[str, Any], mine: Mapping[str, Any], path: str | None) -> None:
    """Raise InputError where the checkpoint at `path` is not of `mine`. Local, but replicated.

    Both are texts and numbers by name; the message is of the first that differs.
    """
    for name, wanted in mine.items():
        found = saved.get(name)
        if isinstance(wanted, float) and isinstance(found, float):
            # Sums, which other ranks round otherwise.
            same = math.isclose(wanted, found, rel_tol=1e-6)
        else:
            same = wanted == found
        if not same:
            values = "" if name in ("matrix", "rhs", "B") else f", {found!r} and not {wanted!r}"
            what = _WORDS.get(name, f"another {name.replace('_', ' ')}")
            raise InputError(
                f"is the checkpoint of {what}{values}",
                file=path,
                field=name,
                remedy="Resume what it belongs to, or start afresh with another name for the "
                "checkpoint",
            )
