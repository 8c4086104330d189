"""The live line: iteration and residual of a running solve, redrawn in place on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from hpc_sla.observe import log
from hpc_sla.report.terminal import stderr_reaches_terminal

REDRAWS_PER_SECOND = 10.0
_ERASE_LINE = "\r\x1b[2K"


class LiveLine:
    """A callback for a solver that shows how far it is.

    It draws on one rank only, and only where somebody can see it (see
    `hpc_sla.report.terminal`): redirected it writes nothing at all. Where somebody listens to
    `hpc_sla.observe.log`, an iteration a second goes there. Between two redraws a call costs
    one look at the clock (below a microsecond).

    Parameters
    ----------
    rank : int
        Only rank 0 draws.
    scale : float
        What the residual norm is shown relative to: the norm of the right-hand side.
    target : float
        The relative residual at which the solver will stop, shown beside the present one.
    enabled : bool, optional
        Draw or not; by default, decided by whether stderr ends on a terminal.

    Examples
    --------
    >>> with LiveLine(rank=0, scale=1.0, target=1e-8, enabled=False) as line:
    ...     line.callback is None  # nothing to draw: the solver is handed no callback
    True
    """

    def __init__(self, rank: int, scale: float, target: float, enabled: bool | None = None) -> None:
        if enabled is None:
            enabled = rank == 0 and stderr_reaches_terminal()
        self.enabled = enabled and rank == 0
        self._target = target
        self._scale = scale if scale > 0 else 1.0
        self._started = time.perf_counter()
        self._next = self._started + 1.0 / REDRAWS_PER_SECOND
        self._drawn = False
        self._log = log.Convergence(scale) if log.enabled() else None

    @property
    def callback(self) -> LiveLine | None:
        """What to pass to the solver: None when there is nothing to draw or to log."""
        return self if self.enabled or self._log is not None else None

    def __call__(self, iteration: int, residual_norm: float) -> None:
        if self._log is not None:
            self._log(iteration, residual_norm)
            if not self.enabled:
                return
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + 1.0 / REDRAWS_PER_SECOND
        self._draw(iteration, residual_norm, now - self._started)

    def _draw(self, iteration: int, residual_norm: float, seconds: float) -> None:
        relative = residual_norm / self._scale
        # Stays under 80 columns: behind a launcher the width of the terminal is not known.
        text = f"  iteration {iteration}   relative residual {relative:.2e}"
        if self._target > 0:
            text += f" (to {self._target:.0e})"
        text += f"   {seconds:.1f} s"
        sys.stderr.write(_ERASE_LINE + text)
        sys.stderr.flush()
        self._drawn = True

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._log is not None:
            self._log.finish()
        if self._drawn:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
