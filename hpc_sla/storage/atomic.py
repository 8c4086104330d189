"""Write a file beside its target and rename it, so that no reader ever sees half of one."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpc_sla.errors import InputError

_REMEDY = "Choose another output path, or make its folder writable."


class PendingFile:
    """A new file that takes its final name only when `commit` is called.

    It is locked (flock) for as long as this process lives, so that the next one to write the same
    file can tell what a killed run has left behind, and removes it.

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
        if "\0" in os.fspath(path):
            raise InputError("is not a file name: it has a zero byte", file=path, remedy=_REMEDY)
        # A symbolic link keeps pointing where it points; its target is what gets replaced.
        self._target = Path(os.path.realpath(self.path))
        _refuse_special(self.path, self._target)
        _remove_leftovers(self._target)
        self._descriptor: int | None = None
        while self._descriptor is None:
            name = f"{_prefix(self._target)}{os.urandom(6).hex()}.part"
            self.temporary = self._target.with_name(name)
            try:
                self._descriptor = _create_locked(self.temporary)
            except OSError as error:
                why = _why(error, self._target)
                raise InputError(why, file=self.path, remedy=_REMEDY) from error

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
        self._unlock()

    def discard(self) -> None:
        """Remove what was written; the final name is as it was."""
        with suppress(OSError):
            self.temporary.unlink()
        self._unlock()

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


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


def folds_case(path: str | os.PathLike[str]) -> bool:
    """Whether the folder of `path` takes ``A`` and ``a`` for one name; it must be writable."""
    pending = PendingFile(path)
    try:
        # The name ends in .part, and no other file has it.
        return pending.temporary.with_name(pending.temporary.name.swapcase()).exists()
    finally:
        pending.discard()


def _prefix(target: Path) -> str:
    # The bytes count, of which the system allows 255.
    return f".{os.fsdecode(os.fsencode(target.name)[:200])}."


def _create_locked(path: Path) -> int | None:
    """Create `path` and lock it; None where another process took it for a leftover meanwhile."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    # Some file systems have no locks: there leftovers stay, and nothing else changes.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes were writing for `target`: nobody holds its lock any more."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{12}\.part")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if pattern.fullmatch(name):
                _remove_unless_locked(target.with_name(name))


def _remove_unless_locked(path: Path) -> None:
    with suppress(OSError):  # gone meanwhile, somebody else's, or locked: it is in use
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _refuse_special(path: Path, target: Path) -> None:
    try:
        found = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # nothing there yet: creating the file will tell
    except OSError as error:
        # A name that is too long, links in a circle: the rename would meet it, too.
        raise InputError(_why(error, target), file=path, remedy=_REMEDY) from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError("is a folder, not a file", file=path, remedy="Name a file inside it.")
    if not stat.S_ISREG(found.st_mode):
        raise InputError("is not a regular file", file=path, remedy="Choose another output path.")
    if not os.access(target, os.W_OK):
        # A rename would not ask.
        raise InputError(
            "exists already and is write-protected",
            file=path,
            remedy="Make it writable, or choose another output path.",
        )
    if _kept_by_sticky_folder(found, target):
        raise InputError(
            "belongs to somebody else, in a folder where only its owner may replace it",
            file=path,
            remedy="Choose another output path.",
        )


def _kept_by_sticky_folder(found: os.stat_result, target: Path) -> bool:
    folder, me = target.parent.stat(), os.geteuid()
    return bool(folder.st_mode & stat.S_ISVTX) and me not in (0, found.st_uid, folder.st_uid)


def _why(error: OSError, target: Path) -> str:
    folder = target.parent
    if isinstance(error, FileNotFoundError):
        return f"cannot be written: the folder {str(folder)!r} does not exist"
    reason = error.strerror or str(error)
    return f"cannot be written in the folder {str(folder)!r}: {reason[:1].lower()}{reason[1:]}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
