"""Aggregates as `amg/device` makes them, one node after the other, on the whole matrix at once."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from hpc_sla.hashing import GOLDEN, mix, noise


def strong_sizes(a: np.ndarray, threshold: float = 0.04) -> np.ndarray:
    """The sizes of strong connections, 0 elsewhere; a is a matrix between nodes."""
    root = np.sqrt(abs(a.diagonal()))
    keep = abs(a) > threshold * root[:, None] * root
    np.fill_diagonal(keep, False)
    return np.where(keep, abs(a), 0.0)


def aggregates(a: np.ndarray, offsets: np.ndarray, threshold: float = 0.04) -> np.ndarray:
    """The stored number of each node's aggregate, -1 for none."""
    size, n = strong_sizes(a, threshold), len(a)
    owner = np.searchsorted(offsets, np.arange(n), side="right") - 1
    root = np.full(n, -1)
    for rank in range(len(offsets) - 1):
        first, last = offsets[rank], offsets[rank + 1]
        mine = _roots(size[first:last, first:last], first, (size[first:last] > 0).sum(axis=1))
        root[first:last] = np.where(mine < 0, -1, mine + first)
    across = np.where(owner[:, None] != owner, size, 0.0)
    lonely = {i for i in range(n) if root[i] < 0 and across[i].any()}
    order, hosts, joined = noise(np.arange(n) + 1, 0), set(np.flatnonzero(root >= 0)), {}
    while lonely:
        able = {i: [j for j in np.flatnonzero(across[i]) if j in hosts] for i in lonely}
        new = {i: max((across[i, j], j) for j in some)[1] for i, some in able.items() if some}
        joined |= new
        # A rival that has just found a host was open when this round began.
        first = {
            i
            for i in lonely - set(new)
            if all(order[j] > order[i] for j in np.flatnonzero(across[i]) if j in lonely)
        }
        for i in first:
            root[i] = i
        hosts |= first
        lonely -= first | set(new)
    number = {i: place for place, i in enumerate(sorted(set(root[root >= 0])))}
    for guest, host in joined.items():
        root[guest] = root[host]
    return np.array([number[i] if i >= 0 else -1 for i in root], dtype=int)


def _roots(size: np.ndarray, first: int, degree: np.ndarray) -> np.ndarray:
    n = len(size)
    around = [set(np.flatnonzero(row)) for row in size]
    hashes = mix((np.arange(first, first + n) + 1).astype(np.uint64) * GOLDEN)
    look = [(int(number >> np.uint64(11)) % 2**16, i) for i, number in enumerate(hashes)]
    wide = _widened(around)
    claim = _claims(wide, look, {i for i in range(n) if around[i]})
    left = {i for i in range(n) if around[i] and i not in claim}
    inner = [around[i] & left if i in left else set() for i in range(n)]
    some = {
        i
        for i in left
        if _may_found(len(inner[i]), degree[i])
        and (len(wide[i]) == len(around[i]) or len(inner[i]) == degree[i])
    }
    claim |= _claims(inner, look, some)
    of_root = Counter(claim.values())
    joins = {}
    for i in left - set(claim):
        hosts = [j for j in around[i] if j in claim]
        if hosts:
            joins[i] = max(
                (size[i, j], -min(of_root[claim[j]], 63), look[claim[j]]) for j in hosts
            )[2][1]
    claim |= joins
    return np.array([claim.get(i, -1) for i in range(n)], dtype=int)


def _widened(around: list[set]) -> list[set]:
    """With the nodes between whose rings there are two neighbours, where a ring has holes."""
    wide = [set(ring) for ring in around]
    for i, ring in enumerate(around):
        if 5 <= len(ring) <= 8 and not any(around[k] & ring for k in ring):
            ways = Counter(j for k in ring for j in around[k] if j != i)
            wide[i] |= {j for j, count in ways.items() if count >= 2}
    return wide


def _may_found(left: int, degree: int) -> bool:
    if left + 1 >= 2 / 3 * (degree + 1) - 1e-9:
        return True
    return left + 3 >= degree and (left > 0 or degree <= 2)


def _claims(around: list[set], look: list[tuple], open_: set) -> dict[int, int]:
    """The roots of an independent set, and whose neighbours others are."""
    chosen, taken = set(), {i for i in range(len(around)) if i not in open_}
    if not any(around):
        return {}
    open_ = set(open_)
    while open_:
        place = {}
        for i in range(len(around)):
            enclosed = math.ceil(8 * len(around[i] & taken) / len(around[i])) if around[i] else 0
            state = 1 if i in open_ else 2 if i in chosen else 0
            place[i] = (state, enclosed if state == 1 else 0, look[i])
        near = {i: max([place[i], *(place[j] for j in around[i])]) for i in place}
        far = {i: max([near[i], *(near[j] for j in around[i])]) for i in place}
        covered = {i for i in open_ if far[i][0] == 2}
        new = {i for i in open_ if far[i] == place[i]}
        chosen |= new
        taken |= covered
        open_ -= covered | new
    claim = {}
    for i in range(len(around)):
        roots = [i] if i in chosen else [j for j in around[i] if j in chosen]
        if roots:
            claim[i] = max(roots, key=lambda j: look[j])
    return claim
