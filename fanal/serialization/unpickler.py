"""Read pickles without running them.

Pickle is a small stack language whose GLOBAL and REDUCE instructions import and call anything.
This interpreter has no import: a name is looked up in a closed table (``globals.py``), and only
what the table says can be called is called. The rest is refused, or kept as inert ``Opaque`` data.

Enters: the bytes of a pickle, protocol 0 to 5. Leaves: the object, and in ``position`` where the
pickle ended. Keeps true: no code named by the file runs; time and memory stay linear in its size.

Source: CPython Lib/pickletools.py (what each opcode means).
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from .errors import RecordError
from .opaque import Opaque

MAX_MARKS = 2000  # open containers at once; the pickler's own recursion ends near 500
MAX_DEPTH = 1000  # containers inside containers in the result
MAX_KEY_NODES = 10_000  # a key is hashed by walking it; a shared tuple can be walked 2**n times
MAX_KEY_DEPTH = 100
MAX_INT_BYTES = 1 << 16


class Scope(Protocol):
    """What a name in a pickle may mean."""

    def find(self, module: str, name: str) -> Any: ...
    def call(self, function: Any, args: tuple, kwargs: dict | None) -> Any: ...
    def new(self, cls: Any, args: tuple, kwargs: dict | None) -> Any: ...
    def build(self, instance: Any, state: Any) -> Any: ...
    def persistent(self, pid: Any) -> Any: ...


class Unpickler:
    """One pickle being read."""

    def __init__(self, data: bytes | memoryview, scope: Scope, position: int = 0, encoding: str = "utf-8"):
        self.data = memoryview(data)
        self.scope = scope
        self.position = position
        self.encoding = encoding
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Run the pickle to its STOP and return the object.

        Raises: pickle.UnpicklingError for anything refused or malformed; RecordError for tensor
        data that cannot be trusted.
        """
        actions, data, size = _ACTIONS, self.data, len(self.data)
        try:
            while True:
                if self.position >= size:
                    raise pickle.UnpicklingError("pickle data was truncated: no STOP")
                code = data[self.position]
                self.position += 1
                if code == _STOP:
                    break
                action = actions.get(code)
                if action is None:
                    raise pickle.UnpicklingError(_refused_opcode(code))
                action(self)
            result = self.pop()
        except (pickle.UnpicklingError, RecordError):
            raise
        except (
            ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError, struct.error,
            RecursionError, MemoryError,
        ) as error:  # fmt: skip
            raise pickle.UnpicklingError(
                f"malformed pickle near byte {self.position}: {type(error).__name__}: {error}"
            ) from error
        check_depth(result)
        return result

    # -- bytes

    def take(self, size: int) -> memoryview:
        """Return the next bytes of the pickle."""
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise pickle.UnpicklingError(
                f"pickle data was truncated: {size} bytes announced at byte {self.position}, "
                f"{len(self.data) - self.position} left"
            )
        part = self.data[self.position : end]
        self.position = end
        return part

    def number(self, layout: str) -> Any:
        """Return the next number, in a struct layout."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        """Return the text up to the next line end."""
        # Searching piecewise keeps a pickle of many short lines linear.
        at, step = self.position, 64
        while at < len(self.data):
            found = bytes(self.data[at : at + step]).find(b"\n")
            if found >= 0:
                text = bytes(self.data[self.position : at + found])
                self.position = at + found + 1
                return text
            at += step
            step *= 2
        raise pickle.UnpicklingError("pickle data was truncated: a line does not end")

    # -- stack

    def pop(self) -> Any:
        """Take the top of the stack, never from under an open mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError(f"malformed pickle: empty stack at byte {self.position}")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top of the stack."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError(f"malformed pickle: empty stack at byte {self.position}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        if not self.marks:
            raise pickle.UnpicklingError(f"malformed pickle: no mark at byte {self.position}")
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        if index < 0:
            raise pickle.UnpicklingError("malformed pickle: negative memo index")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a memo entry."""
        if index not in self.memo:
            raise pickle.UnpicklingError(f"malformed pickle: memo entry {index} was never stored")
        self.stack.append(self.memo[index])


def check_key(key: Any) -> None:
    """Refuse a dict key or set member whose hash would take forever or overflow the C stack."""
    if type(key) in (str, int, bytes, float, bool, type(None)):
        return
    pending, seen = [(key, 0)], 0
    while pending:
        item, depth = pending.pop()
        seen += 1
        if seen > MAX_KEY_NODES or depth > MAX_KEY_DEPTH:
            raise pickle.UnpicklingError(
                f"refused a dict key or set member that nests more than {MAX_KEY_DEPTH} deep or "
                f"holds more than {MAX_KEY_NODES} values"
            )
        if isinstance(item, (tuple, frozenset)):
            pending.extend((part, depth + 1) for part in item)


def check_depth(root: Any) -> None:
    """Refuse a result nested so deep that printing or copying it would overflow the stack."""
    level, seen = [root], {id(root)}
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            for part in children(item):
                if isinstance(part, _CONTAINERS) and id(part) not in seen:
                    seen.add(id(part))
                    below.append(part)
        if not below:
            return
        level = below
    raise pickle.UnpicklingError(f"refused an object nested more than {MAX_DEPTH} levels deep")


_CONTAINERS = (list, tuple, dict, set, frozenset, Opaque)


def children(item: Any) -> Any:
    """Return what a container holds: keys and values, members, or an opaque object's parts."""
    if isinstance(item, dict):
        return [*item, *item.values(), *vars(item).values()] if hasattr(item, "__dict__") else [
            *item, *item.values()]  # fmt: skip
    if isinstance(item, (list, tuple, set, frozenset)):
        return item
    if isinstance(item, Opaque):
        return (item.args, item.kwargs, item.state, item.items)
    return ()


def append_to(target: Any, items: list[Any]) -> None:
    """Extend a list, or note the items on an opaque object."""
    if isinstance(target, Opaque):
        target.items.extend(items)
    elif type(target) is list:
        target.extend(items)
    else:
        raise pickle.UnpicklingError(f"refused to append to {_kind(target)}: only lists are appended to")


def set_items(target: Any, items: list[Any]) -> None:
    """Store key, value, key, value... in a dict, or note them on an opaque object."""
    if len(items) % 2:
        raise pickle.UnpicklingError("malformed pickle: a key without a value")
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(target, Opaque):
        target.items.extend(pairs)
    elif type(target) in (dict, OrderedDict, defaultdict, Counter):
        for key, value in pairs:
            check_key(key)
            target[key] = value
    else:
        raise pickle.UnpicklingError(f"refused to set items of {_kind(target)}: only dicts have them")


def make_set(kind: Callable[[list], Any], items: list[Any]) -> Any:
    """Build a set or frozenset from members that are safe to hash."""
    for item in items:
        check_key(item)
    return kind(items)


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, Opaque) else f"a {type(value).__name__}"


def _refused_opcode(code: int) -> str:
    if code in _REFUSED:
        return f"refused pickle opcode {_REFUSED[code]}: it has no meaning in a checkpoint"
    return f"malformed pickle: unknown opcode 0x{code:02x}"


_STOP = ord(".")
_REFUSED = {0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER"}
_ACTIONS: dict[int, Callable[[Unpickler], object]] = {}


def _on(code: bytes) -> Callable[[Callable[[Unpickler], None]], Callable[[Unpickler], None]]:
    def register(action: Callable[[Unpickler], None]) -> Callable[[Unpickler], None]:
        _ACTIONS[code[0]] = action
        return action

    return register


def _push(code: bytes, make: Callable[[Unpickler], Any]) -> None:
    _ACTIONS[code[0]] = lambda u: u.stack.append(make(u))


def _text_int(line: bytes) -> Any:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line)


def _binary_int(u: Unpickler, size: int) -> int:
    if size > MAX_INT_BYTES:
        raise pickle.UnpicklingError(f"refused an integer of {size} bytes")
    return int.from_bytes(u.take(size), "little", signed=True)


def _old_string(u: Unpickler, raw: bytes) -> str | bytes:
    """Return a Python 2 str, as text unless the caller asked for bytes."""
    return raw if u.encoding == "bytes" else raw.decode(u.encoding)


def _quoted(u: Unpickler) -> str | bytes:
    line = u.line().strip()
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b'"', b"'"):
        raise pickle.UnpicklingError("malformed pickle: a string without quotes")
    return _old_string(u, codecs.escape_decode(line[1:-1])[0])  # type: ignore[arg-type]


def _unicode(u: Unpickler, size: int) -> str:
    return str(u.take(size), "utf-8", "surrogatepass")


_ACTIONS[0x80] = lambda u: _protocol(u)  # PROTO
_ACTIONS[0x95] = lambda u: u.number("<Q")  # FRAME: a hint for buffered readers
_push(b"N", lambda u: None)
_push(b"\x88", lambda u: True)
_push(b"\x89", lambda u: False)
_push(b"I", lambda u: _text_int(u.line()))
_push(b"J", lambda u: u.number("<i"))
_push(b"K", lambda u: u.number("<B"))
_push(b"M", lambda u: u.number("<H"))
_push(b"L", lambda u: int(u.line().rstrip(b"L")))
_push(b"\x8a", lambda u: _binary_int(u, u.number("<B")))
_push(b"\x8b", lambda u: _binary_int(u, u.number("<i")))
_push(b"F", lambda u: float(u.line()))
_push(b"G", lambda u: u.number(">d"))
_push(b"S", _quoted)
_push(b"T", lambda u: _old_string(u, bytes(u.take(u.number("<i")))))
_push(b"U", lambda u: _old_string(u, bytes(u.take(u.number("<B")))))
_push(b"V", lambda u: str(u.line(), "raw-unicode-escape"))
_push(b"X", lambda u: _unicode(u, u.number("<I")))
_push(b"\x8c", lambda u: _unicode(u, u.number("<B")))
_push(b"\x8d", lambda u: _unicode(u, u.number("<Q")))
_push(b"B", lambda u: bytes(u.take(u.number("<I"))))
_push(b"C", lambda u: bytes(u.take(u.number("<B"))))
_push(b"\x8e", lambda u: bytes(u.take(u.number("<Q"))))
_push(b"\x96", lambda u: bytearray(u.take(u.number("<Q"))))
_push(b"]", lambda u: [])
_push(b")", lambda u: ())
_push(b"}", lambda u: {})
_push(b"\x8f", lambda u: set())
_push(b"l", lambda u: u.pop_mark())
_push(b"t", lambda u: tuple(u.pop_mark()))
_push(b"\x85", lambda u: (u.pop(),))
_push(b"\x86", lambda u: _last(u, 2))
_push(b"\x87", lambda u: _last(u, 3))
_push(b"2", lambda u: u.top())
_ACTIONS[ord("0")] = lambda u: _pop(u)
_ACTIONS[ord("1")] = lambda u: u.pop_mark()
_ACTIONS[ord("g")] = lambda u: u.recall(int(u.line()))
_ACTIONS[ord("h")] = lambda u: u.recall(u.number("<B"))
_ACTIONS[ord("j")] = lambda u: u.recall(u.number("<I"))
_ACTIONS[ord("p")] = lambda u: u.remember(int(u.line()))
_ACTIONS[ord("q")] = lambda u: u.remember(u.number("<B"))
_ACTIONS[ord("r")] = lambda u: u.remember(u.number("<I"))
_ACTIONS[0x94] = lambda u: u.remember(len(u.memo))  # MEMOIZE


def _protocol(u: Unpickler) -> None:
    protocol = u.number("<B")
    if protocol > 5:
        raise pickle.UnpicklingError(f"pickle protocol {protocol} is unknown; 0 to 5 are read")


def _last(u: Unpickler, count: int) -> tuple:
    parts = [u.pop() for _ in range(count)]
    return tuple(reversed(parts))


def _pop(u: Unpickler) -> None:
    if u.marks and len(u.stack) == u.marks[-1]:
        u.marks.pop()
    else:
        u.pop()


@_on(b"(")
def _mark(u: Unpickler) -> None:
    if len(u.marks) >= MAX_MARKS:
        raise pickle.UnpicklingError(f"refused a pickle with more than {MAX_MARKS} open containers")
    u.marks.append(len(u.stack))


@_on(b"d")
def _dict(u: Unpickler) -> None:
    result: dict[Any, Any] = {}
    items = u.pop_mark()
    set_items(result, items)
    u.stack.append(result)


@_on(b"a")
def _append(u: Unpickler) -> None:
    item = u.pop()
    append_to(u.top(), [item])


@_on(b"e")
def _appends(u: Unpickler) -> None:
    items = u.pop_mark()
    append_to(u.top(), items)


@_on(b"s")
def _set_item(u: Unpickler) -> None:
    value, key = u.pop(), u.pop()
    set_items(u.top(), [key, value])


@_on(b"u")
def _set_items(u: Unpickler) -> None:
    items = u.pop_mark()
    set_items(u.top(), items)


@_on(b"\x90")
def _add_items(u: Unpickler) -> None:
    items = u.pop_mark()
    target = u.top()
    if type(target) is not set:
        raise pickle.UnpicklingError(f"refused to add members to {_kind(target)}: only sets have them")
    target.update(make_set(set, items))


@_on(b"\x91")
def _frozenset(u: Unpickler) -> None:
    u.stack.append(make_set(frozenset, u.pop_mark()))


@_on(b"c")
def _global(u: Unpickler) -> None:
    module, name = u.line().decode(), u.line().decode()
    u.stack.append(u.scope.find(module, name))


@_on(b"\x93")
def _stack_global(u: Unpickler) -> None:
    name, module = u.pop(), u.pop()
    if type(name) is not str or type(module) is not str:
        raise pickle.UnpicklingError("malformed pickle: STACK_GLOBAL without two strings")
    u.stack.append(u.scope.find(module, name))


def _args(value: Any) -> tuple:
    if type(value) is not tuple:
        raise pickle.UnpicklingError(f"malformed pickle: call arguments are {_kind(value)}, not a tuple")
    return value


@_on(b"R")
def _reduce(u: Unpickler) -> None:
    args, function = _args(u.pop()), u.pop()
    u.stack.append(u.scope.call(function, args, None))


@_on(b"b")
def _build(u: Unpickler) -> None:
    state, instance = u.pop(), u.pop()
    u.stack.append(u.scope.build(instance, state))


@_on(b"i")
def _inst(u: Unpickler) -> None:
    module, name = u.line().decode(), u.line().decode()
    args = tuple(u.pop_mark())
    u.stack.append(u.scope.new(u.scope.find(module, name), args, None))


@_on(b"o")
def _obj(u: Unpickler) -> None:
    cls, *args = u.pop_mark()
    u.stack.append(u.scope.new(cls, tuple(args), None))


@_on(b"\x81")
def _new(u: Unpickler) -> None:
    args, cls = _args(u.pop()), u.pop()
    u.stack.append(u.scope.new(cls, args, None))


@_on(b"\x92")
def _new_with_keywords(u: Unpickler) -> None:
    kwargs, args, cls = u.pop(), _args(u.pop()), u.pop()
    if type(kwargs) is not dict or not all(type(key) is str for key in kwargs):
        raise pickle.UnpicklingError("malformed pickle: keyword arguments are not a dict of names")
    u.stack.append(u.scope.new(cls, args, kwargs))


@_on(b"P")
def _persistent_line(u: Unpickler) -> None:
    u.stack.append(u.scope.persistent(u.line().decode()))


@_on(b"Q")
def _persistent(u: Unpickler) -> None:
    u.stack.append(u.scope.persistent(u.pop()))
