"""One small reduction in which ranks agree: has nobody failed, do all ask for the same?"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.messages.together import named, raise_together
from hpc_sla.observe.heartbeat import beat

if TYPE_CHECKING:
    from mpi4py import MPI


_PLAIN = (str, int, bool)


class Agreement:
    """A local block behind which ranks agree: see `World.agree`. **Collective.**

    Ranks that agree spend one reduction of eight numbers on it, whatever the arguments.

    Attributes
    ----------
    number : float
        Set within the block, if to anything: a number of this rank. Once the block is over, the sum
        over ranks.
    heard : list
        What every rank said, in some order, once the block is over; those who said the same may
        be left out.
    """

    __slots__ = ("_arguments", "_comm", "_function", "heard", "number", "said")

    def __init__(
        self, comm: MPI.Comm | SerialComm, function: str, arguments: Mapping[str, Any]
    ) -> None:
        self._comm, self._function, self._arguments = comm, function, arguments
        self.said: Any = None
        self.number = 0.0
        self.heard: list[Any] = []

    def say(self, said: Any) -> None:
        """Within the block, once: something small that pickles."""
        self.said = said

    def __enter__(self) -> Agreement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, HpcSlaError):
            return
        beat()
        if self._comm.size > 1:
            self._meet(cast("MPI.Comm", self._comm), error)
        elif error is None:
            self.heard = [self.said]

    def _meet(self, comm: MPI.Comm, error: HpcSlaError | None) -> None:
        """**Collective.**"""
        from mpi4py import MPI

        call = (self._function, describe(self._arguments)) if self._function else None
        mine = (call, self.said)
        sums = np.array([error is not None, self.number, *_digest(repr(mine))])
        comm.Allreduce(MPI.IN_PLACE, sums)
        failed, self.number, *digests = sums.tolist()
        if failed:
            raise_together(comm, error)
        if alike(digests, comm.size):
            self.heard = [self.said]
            return
        self.heard = _hear(comm, call, self.said)


def describe(value: Any) -> Any:
    """What of a value must be the same on every rank, as something that prints alike. Local.

    Of tensors and arrays that is the dtype and all but the first dimension, of objects the class,
    or what their method `replicated` gives.
    """
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    if isinstance(value, (np.bool_, np.str_)):
        return value.item()
    if kind is float or isinstance(value, np.number):
        return _number(value)
    if kind in (tuple, list):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if hasattr(kind, "replicated"):
        return describe(value.replicated())
    if isinstance(value, (tuple, list)):  # namedtuples, torch.Size
        return [describe(item) for item in value]
    if isinstance(value, (torch.Tensor, np.ndarray)):
        name = str(value.dtype).removeprefix("torch.")
        return f"{name} [{', '.join(['n', *map(str, value.shape[1:])][: value.ndim])}]"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": kind.__name__, **fields}
    return f"a {kind.__name__}"


def _number(value: Any) -> Any:
    """1 and 1.0 are the same tolerance."""
    plain = value.item() if isinstance(value, np.number) else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


@lru_cache(maxsize=1024)  # one call after another says the same
def _digest(text: str) -> tuple[float, ...]:
    """`numbers_of` a text, for `alike`. Local.

    Python's own hash differs from process to process.
    """
    return numbers_of(text.encode("utf-8", "backslashreplace"))


def numbers_of(*parts: Any) -> tuple[float, ...]:
    """Three numbers below 2^17 and their squares, whose sums are exact for 2^19 ranks. Local.

    Of bytes and contiguous arrays. Summed over ranks, on any reduction that is made in double
    precision, they tell whether all had the same: see `alike`.
    """
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        found.update(part)
    digest = found.digest()
    numbers = [int.from_bytes(digest[i : i + 4], "big") >> 15 for i in (0, 4, 8)]
    return tuple(float(number) for part in numbers for number in (part, part * part))


def alike(sums: Sequence[float], ranks: int) -> bool:
    """Whether all ranks had the same `numbers_of`: where numbers differ, their variance is not 0.

    Local: of the sums over ranks.
    """
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return all(int(total) ** 2 == ranks * int(squares) for total, squares in pairs)


_MANY = 8
"""Different things that are told one by one. Beyond, an error names no more."""


def _hear(comm: Any, call: Any, said: Any) -> list[Any]:
    """What every rank said, in their order, where they called the same. **Collective.**

    A number comes from each rank, and what is said once only, from the first rank that said it:
    ranks say few different things.

    Raises
    ------
    InputError
        On every rank: they called different functions, or with different arguments.
    """
    mine = np.array([_number_of(call), _number_of(said)], dtype=np.int64)
    numbers = np.empty((comm.size, 2), dtype=np.int64)
    comm.Allgather(mine, numbers)
    calls = _of_ranks(comm, call, numbers[:, 0])
    if len(np.unique(numbers[:, 0])) > 1:
        _raise_difference(calls)
    if len(np.unique(numbers[:, 1])) > _MANY:
        everyone: list[Any] = comm.allgather(said)
        return everyone
    return list(_of_ranks(comm, said, numbers[:, 1]).values())


def _number_of(value: Any) -> int:
    digest = hashlib.blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)


def _of_ranks(comm: Any, value: Any, numbers: np.ndarray) -> dict[int, Any]:
    """By rank what it has, of the first few different things that there are. **Collective.**

    `numbers` (replicated) tell the ranks' things apart.
    """
    _, first = np.unique(numbers, return_index=True)
    found = {int(numbers[root]): comm.bcast(value, root=root) for root in np.sort(first)[:_MANY]}
    return {rank: found[n] for rank, n in enumerate(numbers.tolist()) if n in found}


def _raise_difference(calls: Mapping[int, Any]) -> None:
    """Name what differs, and where. Local: of replicated calls by rank, some of which may lack."""
    names = {r: call[0] if call else "another collective function" for r, call in calls.items()}
    if len(set(names.values())) > 1:
        raise InputError(
            f"ranks call different functions at the same time: {_by_rank(names)}",
            remedy="Call collective functions on every rank, in the same order",
        )
    arguments = {rank: call[1] for rank, call in calls.items()}
    # Of the same function every rank has the same names.
    one, *others = arguments.values()
    name = next(n for n in one if any(a[n] != one[n] for a in others))
    raise _difference(names[0], name, {rank: a[name] for rank, a in arguments.items()})


def difference(
    function: str, name: str, values: list[Any], remedy: str = "Pass the same on every rank"
) -> InputError:
    """What to raise where an argument's values, in the order of the ranks, differ. Local."""
    return _difference(function, name, dict(enumerate(values)), remedy)


def _difference(
    function: str,
    name: str,
    values: Mapping[int, Any],
    remedy: str = "Pass the same on every rank",
) -> InputError:
    return InputError(
        f"ranks differ: {_by_rank(values)}",
        field=f"{function}: {name}",
        remedy=remedy,
    )


def _by_rank(values: Mapping[int, Any]) -> str:
    """``1e-8 on rank 0, 1e-6 on ranks 1, 2``."""
    who: dict[str, list[int]] = {}
    for rank, value in values.items():
        who.setdefault(value if isinstance(value, str) else repr(value), []).append(rank)
    parts = [f"{value} on {named(ranks)}" for value, ranks in who.items()]
    return ", ".join(parts[:4]) + (" ..." if len(parts) > 4 else "")
