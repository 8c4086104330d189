"""Tags of messages on a World's communicator: each kind has its own.

0 is that of what is sent while nobody does anything else.
"""

EXCHANGES = range(1, 1024)
"""Sparse exchanges take them in turn: two that follow each other have different ones."""
USER_ORDER = 1024
"""Rows on their way between the stored order and the user's."""
TO_SCIPY = 1025
OUTPUT = 1026
"""Rows of a file on their way to the rank that writes them."""
CHANNELS = range(2048, 2048 + 16384)
"""Channels of the mpi transport take them in turn. MPI has 0 to 32767, and may have no more."""
