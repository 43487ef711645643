"""The native matcher: functions that are machine code, made by LLVM, with no C compiler.

Four types are built from specifications (PyType_FromSpecWithBases) and filled with the functions of `matcher_ir`. A
call of a `Function` or `Method` enters `follow` directly by CPython's vectorcall protocol: no argument
tuple, no Python frame. That costs about as much as calling any built-in function.

Memory, in 8-byte words (PyObject header first: reference count, type):

    Function, Method    vectorcall  context  key  slow  __dict__  weak references  __objclass__ (of methods)
    Step                size  context  next  out  kwnames  key  positional  held  extra  guard  rebind  args[size]
    context             CURSORS x (thread id, step), then the addresses of C functions, objects and error texts

- `next`, `out`, `kwnames` (None for none), `slow` and `__objclass__` are owned, and declared as object
  members; so CPython's own generic deallocation, traversal and clearing (those of every class with
  `__slots__`) look after them, deep chains and cycles of steps included. `args` are bare addresses that
  nobody owns.
- The cursor of a thread is a pair of the context: the one of its id modulo CURSORS, or one of the next PROBES
  where others have steps ahead of them there. It does not own its step: a step that dies sweeps the cursors in
  its finalizer, which keeps reference counting off the fast path. Thread ids (not the addresses of thread
  states, not pthread ids) are never used again. A thread that finds all of its pairs taken is refused
  (`set_cursor` returns False).
- The context is never freed, since functions may be called until the interpreter's last breath.
- The fourth type is that of modules. CPython makes the names of a module quick to read only where it has no
  `__getattr__`; in a module of this type the dictionary is looked at before anything else, so that `torch.relu`
  costs 15 ns less. A module has no room for the context: its address stands behind the type's methods, of
  which there are none.

The code touches object headers (`ob_type`, `ob_size`) and the items of tuples directly, and everything else
by functions of the stable C API. Interpreters without a GIL, with another object header, or unknown ones
are refused.
"""
from __future__ import annotations

import copyreg
import ctypes
import sys
from collections.abc import Callable
from functools import partial
from platform import machine
from types import ModuleType
from typing import Any

from fanal.core.engine import layout_ir as layout
from fanal.core.engine import matcher_ir
from fanal.core.engine.matcher import Parameters, free, link

_py = ctypes.pythonapi
_READONLY, _SSIZE, _OBJECT, _INT64 = 1, 19, 16, 17  # kinds and flags of PyMemberDef
# Numbers of type slots, from typeslots.h (they never change: they are part of the stable ABI).
_TP_CALL, _TP_CLEAR, _TP_GET, _TP_GETATTRO, _TP_METHODS = 50, 51, 54, 58, 64
_TP_REPR, _TP_TRAVERSE, _TP_MEMBERS, _TP_FINALIZE = 66, 71, 72, 80
_SEALED, _IMMUTABLE, _VECTORCALL, _GC, _METHOD = 1 << 7, 1 << 8, 1 << 11, 1 << 14, 1 << 17  # type flags


class _Member(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("kind", ctypes.c_int), ("offset", ctypes.c_ssize_t),
                ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _Slot(ctypes.Structure):
    _fields_ = [("slot", ctypes.c_int), ("value", ctypes.c_void_p)]


class _Spec(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("basicsize", ctypes.c_int), ("itemsize", ctypes.c_int),
                ("flags", ctypes.c_uint), ("slots", ctypes.POINTER(_Slot))]


class _Donor:
    """A class whose generic traverse and clear functions serve any type with object members."""

    __slots__ = ("member",)


def supported() -> bool:
    """Return whether this interpreter has the object layout that the code was written for."""
    return (sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 14)
            and sys.maxsize == (1 << 63) - 1 and sys.byteorder == "little" and object.__basicsize__ == 16
            and not set("td") & set(getattr(sys, "abiflags", "")) and not hasattr(sys, "getobjects")
            and _tuple_as_known())


def _tuple_as_known() -> bool:
    """Return whether a tuple is (reference count, type, size, perhaps more, items)."""
    items = (None, True, _Donor)
    words = (ctypes.c_uint64 * (tuple.__basicsize__ // 8 + 3)).from_address(id(items))
    return words[1:3] == [id(tuple), 3] and words[-3:] == [id(o) for o in items]


def _compile() -> dict[str, int]:
    """Return the address of every function by role. Warm, this maps one file from the cache."""
    from fanal.core.backends.contract import Kernel
    from fanal.core.backends.cpu.jit import compile_many
    from fanal.core.backends.cpu.target import named

    target = named("neon" if machine() in ("aarch64", "arm64") else "sse2")
    sources = matcher_ir.sources()
    symbols = {role: target.symbol(text) for role, text in sources.items()}
    kernels = [Kernel(symbols[role], partial(text.replace, "@NAME", f"@{symbols[role]}"))
               for role, text in sources.items()]
    addresses = compile_many(kernels, target)
    return {role: addresses[symbol] for role, symbol in symbols.items()}


def _address(symbol: str) -> int:
    return ctypes.cast(getattr(_py, symbol), ctypes.c_void_p).value or 0


class Native:
    """The matcher in machine code. Raises RuntimeError where it cannot be."""

    name = "native"

    def __init__(self) -> None:
        if not supported():
            raise RuntimeError(f"the native matcher does not know this interpreter: {sys.version}")
        code = self._code = _compile()
        self._forever: list[Any] = []
        _py.Py_IncRef(ctypes.py_object(self._forever))
        context = (ctypes.c_uint64 * layout.CONTEXT_WORDS)()
        self._forever.append(context)
        self._context = ctypes.addressof(context)

        generic = [(slot, self._slot(_Donor, slot)) for slot in (_TP_TRAVERSE, _TP_CLEAR)]
        self.step_type = self._type("Step", layout.ARGS, 8, _SEALED | _GC, [
            ("next", _OBJECT, layout.NEXT, 0), ("out", _OBJECT, layout.OUT, 0),
            ("kwnames", _OBJECT, layout.KWNAMES, 0), ("key", _INT64, layout.S_KEY, 0),
            ("held", _OBJECT, layout.HELD, 0), ("extra", _OBJECT, layout.EXTRA, 0),
            ("guard", _INT64, layout.GUARD, 0), ("rebind", _INT64, layout.REBIND, 0),
            ("positional", _INT64, layout.POSITIONAL, _READONLY),
        ], [*generic, (_TP_FINALIZE, code["finalize"])])
        members = [
            ("__vectorcalloffset__", _SSIZE, layout.CALL, _READONLY),
            ("__dictoffset__", _SSIZE, layout.DICT, _READONLY),
            ("__weaklistoffset__", _SSIZE, layout.WEAK, _READONLY), ("_key", _INT64, layout.KEY, _READONLY),
            ("_slow", _OBJECT, layout.SLOW, 0), ("__objclass__", _OBJECT, layout.OWNER, 0)]
        slots = [*generic, (_TP_CALL, _address("PyVectorcall_Call")), (_TP_REPR, code["repr"]),
                 (_TP_GET, code["bind"])]
        flags = _SEALED | _VECTORCALL | _GC
        self.function_type = self._type("Function", layout.FUNCTION_SIZE, 0, flags, members, slots)
        self.method_type = self._type("Method", layout.FUNCTION_SIZE, 0, flags | _METHOD, members, slots)

        objects = {"none": None, "true": True, "false": False, "step_type": self.step_type,
                   "tuple_type": tuple, "list_type": list, "slice_type": slice, "type_error": TypeError,
                   "index_error": IndexError, "repr": _repr}
        self._forever.append(objects)
        texts = {name: ctypes.c_char_p(text.encode()) for name, text in layout.TEXTS.items()}
        self._forever.append(texts)
        words = {name: _address(name) for name in layout.FUNCTIONS}
        words["get_name"] = self._slot(ModuleType, _TP_GETATTRO)
        words |= {name: id(objects[name]) for name in layout.OBJECTS}
        words |= {name: ctypes.cast(text, ctypes.c_void_p).value or 0 for name, text in texts.items()}
        for name, offset in layout.CONTEXT.items():
            context[offset // 8] = words[name]

        end = (ctypes.c_void_p * 4)(None, self._context)  # of a table of methods: only the first word is looked at
        self._forever.append(end)
        self.module_type = self._type("module", 0, 0, 0, [], [
            (_TP_GETATTRO, code["get_name"]), (_TP_METHODS, ctypes.addressof(end))], ModuleType)
        if ctypes.c_void_p.from_address(id(self.module_type) + layout.METHODS).value != ctypes.addressof(end):
            raise RuntimeError("the native matcher does not know where this interpreter's types keep their methods")
        self._new = _py.PyType_GenericAlloc
        self._new.argtypes, self._new.restype = [ctypes.py_object, ctypes.c_ssize_t], ctypes.py_object
        copyreg.pickle(self.function_type, _reduce_function)
        copyreg.pickle(self.method_type, _reduce_method)
        for name in ("new_step", "set_arg", "set_cursor", "get_cursor", "take_cursor", "holds", "apply"):
            entry = self._make(self.function_type, code[name], 0, None)
            entry.__name__ = entry.__qualname__ = name
            entry.__module__ = __name__
            setattr(self, name, entry)

    new_step: Any
    set_arg: Any
    set_cursor: Any
    get_cursor: Any
    take_cursor: Any
    holds: Any
    apply: Any

    def link(self, step: Any, following: Any | None) -> None:
        link(self.step_type, step, following)

    def set_out(self, step: Any, value: Any) -> None:
        step.out = value

    def free(self, step: Any) -> None:
        free(self, step)

    def function(self, key: int, slow: Callable, name: str, doc: str | None = None,
                 module: str | None = None, parameters: Parameters | None = None) -> Callable:
        f = self._make(self.function_type, self._code["follow"], key, slow)
        f.__name__ = f.__qualname__ = name
        f.__doc__ = doc
        f.__module__ = module or getattr(slow, "__module__", None) or __name__
        return f

    def method(self, owner: type, key: int, slow: Callable, name: str, doc: str | None = None,
               parameters: Parameters | None = None) -> Any:
        f = self._make(self.method_type, self._code["follow"], key, slow)
        f.__name__, f.__qualname__ = name, f"{owner.__qualname__}.{name}"
        f.__doc__, f.__module__ = doc, owner.__module__
        f.__objclass__ = owner
        return f

    def quicken(self, module: str) -> None:
        sys.modules[module].__class__ = self.module_type

    def _make(self, kind: type, entry: int, key: int, slow: Callable | None) -> Any:
        f = self._new(kind, 0)
        f._slow = slow
        (ctypes.c_int64 * 3).from_address(id(f) + layout.CALL)[:] = [entry, self._context, key]
        return f

    @staticmethod
    def _slot(kind: type, slot: int) -> int:
        get = _py.PyType_GetSlot
        get.argtypes, get.restype = [ctypes.py_object, ctypes.c_int], ctypes.c_void_p
        return get(kind, slot)

    def _type(self, name: str, size: int, item: int, flags: int, members: list, slots: list,
              base: type = object) -> Any:
        table = (_Member * (len(members) + 1))(*(_Member(n.encode(), kind, offset, access, None)
                                                 for n, kind, offset, access in members))
        slots = [*slots, (_TP_MEMBERS, ctypes.addressof(table))]
        rows = (_Slot * (len(slots) + 1))(*slots)
        spec = _Spec(f"{__name__}.{name}".encode(), size, item, flags | _IMMUTABLE, rows)
        make = _py.PyType_FromSpecWithBases
        make.argtypes, make.restype = [ctypes.POINTER(_Spec), ctypes.py_object], ctypes.py_object
        made = make(ctypes.byref(spec), base)
        self._forever += [table, rows, spec, made]
        return made


def _repr(f: Any) -> str:
    kind = "method" if hasattr(f, "__objclass__") else "function"
    return f"<{kind} {getattr(f, '__module__', '?')}.{getattr(f, '__qualname__', '?')}>"


def _reduce_function(f: Any) -> str:
    return f.__qualname__  # by reference: an attribute of its module


def _reduce_method(f: Any) -> tuple:
    return getattr, (f.__objclass__, f.__name__)
