"""The user's line: (code object, f_lasti) while recording, file and line number when shown."""
from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

_PACKAGE = str(Path(__file__).resolve().parents[2])
_INSIDE: dict[CodeType, bool] = {}


def _is_inside(code: CodeType) -> bool:
    known = _INSIDE.get(code)
    if known is None:
        known = _INSIDE[code] = code.co_filename.startswith((_PACKAGE, "<frozen"))
    return known


def caller(depth: int = 1) -> tuple[CodeType, int] | None:
    """Return (code, f_lasti) of the nearest frame outside Fanal, cheap enough for every recorded event."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and _is_inside(frame.f_code):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lasti)


def line(where: tuple[CodeType, int] | None) -> tuple[str, int] | None:
    """Return (file, line number) of a recorded place."""
    if where is None:
        return None
    code, lasti = where
    for start, end, number in code.co_lines():
        if start <= lasti < end and number is not None:
            return code.co_filename, number
    return code.co_filename, code.co_firstlineno


def show(where: tuple[CodeType, int] | None) -> str:
    """Return "file.py:12", or "" when unknown."""
    at = line(where)
    return f"{Path(at[0]).name}:{at[1]}" if at else ""
