"""Parts of a distributed graph made better: fewer arcs cut, and no part too heavy.

Vertices on the boundary move all at once, even where that is a loss at first, and take back what
their neighbours' moves spoil: Jet (M. S. Gilbert, K. Madduri, E. G. Boman and S. Rajamanickam,
"Jet: Multilevel graph partitioning on graphics processing units", SIAM J. Sci. Comput. 46 (2024);
across ranks: D. Seemaier and P. Sanders, "Distributed Jet", 2024). All is in whole numbers, and
ties are broken by the vertices' numbers: the parts do not depend on who has which vertices.
"""

from __future__ import annotations

import numpy as np

from hpc_sla.hashing import GOLDEN, mix
from hpc_sla.kernels.regroup import Gains, afterthoughts, gains
from hpc_sla.partition.parallel.cuts import ordered, pieces
from hpc_sla.partition.parallel.graph import Graph

_PATIENCE = 12
"""Steps without a clear gain before it ends."""
_CLEAR = 0.999
_MOST_STEPS = 150
_MOST_PUSHES = 6
"""In succession, to bring parts below what they may weigh: heavy vertices may not allow it."""
_DARING = {True: 0.25, False: 0.75}
"""On the finest graph, and on others: what share of its ties to its own part a vertex may lose."""
_BALANCE = 1.03
_NOWHERE = -1


def limits(total: int, shares: np.ndarray) -> np.ndarray:
    """What each part may weigh: 1.03 of its share, or that rounded up."""
    even = total * (shares / shares.sum())
    return np.maximum(np.floor(_BALANCE * even), np.ceil(even - 1e-9)).astype(np.int64)


def refine(graph: Graph, part: np.ndarray, allowed: np.ndarray, finest: bool) -> np.ndarray:
    """Better parts, none heavier than allowed where that can be. **Collective.**

    Parameters
    ----------
    graph : Graph
    part : int32 array [n]
    allowed : int64 array [parts]
        Replicated.
    finest : bool
        Whether this is the graph that was asked for.

    Returns
    -------
    int32 array [n]
    """
    peers, parts = graph.peers, len(allowed)
    if parts == 1:
        return part
    everywhere = np.ones(parts, dtype=np.int32)
    part = graph.extend(part)
    locked = np.zeros(graph.n, dtype=bool)
    best: tuple[int, int, np.ndarray] | None = None
    waited = pushes = 0
    for _ in range(_MOST_STEPS):
        found = gains(graph.indptr, graph.neighbours, graph.weights, part, everywhere)
        sums = np.zeros(parts + 1, dtype=np.int64)
        np.add.at(sums, part[: graph.n], graph.sizes[: graph.n])
        sums[parts] = found.cut
        sums = peers.sum(sums)
        loads, cut = sums[:parts], int(sums[parts])
        over = int(np.maximum(loads - allowed, 0).sum())
        waited += 1
        if best is None or (over, cut) < best[:2]:
            if best is None or over < best[0] or cut < _CLEAR * best[1]:
                waited = 0
            best = over, cut, part[: graph.n].copy()
        if waited > _PATIENCE or pushes >= _MOST_PUSHES or (cut == 0 and not over):
            break
        if over:
            pushes += 1
            part = _lighter(graph, part, loads, allowed, pushes)
            locked[...] = False
        else:
            pushes = 0
            part, locked = _better(graph, part, found, locked, _DARING[finest])
    assert best is not None
    return best[2]


def _better(
    graph: Graph, part: np.ndarray, found: Gains, locked: np.ndarray, daring: float
) -> tuple[np.ndarray, np.ndarray]:
    """One step of Jet: who moved may not in the next one. **Collective.**"""
    n = graph.n
    gain = found.there - found.here
    may = (found.best != _NOWHERE) & ~locked
    may &= (gain >= 0) | (-gain < np.floor(daring * found.here))
    wish = np.where(may, found.best, _NOWHERE).astype(np.int32)
    gain, wish = graph.extend(gain), graph.extend(wish)
    rank = _order(graph)
    movers = np.flatnonzero(may)
    arrays = graph.indptr, graph.neighbours, graph.weights, part, wish, gain, rank
    moved = movers[afterthoughts(movers, *arrays) >= 0]
    after, locked = part[:n].copy(), np.zeros(n, dtype=bool)
    after[moved], locked[moved] = wish[moved], True
    return graph.extend(after), locked


def _order(graph: Graph) -> np.ndarray:
    """In which order vertices of one gain are taken to move: int64 [n + ghosts]."""
    return (mix(graph.ids.astype(np.uint64) * GOLDEN) >> np.uint64(1)).view(np.int64)


def _lighter(
    graph: Graph, part: np.ndarray, loads: np.ndarray, allowed: np.ndarray, push: int
) -> np.ndarray:
    """Move what loses least from parts that are too heavy to such as have room. **Collective.**

    Parameters
    ----------
    push : int
        The how manieth time in succession. Who has no neighbour in a part with room goes to any
        that has; from the second time on, who finds that one full does, too.
    """
    peers, n, parts = graph.peers, graph.n, len(loads)
    even = int(loads.sum()) * (allowed / allowed.sum())
    # Up to half the way from even to too much, so that parts do not push to and fro.
    room = np.maximum(np.ceil((even + allowed) / 2).astype(np.int64), 1) - loads
    room = np.maximum(np.minimum(room, allowed - loads), 0)
    if not room.any():
        room = np.maximum(allowed - loads, 0)
    found = gains(graph.indptr, graph.neighbours, graph.weights, part, (room > 0).astype(np.int32))
    heavy = np.flatnonzero(loads > allowed)
    sizes = graph.sizes[:n]
    leaving = np.flatnonzero(np.isin(part[:n], heavy) & (sizes > 0))
    loss = (found.here - found.there)[leaving] / sizes[leaving]
    key = ordered(loss) >> np.uint64(32)  # as exact as float32 would be, and found in half the time
    which = np.searchsorted(heavy, part[leaving])
    excess = (loads - allowed)[heavy]
    # Those that begin before the excess is reached.
    first = _reaching(graph, which, key, sizes[leaving], excess)
    leaving, key = leaving[first], key[first]
    goal = found.best[leaving].astype(np.int64)
    adjacent = goal != _NOWHERE
    after = part[:n].copy()
    some = np.flatnonzero(adjacent)
    fits = _fitting(graph, goal[some], key[some], sizes[leaving[some]], room)
    after[leaving[some[fits]]] = goal[some[fits]]
    taken = np.zeros(parts, dtype=np.int64)
    np.add.at(taken, goal[some[fits]], sizes[leaving[some[fits]]])
    room = room - peers.sum(taken)
    rest = ~adjacent
    if push > 1:
        rest[some[~fits]] = True
    others = leaving[rest]
    cuts = np.cumsum(room)
    none, one = np.zeros(len(others), dtype=np.int64), np.zeros(parts, dtype=np.int64)
    goal = pieces(peers, none, key[rest], sizes[others], one, cuts)
    into = goal < parts
    after[others[into]] = goal[into]
    return graph.extend(after)


def _reaching(
    graph: Graph, group: np.ndarray, key: np.ndarray, size: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Which items of each group it takes, in order of the key, to weigh as much. **Collective.**"""
    groups = np.arange(len(target), dtype=np.int64)
    # An item whose middle lies before the target and half of itself begins before the target.
    heaviest = graph.peers.max(np.array([size.max(initial=0)], dtype=np.int64))
    behind = pieces(graph.peers, group, key, size, groups, target + heaviest // 2)
    return behind == 0


def _fitting(
    graph: Graph, goal: np.ndarray, key: np.ndarray, size: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """Which items find room in their goals, in order of the key. **Collective.**"""
    groups = np.arange(len(room), dtype=np.int64)
    return pieces(graph.peers, goal, key, size, groups, room) == 0
