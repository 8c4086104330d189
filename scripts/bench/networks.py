"""Graphs, circuits and Markov chains, by SciPy. Each function gives (A, b, known)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

System = tuple[sp.csr_matrix, np.ndarray, dict]
SEED = 14


def _grid(n: int) -> np.ndarray:
    number = np.arange(n * n).reshape(n, n)
    return np.concatenate(
        [
            np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
            np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1),
        ]
    )


def _near(n: int) -> np.ndarray:
    """Pairs of points in a square that are near, about eight a point."""
    points = np.random.default_rng(SEED).random((n, 2))
    return cKDTree(points).query_pairs(np.sqrt(8 / (np.pi * n)), output_type="ndarray")


def _attached(n: int, each: int = 3) -> np.ndarray:
    """Every newcomer joins `each` of those that are there, the more joined the likelier.

    A. Barabasi and R. Albert (1999).
    """
    random = np.random.default_rng(SEED)
    ends = list(range(each))
    pairs = []
    for new, draws in enumerate(random.random((n - each, each)).tolist(), start=each):
        old = {ends[int(draw * len(ends))] for draw in draws}
        pairs += [(new, other) for other in old]
        ends += [new] * len(old) + list(old)
    return np.array(pairs)


def _laplacian(pairs: np.ndarray, weights: np.ndarray, n: int) -> sp.csr_matrix:
    W = sp.coo_matrix((weights, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    W = (W + W.T).tocsr()
    return sp.csr_matrix(sp.diags(np.asarray(W.sum(axis=1)).ravel()) - W)


def graph(n: int, which: str, shift: float, spread: float = 0.0) -> System:
    """A graph's Laplacian plus `shift` I; weights over `spread` powers of ten.

    Where the shift is 0 it is singular, one vector for each component, and b is in its range.
    """
    pairs = {"grid": _grid, "geometric": _near, "attached": _attached}[which](n)
    n = n * n if which == "grid" else n
    random = np.random.default_rng(SEED)
    L = _laplacian(pairs, 10 ** (spread * random.random(len(pairs))), n)
    b = random.standard_normal(n)
    if shift == 0:
        _, part = connected_components(L)
        b -= (np.bincount(part, b) / np.bincount(part))[part]
    return sp.csr_matrix(L + shift * sp.eye(n)) if shift else L, b, {}


def resistors(n: int, extremes: float) -> System:
    """A board of resistors around 1 kOhm, some of 1 mOhm or 1 GOhm, fed at a few places."""
    random = np.random.default_rng(SEED)
    pairs = _grid(n)
    conductance = 1e-3 * 10 ** (random.random(len(pairs)) - 0.5)
    pick = random.random(len(pairs))
    conductance[pick < extremes] = 1e3
    conductance[pick > 1 - extremes] = 1e-9
    ground = np.zeros(n * n)
    ground[random.integers(n * n, size=n)] = 1e-2
    b = np.zeros(n * n)
    b[random.integers(n * n, size=n)] = 1e-3
    return sp.csr_matrix(_laplacian(pairs, conductance, n * n) + sp.diags(ground)), b, {}


def sources(n: int, controlled: bool) -> System:
    """Modified nodal analysis: a board with voltage sources, whose currents are unknowns, too.

    With transistors as current sources that another place's voltage controls, non-symmetric.
    """
    random = np.random.default_rng(SEED)
    A, b, _ = resistors(n, 0.0)
    count = n
    places = random.choice(n * n, size=2 * count, replace=False)
    plus, minus = places[:count], places[count:]
    # Half of the sources stand on the ground.
    rows = np.concatenate([np.arange(count), np.arange(count // 2)])
    columns = np.concatenate([plus, minus[: count // 2]])
    signs = np.concatenate([np.ones(count), -np.ones(count // 2)])
    B = sp.csr_matrix((signs, (rows, columns)), shape=(count, n * n))
    if controlled:
        m = n * n // 20
        into, out_of, by = (random.integers(n * n, size=m) for _ in range(3))
        gain = np.full(m, 2e-4)
        A = A + sp.csr_matrix(
            (
                np.concatenate([gain, -gain]),
                (np.concatenate([into, out_of]), np.concatenate([by, by])),
            ),
            shape=A.shape,
        )
    volts = random.choice([5.0, 3.3, 12.0], size=count)
    return sp.bmat([[A, B.T], [B, None]], format="csr"), np.append(b, volts), {}


def pages(n: int, alpha: float) -> System:
    """PageRank: (I - alpha P^T) x = (1 - alpha) / n, links as newcomers make them and back."""
    random = np.random.default_rng(SEED)
    pairs = _attached(n, 5)
    back = pairs[random.random(len(pairs)) < 0.3][:, ::-1]
    links = np.concatenate([pairs, back, np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)])
    G = sp.csr_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    P = sp.diags(1 / np.asarray(G.sum(axis=1)).ravel()) @ G
    A = sp.csr_matrix(sp.eye(n) - alpha * P.T)
    return A, np.full(n, (1 - alpha) / n), {}


def queues(n: int) -> System:
    """The steady state of two queues of length < n that feed one another, by its rates.

    Q^T x = 0, the last row replaced by sum x = 1: a full row.
    """
    number = np.arange(n * n).reshape(n, n)
    moves = [
        (number[:-1], number[1:], 0.8),  # arrival at the first
        (number[1:, :-1], number[:-1, 1:], 1.0),  # from the first to the second
        (number[:, 1:], number[:, :-1], 1.1),  # departure from the second
        (number[:-1, 1:], number[1:, :-1], 0.1),  # back to the first
    ]
    rows, columns, rates = (
        np.concatenate(part)
        for part in zip(
            *((a.ravel(), b.ravel(), np.full(a.size, rate)) for a, b, rate in moves), strict=True
        )
    )
    Q = sp.csr_matrix((rates, (rows, columns)), shape=(n * n, n * n))
    Q = (Q - sp.diags(np.asarray(Q.sum(axis=1)).ravel())).T.tocsr()
    A = sp.vstack([Q[:-1], np.ones((1, n * n))], format="csr")
    b = np.zeros(n * n)
    b[-1] = 1.0
    return A, b, {}
