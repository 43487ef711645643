"""Constructors that are safe to run on hostile arguments, and the user's own list of them."""

from __future__ import annotations

import argparse
import datetime
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .unpickler import check_key, make_set

# Modules whose members stay refused even when the user lists them.
BLOCKED_MODULES = frozenset({"sys", "os", "posix", "nt"})

_user_globals: set[Any] = set()


class Refused(Exception):
    """A known constructor got arguments it does not take; says which."""


class Entry(NamedTuple):
    """What a name in a pickle stands for, and what calling it does (None: it is only data)."""

    value: Any
    call: Callable[..., Any] | None = None
    new: Callable[..., Any] | None = None


def add_safe_globals(safe_globals: list[Any]) -> None:
    """Allow classes and functions to be rebuilt by ``load``.

    Items are classes, functions, or (object, "module.name") pairs for objects saved under another
    name. A listed object is called when a file says so: list only what you trust with any argument.
    """
    _user_globals.update(safe_globals)


def get_safe_globals() -> list[Any]:
    """Return what ``add_safe_globals`` has allowed."""
    return list(_user_globals)


def clear_safe_globals() -> None:
    """Forget everything ``add_safe_globals`` has allowed."""
    _user_globals.clear()


class safe_globals:  # a context manager, named as in PyTorch
    """Allow classes and functions to be rebuilt by ``load`` inside a ``with`` block."""

    def __init__(self, safe_globals: list[Any]) -> None:
        self.safe_globals = safe_globals
        self.added: set[Any] = set()

    def __enter__(self) -> None:
        self.added = set(self.safe_globals) - _user_globals
        add_safe_globals(self.safe_globals)

    def __exit__(self, *exception: object) -> None:
        _user_globals.difference_update(self.added)


def user_globals() -> dict[str, Any]:
    """Return the allowed objects by the dotted name a pickle gives them."""
    allowed: dict[str, Any] = {}
    for item in _user_globals:
        if isinstance(item, tuple):
            if len(item) != 2 or type(item[1]) is not str:
                raise ValueError(
                    f"a safe global is an object or an (object, 'module.name') pair, got {item!r}"
                )
            allowed[item[1]] = item[0]
        else:
            allowed[f"{item.__module__}.{item.__qualname__}"] = item
    return allowed


# -- containers and numbers


def _exactly(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise Refused(f"an argument of type {type(value).__name__}")
    return value


def _sequence(args: tuple) -> list:
    if not args:
        return []
    (only,) = args
    return list(_exactly(only, list, tuple, set, frozenset))


def _bytes(*args: Any) -> bytes:
    if not args:
        return b""
    if len(args) == 2:
        return _encode(*args)
    return bytes(_exactly(args[0], bytes, bytearray))


def _encode(text: Any, encoding: Any = "utf-8", *rest: Any) -> bytes:
    """Pickle protocol 2 spells bytes as text encoded in Latin-1."""
    _exactly(text, str)
    if rest or str(encoding).lower().replace("-", "").replace("_", "") not in ("latin1", "utf8", "ascii"):
        raise Refused(f"encoding {encoding!r}")
    return text.encode(encoding)


def _number(kind: Any) -> Callable[..., Any]:
    def make(*args: Any) -> Any:
        for arg in args:
            _exactly(arg, int, float, bool, complex, type(None))
        return kind(*args)

    return make


def _mapping(kind: Any) -> Callable[..., Any]:
    def make(*args: Any) -> Any:
        result = kind()
        if args:
            (source,) = args
            items = source.items() if isinstance(source, dict) else _exactly(source, list, tuple)
            for key, value in items:
                check_key(key)
                result[key] = value
        return result

    return make


_FACTORIES = (None, list, dict, int, set, float, str, tuple, bool, bytes, complex, OrderedDict)


def _defaultdict(factory: Any = None, *args: Any) -> defaultdict:
    if not any(factory is known for known in _FACTORIES):
        raise Refused(f"default factory {factory!r}")
    return defaultdict(factory, _mapping(dict)(*args))


def _time(kind: Any) -> Callable[..., Any]:
    def make(*args: Any) -> Any:
        for arg in args:
            _exactly(arg, int, bytes, type(None), datetime.timezone, datetime.timedelta, str)
        return kind(*args)

    return make


def _object(*args: Any) -> object:
    raise Refused("a bare object")


def _namespace(*args: Any) -> argparse.Namespace:
    if args:
        raise Refused("positional arguments")
    return argparse.Namespace()


# -- NumPy

_NUMPY_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQefdFD]|[biufc](1|2|4|8|16)|[SUa]\d{1,6}|O8?)")
_NUMPY_SCALARS = [
    "bool",
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "str_",
    "bytes_",
    "intp",
    "uintp",
    "longlong",
    "ulonglong",
]


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if isinstance(code, type) and issubclass(code, np.generic):
        code = np.dtype(code).str
    if not isinstance(code, str) or not _NUMPY_CODE.fullmatch(code):
        raise Refused(f"NumPy dtype {code!r} (numbers, bools, strings and objects are read)")
    return np.dtype(code, copy=True)


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    _plain_dtype(dtype)
    if dtype.hasobject:
        return data
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise Refused(f"a NumPy scalar of {dtype} without its {dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, count=1)[0] if dtype.itemsize else dtype.type()


def _numpy_shell(cls: Any, shape: Any, code: Any) -> np.ndarray:
    """Return the empty array whose contents a BUILD instruction will bring."""
    if cls is not np.ndarray:
        raise Refused(f"a NumPy array class {cls!r}")
    return np.ndarray((0,), np.int8)


def _numpy_from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    _plain_dtype(dtype)
    _exactly(data, bytes, bytearray)
    if dtype.hasobject or _count(shape) * dtype.itemsize != len(data) or order not in ("C", "F"):
        raise Refused(f"a NumPy array of {dtype} and shape {shape!r:.60} with {len(data)} bytes")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)


def _plain_dtype(dtype: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.names is not None or dtype.subdtype is not None:
        raise Refused(f"NumPy dtype {dtype!r:.80}")


def _count(shape: Any) -> int:
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(f"NumPy shape {shape!r:.80}")
    count = 1
    for size in shape:
        count *= size
    return count


def build_numpy(instance: Any, state: Any) -> None:
    """Give a NumPy array or dtype shell its contents, after checking that they fit."""
    if isinstance(instance, np.dtype):
        if type(state) is not tuple or len(state) < 8 or state[2:5] != (None, None, None):
            raise Refused("a structured NumPy dtype")
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise Refused(f"byte order {order!r}")
        if order in "<>" and instance.kind in "iufcU":
            sizes = (-1, -1) if instance.kind != "U" else (instance.itemsize, instance.alignment)
            instance.__setstate__((3, order, None, None, None, *sizes, 0))
        return
    if type(state) is not tuple or len(state) != 5:
        raise Refused("NumPy array state of another version")
    _, shape, dtype, fortran, data = state
    _plain_dtype(dtype)
    count = _count(shape)
    if dtype.hasobject:
        if type(data) is not list or len(data) != count:
            raise Refused(f"a NumPy object array of shape {shape} with other contents")
    elif isinstance(data, (bytes, bytearray)):
        if len(data) != count * dtype.itemsize:
            raise Refused(f"a NumPy array of {dtype} and shape {shape} with {len(data)} bytes")
    else:
        raise Refused("NumPy array contents that are not bytes")
    instance.__setstate__((1, shape, dtype, bool(fortran), data))


def build_attributes(instance: Any, state: Any) -> None:
    """Set attributes from a state dict, and slots from the second half of a state pair.

    Slots are set only through the class's own slot descriptors, so a state cannot reach
    ``__class__`` or any property.
    """
    slots = None
    if type(state) is tuple and len(state) == 2:
        state, slots = state
    if state:
        if not isinstance(state, dict) or not all(type(key) is str for key in state):
            raise Refused(f"state of {type(instance).__name__} that is not a dict of names")
        instance.__dict__.update(state)
    for name, value in (slots or {}).items():
        owner = next((cls for cls in type(instance).__mro__ if name in vars(cls)), None)
        descriptor = vars(owner)[name] if owner else None
        if type(descriptor).__name__ != "member_descriptor":
            raise Refused(f"{type(instance).__name__} has no slot {name!r}")
        descriptor.__set__(instance, value)


def hides_method(cls: type, state: Any) -> str | None:
    """Return a name in a state dict that would hide an attribute of the class."""
    return next((key for key in state if type(key) is not str or getattr(cls, key, None) is not None), None)


def static_entries() -> dict[str, Entry]:
    """Return the closed table of names outside the tensor library."""
    table = {
        "collections.OrderedDict": Entry(OrderedDict, _mapping(OrderedDict)),
        "collections.Counter": Entry(Counter, _mapping(Counter)),
        "collections.defaultdict": Entry(defaultdict, _defaultdict),
        "_codecs.encode": Entry(_encode, _encode),
        "builtins.bytearray": Entry(bytearray, lambda *args: bytearray(_bytes(*args))),
        "builtins.bytes": Entry(bytes, _bytes),
        "builtins.set": Entry(set, lambda *args: make_set(set, _sequence(args))),
        "builtins.frozenset": Entry(frozenset, lambda *args: make_set(frozenset, _sequence(args))),
        "builtins.list": Entry(list, lambda *args: _sequence(args)),
        "builtins.tuple": Entry(tuple, lambda *args: tuple(_sequence(args))),
        "builtins.dict": Entry(dict, _mapping(dict)),
        "builtins.complex": Entry(complex, _number(complex)),
        "builtins.int": Entry(int, _number(int)),
        "builtins.float": Entry(float, _number(float)),
        "builtins.bool": Entry(bool, _number(bool)),
        "builtins.str": Entry(str),
        "builtins.slice": Entry(slice, _number(slice)),
        "builtins.range": Entry(range, _number(range)),
        "builtins.object": Entry(object, _object),
        "argparse.Namespace": Entry(argparse.Namespace, _namespace),
        "numpy.dtype": Entry(np.dtype, _numpy_dtype),
        "numpy.ndarray": Entry(np.ndarray),
        "numpy.core.multiarray._reconstruct": Entry(_numpy_shell, _numpy_shell),
        "numpy.core.multiarray.scalar": Entry(_numpy_scalar, _numpy_scalar),
        "numpy.core.numeric._frombuffer": Entry(_numpy_from_bytes, _numpy_from_bytes),
    }
    for old, new in (("xrange", "range"), ("unicode", "str"), ("long", "int")):  # Python 2's names
        table[f"builtins.{old}"] = table[f"builtins.{new}"]
    for name in ("date", "time", "datetime", "timedelta", "timezone"):
        kind = getattr(datetime, name)
        table[f"datetime.{name}"] = Entry(kind, _time(kind))
    for name in _NUMPY_SCALARS:
        table[f"numpy.{name}"] = Entry(getattr(np, name))
    return table
