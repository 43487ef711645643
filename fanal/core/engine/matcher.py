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

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from operator import is_
from threading import RLock, get_ident
from types import CodeType, MethodType
from typing import Any, NamedTuple, Protocol

from fanal.core.base import knobs

NEVER = -1  # the key of freed steps; no function may have it


class Parameters(NamedTuple):
    """The parameters of a function: their names, how many have none in a call, and how many have a position.

    others: further names of parameters that every call must have, so that one given instead is seen by what lacks: such
    a call is never matched. What is given besides, under one of these names or by position, is an error, and is not
    seen where the call without it is expected.
    """

    names: tuple[str, ...]
    positional_only: int
    positional: int
    others: tuple[str, ...] = ()


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
                 module: str | None = None, parameters: Parameters | None = None) -> Callable:
        """Return a function. Stored in a class it does not bind, as built-in functions do not.

        `module` is where pickle finds it under `name`: that of `slow` unless given. `parameters` are all
        that calls may have, by default any. A twin may make use of them or not.
        """

    def method(self, owner: type, key: int, slow: Callable, name: str, doc: str | None = None,
               parameters: Parameters | None = None) -> Any:
        """Return what to store in the class `owner` as `name`.

        Slow calls raise TypeError when `self` is no instance of the class.
        """

    def quicken(self, module: str) -> None:
        """Make the names of a module that has a `__getattr__` quick to read, if that can be done."""


class Step:
    """A step of the Python twin."""

    __slots__ = ("__weakref__", "a", "after", "args", "b", "c", "key", "more", "names", "out")

    key: int
    # What the first three arguments are, or _absent, and those to other parameters: a tuple, or _absent if there are
    # none. `a` is _OTHER when the call must be compared with `args` and `names`.
    a: Any
    b: Any
    c: Any
    more: Any
    names: tuple
    args: list[Any]  # positional arguments, then those with names
    after: Step  # what follows, or _NOTHING
    out: Any

    @property
    def next(self) -> Step | None:
        """What follows."""
        return None if self.after is _NOTHING else self.after

    @next.setter
    def next(self, following: Step | None) -> None:
        self.after = _NOTHING if following is None else following


_NOTHING = Step()  # what nobody expects: no function has its key
_NOTHING.key = NEVER


class _Cursor:
    """What a thread expects next, or _NOTHING. The lock tells whose it is: to ask for a thread's id would cost more."""

    __slots__ = ("lock", "step", "thread")

    def __init__(self) -> None:
        self.step = _NOTHING
        self.thread = 0
        self.lock = RLock()


_absent: Any = object()
_OTHER: Any = object()


class PurePython:
    """The matcher in Python: what the native one must do, and what runs where that cannot."""

    name = "python"
    step_type = Step

    def __init__(self) -> None:
        self._cursor = _Cursor()
        self._function, self._method = _forms(self._cursor)
        self._known: dict[int, tuple[_Missed, Parameters]] = {}  # of functions by key, until a step is made of one
        self._names: dict[int, tuple[tuple[str, ...], int]] = {}  # then its parameters, and how many come first
        self._keys: dict[int, int] = {}  # every key by itself: the calls compare objects

    def new_step(self, key: int, args: tuple, kwnames: tuple | None, out: Any, /) -> Step:
        if type(args) is not tuple or not (kwnames is None or type(kwnames) is tuple) or \
                len(kwnames or ()) > len(args) or not isinstance(key, int):
            raise TypeError("new_step(key: int, args: tuple, kwnames: tuple | None, out)")
        if key in self._known:
            missed, parameters = self._known.pop(key)
            missed.own(parameters)
            self._names[key] = parameters.names, min(parameters.positional, 3)
        step = Step()
        step.key, step.names, step.out, step.next = self._keys.setdefault(key, key), kwnames or (), out, None
        step.args = list(args)
        self._show(step)
        return step

    def _show(self, step: Step) -> None:
        """Put the arguments where calls look for them."""
        values, first = step.args, 3
        if step.key in self._names:
            names, first = self._names[step.key]
            given = len(values) - len(step.names)
            named = dict(zip(step.names, values[given:]))
            if given <= len(names) and named.keys() <= set(names[given:]):
                values = values[:given] + [named.get(name, _absent) for name in names[given:]]
            else:
                values, first = [_OTHER], 1  # no call can be like this
        elif step.names or not 0 < len(values) <= 3:
            values = [_OTHER]
        step.a, step.b, step.c = (*values[:first], _absent, _absent, _absent)[:3]
        step.more = _absent if all(x is _absent for x in values[first:]) else tuple(values[first:])

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
        here = self._cursor
        if not here.lock._is_owned():  # type: ignore[attr-defined]
            if here.step is not _NOTHING and here.thread in sys._current_frames():
                return step is None
            here.step, here.thread, here.lock = _NOTHING, get_ident(), RLock()
            here.lock.acquire()
        here.step = _NOTHING if step is None else step
        return True

    def get_cursor(self) -> Step | None:
        here = self._cursor
        step = here.step if here.lock._is_owned() else _NOTHING  # type: ignore[attr-defined]
        return None if step is _NOTHING else step

    def take_cursor(self) -> Step | None:
        step = self.get_cursor()
        if step is not None:
            self._cursor.step = _NOTHING
        return step

    def quicken(self, module: str) -> None:
        pass

    def function(self, key: int, slow: Callable, name: str, doc: str | None = None,
                 module: str | None = None, parameters: Parameters | None = None) -> Callable:
        missed = _Missed(slow, None)
        follow = missed.follow = self._function(self._keys.setdefault(key, key), missed)
        follow.__name__ = follow.__qualname__ = name
        follow.__doc__ = doc
        follow.__module__ = module or getattr(slow, "__module__", None) or __name__
        if parameters is not None:
            self._known[key] = missed, parameters
        return MethodType(follow, _Home(follow.__module__))  # already bound, so classes do not bind it

    def method(self, owner: type, key: int, slow: Callable, name: str, doc: str | None = None,
               parameters: Parameters | None = None) -> Any:
        missed = _Missed(slow, owner)
        follow = missed.follow = self._method(self._keys.setdefault(key, key), missed)
        follow.__name__, follow.__qualname__ = name, f"{owner.__qualname__}.{name}"
        follow.__doc__, follow.__module__ = doc, owner.__module__
        if parameters is not None:
            self._known[key] = missed, parameters
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


class _Missed:
    """What a function does with a call that is not the expected one."""

    __slots__ = ("follow", "names", "owner", "positional", "slow")

    def __init__(self, slow: Callable, owner: type | None) -> None:
        self.slow, self.owner = slow, owner
        self.follow: Any = None
        self.names: tuple[str, ...] = ()  # its parameters, once it has some of its own, and how many have a position
        self.positional = 0

    def own(self, parameters: Parameters) -> None:
        """Give the function parameters of its own."""
        self.follow.__code__, self.follow.__defaults__, self.names = _with(parameters, self.owner is None)
        self.positional = parameters.positional

    def __call__(self, *values: Any) -> Any:
        """Answer a call by what each parameter is, or _absent."""
        args, names = _spelled(self.names, values, self.positional)
        return self.answer(args, names)

    def answer(self, args: Sequence[Any], names: dict[str, Any]) -> Any:
        """Call what is slow. Raises TypeError when a method is called on what is no instance of its class."""
        if self.owner is not None:
            if not args:
                raise TypeError(f"unbound method {self.follow!r} needs an argument")
            if not issubclass(type(args[0]), self.owner):
                raise TypeError(f"descriptor {self.follow!r} does not apply to a {type(args[0])!r} object")
        return self.slow(*args, **names)


# The functions below are written for CPython's speed: one for each way a call reaches them. A call takes hold of every
# variable that its function has from outside, so these are few, and one, `_here`, is the same cell for all. They begin
# with an underscore, as no parameter does: `_TEMPLATE`, whose code takes the place of theirs, has the same.

def _forms(_here: _Cursor) -> tuple[Callable[[int, _Missed], Any], Callable[[int, _Missed], Any]]:
    """Return what makes functions and what makes methods: (key, missed) -> what is called."""

    def function(_key: int, _missed: _Missed) -> Any:
        def _follow(home: _Home, a: Any = _absent, b: Any = _absent, c: Any = _absent, /,
                    *rest: Any, **names: Any) -> Any:
            step = _here.step
            if step.key is _key and _here.lock._is_owned():  # type: ignore[attr-defined]
                if (a is step.a and b is step.b and c is step.c and not rest and not names) or \
                        (step.a is _OTHER and _same(step, a, b, c, rest, names)):
                    _here.step = step.after
                    return step.out
            return _missed.answer(_positional(a, b, c, rest), names)

        return _follow

    def method(_key: int, _missed: _Missed) -> Any:
        def _follow(a: Any = _absent, b: Any = _absent, c: Any = _absent, /, *rest: Any, **names: Any) -> Any:
            step = _here.step
            if step.key is _key and _here.lock._is_owned():  # type: ignore[attr-defined]
                if (a is step.a and b is step.b and c is step.c and not rest and not names) or \
                        (step.a is _OTHER and _same(step, a, b, c, rest, names)):
                    _here.step = step.after
                    return step.out
            return _missed.answer(_positional(a, b, c, rest), names)

        return _follow

    return function, method


# A call of a function with a list of arguments, a dict of names, or parameters without a position costs twice as much
# as a call of one without: CPython runs that in the frame it has. So once a function is on a path it gets parameters
# of its own, in the order of their positions; those that have none stand behind `_none`, which nobody gives.
_TEMPLATE = """
def _make(_here, _key, _missed):
    def _follow({parameters}):
        _step = _here.step
        if _step.key is _key and {same} and _here.lock._is_owned():
            _here.step = _step.after
            return _step.out
        return _missed({values})
    return _follow
"""


@functools.cache
def _with(parameters: Parameters, bound: bool) -> tuple[CodeType, tuple, tuple[str, ...]]:
    """Return the code of a function with these parameters, their defaults and their names.

    bound: it has a home.
    """
    names, positional_only, positional, others = parameters
    first = min(positional, 3)
    same = [f"{name} is _step.{slot}" for name, slot in zip(names[:first], "abc")]
    if more := names[first:]:
        absent = [f"{a} is {b}" for a, b in zip(more, (*more[1:], "_step.more"))]
        same.append(f"({' and '.join(absent)} or "
                    f"_step.more is not _absent and all(map(is_, _step.more, ({', '.join(more)},))))")
    every = (*names, *others)
    if positional < len(every):
        every = (*every[:positional], "_none", *every[positional:])
    parts = [f"{name}=_absent" for name in every]
    if positional_only:
        parts.insert(positional_only, "/")
    if bound:
        parts[:0] = ["_home"] if positional_only else ["_home", "/"]
    text = _TEMPLATE.format(parameters=", ".join(parts), same=" and ".join(same) or "True",
                            values=", ".join(every))
    scope: dict[str, Any] = {"_absent": _absent}
    exec(compile(text, f"{__file__}, made", "exec"), scope)  # of this package: no line of the user's
    follow = scope["_make"](*[None] * 3)
    return follow.__code__, follow.__defaults__, every


def _spelled(names: tuple[str, ...], values: tuple, positional: int) -> tuple[list, dict]:
    """Return the arguments of a call by position, up to the first that is missing, and the others by name."""
    if positional < len(values) and values[positional] is not _absent:  # too many by position, which is no call
        return [x for x in values if x is not _absent], {}
    first = next((i for i in range(positional) if values[i] is _absent), positional)
    return list(values[:first]), {n: v for n, v in zip(names[first:], values[first:]) if v is not _absent}


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
        step.a, step.b, step.c, step.more = _OTHER, _absent, _absent, _absent


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
