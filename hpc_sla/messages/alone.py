"""What a communicator is among one process, without MPI."""

from __future__ import annotations


class Alone:
    """As much of an mpi4py communicator as `Peers` uses of one of a single rank. Local."""

    rank, size = 0, 1
