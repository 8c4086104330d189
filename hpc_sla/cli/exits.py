"""The exit codes of every command."""

from __future__ import annotations

OK = 0
"""Converged, or done."""
FAILED = 1
"""Something broke, or a comparison did not agree."""
USAGE = 2
"""Bad input or wrong usage: one message on stderr says what and what to do."""
NOT_CONVERGED = 3
"""The solver stopped before its tolerance; the result is written all the same."""
STALLED = 70
"""A rank made no progress for --stall-timeout; every rank's stack is on stderr."""
PREEMPTED = 75
"""Ended by SIGTERM or SIGUSR1 before it was done (EX_TEMPFAIL of sysexits.h): run it again."""
