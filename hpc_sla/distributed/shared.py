"""What belongs to running ranks: copies share it, and it cannot be pickled."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from hpc_sla.errors import InputError

S = TypeVar("S", bound="Shared")


class Shared:
    """An object that does not change once it is made, over communicators and compiled handles."""

    def __copy__(self: S) -> S:
        return self

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        refuse_pickling(self)


def refuse_pickling(thing: Any, remedy: str = "") -> NoReturn:
    """Local.

    Raises
    ------
    InputError
    """
    raise InputError(
        f"a {type(thing).__name__} belongs to this run and its ranks, and cannot be pickled",
        remedy=remedy
        or "Save tensors (A.values, a state_dict), each rank its own, and build it again from a "
        "World: DSparseMatrix.from_hdf5, from_scipy or from_coo, then with_values",
    )
