"""The user's line: (code object, f_lasti) while recording, file and number when shown; whether it handles errors."""
from __future__ import annotations

import builtins
import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

_PACKAGE = str(Path(__file__).resolve().parents[2])
_INSIDE: dict[CodeType, bool] = {}


def is_inside(code: CodeType) -> bool:
    """Tell whether a function is Fanal's own."""
    known = _INSIDE.get(code)
    if known is None:
        known = _INSIDE[code] = code.co_filename.startswith((_PACKAGE, "<frozen"))
    return known


def caller(depth: int = 1) -> tuple[CodeType, int] | None:
    """Return (code, f_lasti) of the nearest frame outside Fanal, cheap enough for every recorded event."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and is_inside(frame.f_code):
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


# Whether the user's code is ready for an error: then what may fail is computed at once, and raises where it is called.

_NAMED = ("RuntimeError", "LinAlgError", "_LinAlgError")
_MEANT = ("raises", "suppress")  # in the names of what a `with` is given, or `self` alone, as inside unittest
_READY: dict[tuple[int, int, bool], tuple[CodeType, bool]] = {}  # by id: hashing a code object reads all of it
_MOST = 4096


def ready(depth: int = 1) -> tuple[bool, tuple[CodeType, int] | None]:
    """Return whether the calling code handles errors, and where it calls (see `where.caller`).

    It does if the calling function stands in a `with` or in a `try` that may catch a RuntimeError, or if any function
    that called it stands in one meant for such errors: an `except` that names RuntimeError or LinAlgError, a `with` of
    `raises` or the like. Whoever catches everything further out gets the error when the value is computed.
    """
    frame: FrameType | None = sys._getframe(depth)
    nearest: tuple[CodeType, int] | None = None
    while frame is not None:
        code = frame.f_code
        if (nearest is None or code.co_exceptiontable) and not is_inside(code):
            place = frame.f_lasti
            key = id(code), place, nearest is None
            known = _READY.get(key)
            if known is None:
                if len(_READY) >= _MOST:
                    _READY.clear()
                known = _READY[key] = code, _catches(code, place, nearest is None)
            if nearest is None:
                nearest = code, place
            if known[1]:
                return True, nearest
        frame = frame.f_back
    return False, nearest


def _catches(code: CodeType, place: int, near: bool) -> bool:
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    steps = list(dis.get_instructions(code))
    at = {step.offset: n for n, step in enumerate(steps)}
    while True:
        entry = next((e for e in entries if e.start <= place < e.end), None)
        if entry is None:
            return False
        for kind in _handlers(steps, at[entry.target]):
            if kind == "with":
                if near or _is_meant(_names_of_line(steps, at[entry.start] - 1)):
                    return True
            elif _may_catch(kind, near):
                return True
        place = entry.target  # the handler stands in the next handler out


def _may_catch(kind: str, near: bool) -> bool:
    """Tell whether a handler of this kind of error may catch a RuntimeError, as far as its name tells."""
    known = getattr(builtins, kind, None)
    other = isinstance(known, type) and issubclass(known, BaseException) and not issubclass(RuntimeError, known)
    return kind in _NAMED or (near and not other)


def _is_meant(names: set[str]) -> bool:
    return "self" in names or any(word in name.lower() for name in names for word in _MEANT)


def _names_of_line(steps: list[dis.Instruction], at: int) -> set[str]:
    """Return the names that stand on a line of code up to an instruction."""
    line, names = steps[at].positions, set()
    while at >= 0 and (where := steps[at].positions) and line and where.lineno == line.lineno:
        names.add(str(steps[at].argval))
        at -= 1
    return names


def _handlers(steps: list[dis.Instruction], at: int) -> Iterator[str]:
    """Yield the names of the classes a handler is for; "with" for a `with`, "BaseException" for a bare `except`."""
    at += steps[at].opname == "PUSH_EXC_INFO"
    if steps[at].opname == "WITH_EXCEPT_START":
        yield "with"
    if steps[at].opname == "POP_TOP":
        yield "BaseException"
    while at < len(steps):
        names: list[str] = []
        while steps[at].opname.startswith(("LOAD_", "BUILD_TUPLE", "PUSH_NULL", "CACHE")):
            if steps[at].opname == "LOAD_ATTR" and names:
                names.pop()  # the last name of module.Class
            if steps[at].opname.startswith("LOAD_"):
                names.append(str(steps[at].argval))
            at += 1
        if steps[at].opname not in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH"):
            return
        yield from names
        while "JUMP" not in steps[at].opname:
            at += 1
        after = steps[at].argval  # where it goes on if the test fails
        at = next(n for n, step in enumerate(steps) if step.offset == after)
        if steps[at].opname == "POP_TOP":
            yield "BaseException"
