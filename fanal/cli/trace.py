"""Tracebacks that end at the user's line.

Frames of Fanal are left out, and so is what Fanal called into (NumPy, the standard library), until the user's
own code comes again, as a `Dataset` called by a `DataLoader`. `FANAL_TRACE=full` keeps everything.
"""

from __future__ import annotations

import os
import sysconfig
from types import CodeType, TracebackType
from typing import Any

from fanal.core.base import knobs

__all__ = ["install_thread_hook", "trim"]

_FANAL = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, "<fanal")
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_IMPORT = ("<frozen importlib", "<frozen runpy", "<frozen zipimport", f"{_STDLIB}importlib{os.sep}")
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def trim(error: BaseException) -> None:
    """Leave Fanal's frames out of `error`'s traceback, and of those it was raised from or contains."""
    if knobs.trace == "full":
        return
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        trimmed = _trimmed(current.__traceback__)
        if trimmed is not None or current is not error or isinstance(error, SyntaxError):
            current.__traceback__ = trimmed
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions


def install_thread_hook() -> None:
    """Trim the tracebacks of threads, too."""
    import threading

    show = threading.excepthook

    def hook(args: Any) -> None:
        if args.exc_value is not None:
            trim(args.exc_value)
            args = threading.ExceptHookArgs(
                (args.exc_type, args.exc_value, args.exc_value.__traceback__, args.thread)
            )
        show(args)

    threading.excepthook = hook


def _trimmed(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    inside = False  # whether Fanal is what called this frame
    while traceback is not None:
        code: CodeType = traceback.tb_frame.f_code
        if code.co_filename.startswith(_FANAL):
            inside = True
        elif code.co_filename.startswith(_IMPORT):
            pass
        elif not inside or not code.co_filename.startswith(_LIBRARIES):
            inside = False
            kept.append(traceback)
        traceback = traceback.tb_next
    result = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result
