"""Write a file beside its target and rename it, so that no reader ever sees half of one."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpc_sla.errors import InputError

_REMEDY = "Choose another output path, or make its folder writable."


class PendingFile:
    """A new file that takes its final name only when `commit` is called.

    Parameters
    ----------
    path : path
        The final name. What stands there already is untouched until `commit`.

    Attributes
    ----------
    temporary : pathlib.Path
        Where to write meanwhile: the same folder, so that the rename cannot cross file systems.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # A symbolic link keeps pointing where it points; its target is what gets replaced.
        self._target = Path(os.path.realpath(self.path))
        _refuse_special(self.path, self._target)
        name = f".{self._target.name[:200]}.{secrets.token_hex(6)}.part"
        self.temporary = self._target.with_name(name)
        try:
            descriptor = os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except OSError as error:
            raise InputError(_why(error, self._target), file=self.path, remedy=_REMEDY) from error
        os.close(descriptor)

    def commit(self) -> None:
        """Bring the bytes to the disc, then give the file its final name."""
        try:
            _fsync(self.temporary)
            os.replace(self.temporary, self._target)
            # The rename itself is only durable once the folder is; some file systems cannot.
            with suppress(OSError):
                _fsync(self._target.parent)
        except OSError as error:
            self.discard()
            raise InputError(_why(error, self._target), file=self.path, remedy=_REMEDY) from error

    def discard(self) -> None:
        """Remove what was written; the final name is as it was."""
        with suppress(OSError):
            self.temporary.unlink()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` is as it was before.

    Raises
    ------
    InputError
        The folder is missing or cannot be written to, or `path` is a folder or a device.
    """
    pending = PendingFile(path)
    try:
        yield pending.temporary
    except BaseException:
        pending.discard()
        raise
    pending.commit()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` now if `replacing(path)` could not be entered later.

    Tries it, because permission bits say too little (read-only mounts, access lists, root).
    """
    PendingFile(path).discard()


def _refuse_special(path: Path, target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except OSError:
        return  # nothing there yet, or not to be looked at: creating the file will tell
    if stat.S_ISDIR(mode):
        raise InputError("is a folder, not a file", file=path, remedy="Name a file inside it.")
    if not stat.S_ISREG(mode):
        raise InputError("is not a regular file", file=path, remedy="Choose another output path.")


def _why(error: OSError, target: Path) -> str:
    folder = target.parent
    if not folder.exists():
        return f"cannot be written: the folder {str(folder)!r} does not exist"
    reason = error.strerror or str(error)
    return f"cannot be written in the folder {str(folder)!r}: {reason[:1].lower()}{reason[1:]}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
