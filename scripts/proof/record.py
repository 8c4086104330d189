"""What a part finds, kept on disc after each finding, so that a run that is cut short has told."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_sla.errors import HpcSlaError
from hpc_sla.storage.atomic import replacing

if TYPE_CHECKING:
    import hpc_sla as hs

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


def write(path: Path, found: Any) -> None:
    """As JSON, whole or not at all. JSON knows no infinities and no NaN: they become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(found), indent=1, allow_nan=False) + "\n")


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


class Record:
    """The findings of one part on its ranks. Rank 0 keeps them.

    Parameters
    ----------
    world : hpc_sla.World
    path : Path
        Where they go.
    seconds : float
        How long the part may take from now.
    """

    def __init__(self, world: hs.World, path: Path, seconds: float) -> None:
        self._world, self._path = world, path
        self._end = time.monotonic() + seconds
        self.found: dict[str, Any] = {"facts": {}, "checks": [], "rows": []}
        self._write()

    def facts(self, **facts: Any) -> None:
        """What is neither right nor wrong. Local."""
        self.found["facts"].update(facts)
        self._write()

    def check(self, name: str, passed: bool, **figures: Any) -> None:
        """Something that must hold. Local; rank 0's counts."""
        self._add("checks", name, PASS if passed else FAIL, figures)

    def row(self, name: str, passed: bool, **figures: Any) -> None:
        """A line of a table; `passed`: whether its solution is one. Local; rank 0's counts."""
        self._add("rows", name, PASS if passed else FAIL, figures)

    def skip(self, name: str, reason: str, table: str = "rows", **figures: Any) -> None:
        """What is left out, and why. Local; rank 0's counts."""
        self._add(table, name, SKIP, {"reason": reason, **figures})

    def fits(self, predicted: float) -> bool:
        """Whether there is time for what takes so many seconds. **Collective.**"""
        return self._world.max(predicted) < self._world.comm.bcast(self._end - time.monotonic())

    @contextmanager
    def attempt(self, name: str, table: str = "checks", **figures: Any) -> Iterator[None]:
        """A block whose failure is a finding. **Collective** over errors of the package.

        Any other exception on one of several ranks ends the part: the rest would wait for it.
        """
        try:
            yield
        except Exception as error:
            if self._world.size > 1 and not isinstance(error, HpcSlaError):
                raise
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            self._add(table, name, FAIL, {"reason": reason[:500], **figures})

    def _add(self, table: str, name: str, status: str, figures: dict[str, Any]) -> None:
        self.found[table].append({"name": name, "status": status, **figures})
        self._write()

    def _write(self) -> None:
        if self._world.rank == 0:
            write(self._path, self.found)
