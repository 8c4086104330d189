"""What is run, how large: on a card, and with ``--small`` on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from published import TABLE1, TABLE2, Published


@dataclass(frozen=True)
class Plan:
    """Sizes are points of a square grid along a side, n^2 rows.

    Attributes
    ----------
    device : str
    stream : int
        Entries of a vector in the measurement of bandwidth, at most.
    answers, gradients : int
        Sizes of the problems that correctness is checked on. Odd: no multiple of any block.
    table1, table2 : tuple of Published
    weak : int
        Rows of a rank in weak scaling.
    peers : tuple of int
    lengths : (int, int)
        Iterations between which the slope of CG with Jacobi is taken, at most.
    repeats : int
        Of what takes less than a second.
    """

    device: str
    stream: int
    answers: int
    gradients: int
    table1: tuple[Published, ...]
    table2: tuple[Published, ...]
    weak: int
    peers: tuple[int, ...]
    lengths: tuple[int, int]
    repeats: int


FULL = Plan(
    device="cuda",
    stream=1 << 28,
    answers=127,
    gradients=63,
    table1=TABLE1,
    table2=TABLE2,
    weak=4_000_000,
    peers=(316, 1000),
    lengths=(96, 480),
    repeats=5,
)

SMALL = Plan(
    device="cpu",
    stream=1 << 21,
    answers=31,
    gradients=15,
    table1=(Published(41, None, 1e-7), TABLE1[0]),
    table2=(Published(41, None, 1e-7), TABLE2[0]),
    weak=2500,
    peers=(47,),
    lengths=(12, 48),
    repeats=2,
)
