"""What a compiled multigrid cycle takes, as `cycle.c` lays it out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.burst import Calls, CompiledApply

Tensor = torch.Tensor


class _Described(ctypes.Structure):
    """A structure, and in `kept` what its pointers point to."""

    kept: Any = None


class DenseInverse(_Described):
    """`hpc_sla_dense`: this rank's rows of the last level's inverse.

    Parameters
    ----------
    calls : Calls
    inverse : torch.Tensor [rows, n]
    start : int
        The first row.
    like : torch.Tensor
        The columns of its vectors.
    """

    _fields_ = [
        ("mpi", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("inverse", ctypes.c_void_p),
        ("mine", ctypes.c_void_p),
        ("whole", ctypes.c_void_p),
    ]

    def __init__(self, calls: Calls, inverse: Tensor, start: int, like: Tensor) -> None:
        rows, n = inverse.shape
        super().__init__(ctypes.addressof(calls), rows, start, n, inverse.data_ptr())
        whole = None
        if calls.ranks > 1:
            whole = like.new_empty((2, n, *like.shape[1:]))
            self.mine, self.whole = (part.data_ptr() for part in whole)
        self.kept = calls, inverse, whole


class CycleLevel(_Described):
    """`hpc_sla_level`: filled field by field."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("A", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("coefficients", ctypes.c_void_p),
        ("steps", ctypes.c_int64),
        ("work", ctypes.c_void_p * 3),
        ("coarse", ctypes.c_void_p * 3),
        ("goes_on", ctypes.c_int64),
        ("direct", ctypes.c_void_p),
    ]

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.kept = []

    def keep(self, field: str, value: ctypes.Structure | Tensor) -> None:
        """Point a field to a structure or a tensor."""
        if isinstance(value, torch.Tensor):
            setattr(self, field, value.data_ptr())
        else:
            setattr(self, field, ctypes.addressof(value))
        self.kept.append(value)

    def keep_vectors(self, field: str, vectors: Sequence[Tensor]) -> None:
        """Point a field of several to vectors; more than there is room for are not needed."""
        array = getattr(self, field)
        for i, vector in enumerate(vectors[: len(array)]):
            # Empty ones are nowhere; but NULL is for ranks that have no such vector at all.
            array[i] = vector.data_ptr() or ctypes.addressof(self)
        self.kept.append(vectors)


@dataclass(frozen=True)
class Units:
    """What is done to a vector on its way to the cycle and back, in its own dtype.

    Attributes
    ----------
    before, after : torch.Tensor [rows] or None
        What r, and what comes out, is multiplied by; None for ones.
    scale : float
        And that.
    alone : int64 tensor [m] or None
        Rows in which the cycle gets 0, and the answer is `inverse` times r.
    inverse : torch.Tensor [m] or None
    """

    before: Tensor | None
    after: Tensor | None
    scale: float
    alone: Tensor | None = None
    inverse: Tensor | None = None


@cache
def _levels(count: int) -> Any:
    """The type of so many levels: one made each time would be a cycle for the collector."""
    return CycleLevel * count


class WholeCycle(_Described):
    """`hpc_sla_cycle`.

    Parameters
    ----------
    levels : list of CycleLevel
    twice : bool
        Whether each coarse problem is solved by two cycles.
    r : torch.Tensor
        Like the vectors that come.
    b : torch.Tensor
        One of the cycle's dtype, with r's columns, to work in.
    units : Units
    """

    _fields_ = [
        ("levels", ctypes.c_void_p),
        ("twice", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("before", ctypes.c_void_p),
        ("after", ctypes.c_void_p),
        ("n_alone", ctypes.c_int64),
        ("alone", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
    ]

    def __init__(
        self, levels: list[CycleLevel], twice: bool, r: Tensor, b: Tensor, units: Units
    ) -> None:
        array = _levels(len(levels))(*levels)
        columns = 1 if r.dim() == 1 else r.shape[1]
        super().__init__(ctypes.addressof(array), twice, columns, r.element_size(), units.scale)
        if units.alone is not None:
            self.n_alone = units.alone.numel()
        for name in ("before", "after", "alone", "inverse"):
            tensor = getattr(units, name)
            setattr(self, name, None if tensor is None else tensor.data_ptr())
        self.b = b.data_ptr()
        self.kept = array, levels, b, units
        self._address = ctypes.addressof(self)
        self._function = getattr(native.LIBRARY, f"hpc_sla_cycle_{native.DTYPES[b.dtype]}")

    def __call__(self, r: Tensor, out: Tensor) -> int:
        """`out` = what the cycle makes of r. **Collective.** 0, or MPI's error."""
        code: int = self._function(self._address, r.data_ptr(), out.data_ptr())
        return code

    def function(self, turns: AbstractContextManager[Any]) -> CompiledApply:
        """For other compiled loops."""
        entry = ctypes.cast(self._function, ctypes.c_void_p).value
        assert entry is not None
        return CompiledApply(entry, self._address, turns, self)


def dense(M: Tensor, x: Tensor, out: Tensor) -> None:
    """`out = M x` for M [rows, n] and x `[n]` or `[n, k]`."""
    if native.serves(x):
        native.call("dense", x, M.shape[0], M.shape[1], M, x, out)
        return
    # As columns: tests on fake CUDA tensors cannot follow mv(out=) or matmul(out=).
    if x.dim() == 1:
        x, out = x.unsqueeze(1), out.unsqueeze(1)
    torch.mm(M, x, out=out)
