"""Matching: is this call the one that came at this place last time? Then its result is known.

A *step* is a place in a known stream of calls: which function, which arguments (by identity), the result,
and the step that follows. A *cursor* is the step a thread expects next. Functions and methods made here
compare their call with the cursor's step. If all is equal, they move the cursor on and return the step's
result; if not, they leave the cursor where it is and call their slow path with the very same arguments. A
slow path that calls other such functions takes the cursor first (`take_cursor`), or they would be matched
in their turn.

Arguments are compared and not owned (the Python twin, which cannot compare otherwise, keeps them): whoever builds
steps sees to it that a recorded object lives, or takes it out (`set_arg`) before its address can belong to another.
Results are owned, and each step owns the
next; a cursor owns nothing, so the first step of a stream must be kept by somebody.

There are two twins with one interface: `native` (machine code) and `PurePython` below, the reference and the
fallback. `matcher` is the one in use.
"""
from __future__ import annotations

import importlib
import sys
from _thread import get_ident
from collections.abc import Callable
from operator import is_
from types import MethodType
from typing import Any, Protocol

from fanal.core.base import knobs

NEVER = -1  # the key of freed steps; no function may have it


class Matcher(Protocol):
    """What both twins offer."""

    name: str

    def new_step(self, key: int, args: tuple, kwnames: tuple | None, out: Any, /) -> Any:
        """Return a step: positional and then keyword values in `args`, the keywords' names, the result.

        A step has attributes `key`, `out` and `next` (None after the last); change them by the methods below.
        Raises TypeError for other arguments.
        """

    def link(self, step: Any, following: Any | None) -> None:
        """Make `following` what is expected after `step`; a step owns what follows it."""

    def set_arg(self, step: Any, index: int, value: Any, /) -> None:
        """Expect another object. Raises IndexError when the step has no such argument."""

    def set_out(self, step: Any, value: Any) -> None:
        """Return another object from now on."""

    def free(self, step: Any) -> None:
        """Let go of the result and of what follows; the step never matches again."""

    def set_cursor(self, step: Any | None, /) -> bool:
        """Set what this thread expects next. Returns False, and does nothing, while no cursor is to be had.

        The native twin has a cursor for each of many threads. The Python twin has one, which belongs to the
        thread that set it until that thread runs out of steps or sets None.
        """

    def get_cursor(self) -> Any | None:
        """Return the step this thread expects next."""

    def take_cursor(self) -> Any | None:
        """Return the step this thread expects next, and expect none from now on."""

    def function(self, key: int, slow: Callable, name: str, doc: str | None = None,
                 module: str | None = None) -> Callable:
        """Return a function. Stored in a class it does not bind, as built-in functions do not.

        `module` is where pickle finds it under `name`: that of `slow` unless given.
        """

    def method(self, owner: type, key: int, slow: Callable, name: str, doc: str | None = None) -> Any:
        """Return what to store in the class `owner` as `name`.

        Slow calls raise TypeError when `self` is no instance of the class.
        """


class Step:
    """A step of the Python twin."""

    __slots__ = ("__weakref__", "a", "args", "b", "c", "key", "names", "next", "out")

    key: int
    a: Any  # the first three arguments, or _absent; `a` is _OTHER when they are not all, or some have names
    b: Any
    c: Any
    names: tuple
    args: list[Any]  # positional arguments, then those with names
    next: Step | None
    out: Any


class _Cursor:
    __slots__ = ("step", "thread")

    def __init__(self) -> None:
        self.step: Step | None = None
        self.thread = 0


_absent: Any = object()
_OTHER: Any = object()
# Calls of these have one or two arguments and no names.
_OPERATORS = frozenset(
    f"__{prefix}{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "and", "or", "xor", "lshift", "rshift",
                 "eq", "ne", "lt", "le", "gt", "ge", "neg", "invert", "abs")
    for prefix in ("", "r", "i"))


class PurePython:
    """The matcher in Python: what the native one must do, and what runs where that cannot."""

    name = "python"
    step_type = Step

    def __init__(self) -> None:
        self._cursor = _Cursor()

    def new_step(self, key: int, args: tuple, kwnames: tuple | None, out: Any, /) -> Step:
        if type(args) is not tuple or not (kwnames is None or type(kwnames) is tuple) or \
                len(kwnames or ()) > len(args) or not isinstance(key, int):
            raise TypeError("new_step(key: int, args: tuple, kwnames: tuple | None, out)")
        step = Step()
        step.key, step.names, step.out, step.next = key, kwnames or (), out, None
        step.args = list(args)
        self._show(step)
        return step

    @staticmethod
    def _show(step: Step) -> None:
        """Put the arguments where calls look for them."""
        if step.names or not 0 < len(step.args) <= 3:
            step.a, step.b, step.c = _OTHER, _absent, _absent
        else:
            step.a, step.b, step.c = (*step.args, _absent, _absent)[:3]

    def link(self, step: Step, following: Step | None) -> None:
        link(Step, step, following)

    def set_arg(self, step: Step, index: int, value: Any, /) -> None:
        if type(step) is not Step:
            raise TypeError("set_arg(step, index: int, value)")
        if not 0 <= index < len(step.args):
            raise IndexError("the step has no argument of this index")
        step.args[index] = value
        self._show(step)

    def set_out(self, step: Step, value: Any) -> None:
        step.out = value

    def free(self, step: Step) -> None:
        free(self, step)

    def set_cursor(self, step: Step | None, /) -> bool:
        if not (step is None or type(step) is Step):
            raise TypeError("set_cursor(step | None)")
        here, thread = self._cursor, get_ident()
        if here.step is not None and here.thread != thread and here.thread in sys._current_frames():
            return step is None
        here.step, here.thread = step, thread
        return True

    def get_cursor(self) -> Step | None:
        here = self._cursor
        return here.step if here.thread == get_ident() else None

    def take_cursor(self) -> Step | None:
        step = self.get_cursor()
        if step is not None:
            self._cursor.step = None
        return step

    def function(self, key: int, slow: Callable, name: str, doc: str | None = None,
                 module: str | None = None) -> Callable:
        follow = _function(self._cursor, key, slow)
        follow.__name__ = follow.__qualname__ = name
        follow.__doc__ = doc
        follow.__module__ = module or getattr(slow, "__module__", None) or __name__
        return MethodType(follow, _Home(follow.__module__))  # already bound, so classes do not bind it

    def method(self, owner: type, key: int, slow: Callable, name: str, doc: str | None = None) -> Any:
        follow = (_operator if name in _OPERATORS else _method)(self._cursor, owner, key, slow)
        follow.__name__, follow.__qualname__ = name, f"{owner.__qualname__}.{name}"
        follow.__doc__, follow.__module__ = doc, owner.__module__
        return follow


class _Home:
    """What functions of the Python twin are bound to: it pickles as the module that has them."""

    __slots__ = ("module",)

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple:
        return importlib.import_module, (self.module,)

    def __getattr__(self, name: str) -> Any:  # how copy.copy, which also reduces, finds the function again
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.module), name)

    def __deepcopy__(self, memo: dict) -> _Home:
        return self

    def __repr__(self) -> str:
        return f"<module {self.module!r}>"


# The functions below are written for CPython's speed: one for each way a call reaches them. Most calls have one to
# three positional arguments and nothing else.

def _function(here: _Cursor, key: int, slow: Callable) -> Any:
    def follow(home: _Home, a: Any = _absent, b: Any = _absent, c: Any = _absent, /,
               *rest: Any, **names: Any) -> Any:
        step = here.step
        if step is not None and step.key == key and here.thread == get_ident():
            if (a is step.a and b is step.b and c is step.c and not rest and not names) or \
                    (step.a is _OTHER and _same(step, a, b, c, rest, names)):
                here.step = step.next
                return step.out
        return slow(*_positional(a, b, c, rest), **names)

    return follow


def _method(here: _Cursor, owner: type, key: int, slow: Callable) -> Any:
    def follow(a: Any = _absent, b: Any = _absent, c: Any = _absent, /, *rest: Any, **names: Any) -> Any:
        step = here.step
        if step is not None and step.key == key and here.thread == get_ident():
            if (a is step.a and b is step.b and c is step.c and not rest and not names) or \
                    (step.a is _OTHER and _same(step, a, b, c, rest, names)):
                here.step = step.next
                return step.out
        _check_self(follow, owner, a)
        return slow(*_positional(a, b, c, rest), **names)

    return follow


def _operator(here: _Cursor, owner: type, key: int, slow: Callable) -> Any:
    def follow(a: Any = _absent, b: Any = _absent, /) -> Any:
        step = here.step
        if step is not None and a is step.a and b is step.b and step.key == key and here.thread == get_ident() \
                and step.c is _absent:
            here.step = step.next
            return step.out
        _check_self(follow, owner, a)
        return slow(*_positional(a, b, _absent, ()))

    return follow


def _check_self(follow: Any, owner: type, a: Any) -> None:
    if a is _absent:
        raise TypeError(f"unbound method {follow!r} needs an argument")
    if not issubclass(type(a), owner):
        raise TypeError(f"descriptor {follow!r} does not apply to a {type(a)!r} object")


def _positional(a: Any, b: Any, c: Any, rest: tuple) -> tuple:
    if a is _absent:
        return ()
    if b is _absent:
        return (a,)
    if c is _absent:
        return a, b
    return a, b, c, *rest


def _same(step: Step, a: Any, b: Any, c: Any, rest: tuple, names: dict) -> bool:
    """Compare a call with keywords or more than three positional arguments."""
    args = _positional(a, b, c, rest)
    return (step.names == tuple(names) and len(step.args) == len(args) + len(names)
            and all(map(is_, step.args, (*args, *names.values()))))


def link(kind: Any, step: Any, following: Any | None) -> None:
    """Set `step.next`. Raises TypeError unless both are steps of `kind` (or the latter is None)."""
    if not isinstance(step, kind) or not (following is None or isinstance(following, kind)):
        raise TypeError("link(step, step | None)")
    step.next = following


def free(matcher: Any, step: Any) -> None:
    """Empty a step."""
    if not isinstance(step, matcher.step_type):
        raise TypeError("free(step)")
    if matcher.get_cursor() is step:
        matcher.set_cursor(None)
    step.key = NEVER
    step.next = None
    step.out = None
    if type(step) is Step:
        step.args = [_absent] * len(step.args)
        step.a, step.b, step.c = _OTHER, _absent, _absent


def _choose() -> Matcher:
    if knobs.native:
        try:
            from fanal.core.engine.native import Native

            return Native()
        except Exception as error:
            global without
            without = error
    return PurePython()


without: Exception | None = None  # why the native twin is not in use, unless it was switched off
matcher: Matcher = _choose()
