"""Ownership found from what each rank brings, without any rank seeing the whole.

The directory is the assumed partition of A. Baker, R. Falgout and U. Yang, "An assumed
partition algorithm for determining processor inter-communication", Parallel Computing 32
(2006): rank r knows who owns each row of the r-th even block of the user's rows.
"""

from __future__ import annotations

import numpy as np

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition.offsets import even_offsets


def claimed_layout(
    world: World, claimed: np.ndarray, n_global: int, what: str = "row"
) -> RowLayout:
    """A RowLayout made from the user's rows each rank claims, ascending. **Collective.**

    Parameters
    ----------
    world : World
    claimed : int64 array
        Per rank: the user's rows it will own, strictly ascending. Rows that nobody claims (they
        have no entries) go to the rank in whose even block they lie.
    n_global : int
        Replicated.
    what : {"row", "column"}
        What messages call them.

    Raises
    ------
    InputError
        On every rank, where two ranks claim one row.
    """
    homes = even_offsets(n_global, world.size)
    first, last = int(homes[world.rank]), int(homes[world.rank + 1])

    claims = world.sparse_exchange(_by_home(homes, claimed)[0])
    owner = np.full(last - first, -1, dtype=np.int64)
    with world.agree():
        for rank, rows in claims.items():
            taken = rows[owner[rows - first] >= 0]
            if len(taken):
                raise InputError(
                    f"{what} {taken[0]} was passed by ranks {owner[taken[0] - first]} and {rank}",
                    field=f"{what}s",
                    remedy="Pass all the triplets of a row on the one rank that will own it"
                    if what == "row"
                    else "Name each column on the one rank that will own it",
                )
            owner[rows - first] = rank
    orphans = np.flatnonzero(owner < 0) + first
    rows = np.union1d(claimed, orphans) if len(orphans) else claimed
    return RowLayout.numbered(world, world.offsets(len(rows)), rows)


class Directory:
    """Where in a layout each of the user's rows is stored. **Collective.**

    Parameters
    ----------
    layout : RowLayout
    """

    def __init__(self, layout: RowLayout) -> None:
        world, rows, start = layout.world, layout.rows, layout.start
        self._world = world
        self._homes = even_offsets(layout.n_global, world.size)
        self._identity = layout.natural
        if self._identity:
            return
        first = int(self._homes[world.rank])
        # The stored row of each user row of this rank's home block.
        self._stored = np.empty(int(self._homes[world.rank + 1]) - first, dtype=np.int64)
        by_home, order = _by_home(self._homes, rows)
        stored = np.arange(start, start + len(rows), dtype=np.int64)[order]
        edges = np.cumsum([0, *(len(part) for part in by_home.values())])
        messages = {
            home: np.concatenate([part, stored[edges[i] : edges[i + 1]]])
            for i, (home, part) in enumerate(by_home.items())
        }
        for message in world.sparse_exchange(messages).values():
            users, places = np.split(message, 2)
            self._stored[users - first] = places

    def stored(self, users: np.ndarray) -> np.ndarray:
        """The stored rows of user rows, in the order given. **Collective.**

        Parameters
        ----------
        users : int64 array
            Per rank; any rows, repeats allowed.
        """
        if self._identity:
            return users
        unique, inverse = np.unique(users, return_inverse=True)
        by_home, order = _by_home(self._homes, unique)
        first = self._homes[self._world.rank]
        questions = self._world.sparse_exchange(by_home)
        answers = self._world.sparse_exchange(
            {rank: self._stored[rows - first] for rank, rows in questions.items()}
        )
        found = np.empty(len(unique), dtype=np.int64)
        # Both dictionaries are in ascending rank order.
        found[order] = np.concatenate([*answers.values(), np.empty(0, dtype=np.int64)])
        return found[inverse]


def _by_home(homes: np.ndarray, rows: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """User rows grouped by home rank, ascending, and the order that groups them."""
    home = np.searchsorted(homes, rows, side="right") - 1
    order = np.argsort(home, kind="stable")
    ranks, starts = np.unique(home[order], return_index=True)
    parts = np.split(rows[order], starts[1:])
    return {int(rank): part for rank, part in zip(ranks, parts, strict=False)}, order
