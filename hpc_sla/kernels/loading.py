"""Loading torch and h5py without a look at the file of every module that there is.

torch notes for each of its operators the line that registers it, and asks `inspect` for that.
`inspect` fetches the line's text as well, which is never used, and to know whose it is resolves
the path of every module so far, folder by folder: half of all file operations of a solve.
h5py asks for the machine's type in a way that starts a program, `uname`, from every rank.
"""

from __future__ import annotations

import inspect
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_WHOSE = "torch._library.utils", "torch.library"
"""The modules whose questions are answered from what is in memory."""

_lock = threading.Lock()
_open: list[Callable[[], None]] = []
"""What puts all back, once for each block that some thread is in: the last to leave does it."""


@contextmanager
def few_looks_at_files() -> Iterator[None]:
    """What torch and h5py ask as they are loaded within the block is answered from memory. Local.

    The answers are those they would have got, but for a text that torch does not read and, where
    `platform.processor()` would have to start a program, the machine's type in its place. Whoever
    else asks `inspect` is answered by it; once no thread is in such a block all is as it was.
    """
    with _lock:
        _open.append(_open[0] if _open else _exchanged())
    try:
        yield
    finally:
        with _lock:
            put_back = _open.pop()
            if not _open:
                put_back()


def _exchanged() -> Callable[[], None]:
    """Exchange the functions that are asked; what puts them back."""
    asked: Any = inspect  # whose functions are exchanged
    frame_info, module_of = asked.getframeinfo, asked.getmodule

    def quick_frame_info(frame: Any, context: int = 1) -> Any:
        if not inspect.isframe(frame) or _caller() not in _WHOSE:
            return frame_info(frame, context)
        return frame_info_without_text(frame)

    def quick_module_of(value: Any, _filename: str | None = None) -> Any:
        if inspect.isframe(value) and _caller() in _WHOSE:
            named = sys.modules.get(value.f_globals.get("__name__", ""))
            if named is not None and vars(named) is value.f_globals:
                return named
        return module_of(value, _filename)

    about = vars(platform.uname())
    asked_before = "processor" in about
    about.setdefault("processor", platform.machine())
    asked.getframeinfo, asked.getmodule = quick_frame_info, quick_module_of

    def put_back() -> None:
        # Somebody else may have exchanged them meanwhile.
        if asked.getframeinfo is quick_frame_info:
            asked.getframeinfo = frame_info
        if asked.getmodule is quick_module_of:
            asked.getmodule = module_of
        if not asked_before:
            about.pop("processor", None)

    return put_back


def frame_info_without_text(frame: Any) -> inspect.Traceback:
    """What `inspect.getframeinfo(frame, context=0)` says, but for a source of another name."""
    code = frame.f_code
    return inspect.Traceback(code.co_filename, frame.f_lineno, code.co_name, None, None)


def _caller() -> str:
    """The module that called the function that calls this."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))
