"""Where things stand in the objects of the native matcher, and the IR of the commonest accesses."""

from __future__ import annotations

# Byte offsets. PyObject is (reference count, type); PyVarObject adds the size at 16.
TYPE, SIZE = 8, 16
METHODS = 232  # tp_methods of a type
CALL, F_CONTEXT, KEY, SLOW, DICT, WEAK, OWNER, FUNCTION_SIZE = 16, 24, 32, 40, 48, 56, 64, 72
S_CONTEXT, NEXT, OUT, KWNAMES, S_KEY, POSITIONAL = 24, 32, 40, 48, 56, 64
HELD, EXTRA, GUARD, REBIND, ARGS = 72, 80, 88, 96, 104

# Kinds of conditions, four words each: kind, a, b, what must be there.
WORD, HALF, ITEM, INDIRECT = range(4)  # [a], the low half of [a], the dict a at key b, [[a] + b]
TABLE_HEAD = 24  # bytes before the conditions of a table: how many conditions, references to set, arguments to expect
# How an entry of a rebinding table compares: the same object; the same or an equal tuple; any other object.
SAME, EQUAL, OTHER = range(3)

CURSORS = 1024  # pairs (thread id, step) at the start of the context
PROBES = 16  # a thread's pair is one of so many, from its id modulo CURSORS on

# The words after the cursors: C functions, objects, and texts of errors.
FUNCTIONS = ("PyObject_Vectorcall", "PyThreadState_Get", "PyThreadState_GetID", "Py_IncRef", "PyMethod_New",
             "PyType_GenericAlloc", "PyType_IsSubtype", "PyLong_AsLongLong", "PyErr_Occurred",
             "PyErr_SetString", "PyErr_Format", "PyErr_Clear", "Py_DecRef", "PyDict_GetItemWithError",
             "PyObject_RichCompareBool")
OBJECTS = ("none", "true", "false", "step_type", "tuple_type", "list_type", "slice_type", "type_error", "index_error",
           "repr")
TEXTS = {
    "bad_self": "descriptor %R does not apply to a %R object",
    "no_self": "unbound method %R needs an argument",
    "dead": "the function was already collected",
    "bad_new": "new_step(key: int, args: tuple, kwnames: tuple | None, out)",
    "bad_set": "set_arg(step, index: int, value)",
    "bad_index": "the step has no argument of this index",
    "bad_cursor": "set_cursor(step | None)",
    "bad_get": "no arguments expected",
    "bad_table": "one argument expected: the address of a table",
}
CONTEXT = {name: 16 * CURSORS + 8 * i for i, name in enumerate((*FUNCTIONS, "get_name", *OBJECTS, *TEXTS))}
CONTEXT_WORDS = 2 * CURSORS + len(CONTEXT)

COUNT = "9223372036854775807"  # masks PY_VECTORCALL_ARGUMENTS_OFFSET out of the number of arguments


def at(base: str, offset: int, name: str, kind: str = "ptr") -> str:
    """Return the lines that load the word at `base + offset` into `name`."""
    return f"  {name}.at = getelementptr i8, ptr {base}, i64 {offset}\n  {name} = load {kind}, ptr {name}.at"


def store(base: str, offset: int, value: str, name: str, kind: str = "ptr") -> str:
    """Return the lines that store `value` at `base + offset`; `name` is a free name."""
    return f"  {name} = getelementptr i8, ptr {base}, i64 {offset}\n  store {kind} {value}, ptr {name}"


def word(name: str, as_name: str | None = None) -> str:
    """Return the lines that load a word of the context `%ctx`."""
    return at("%ctx", CONTEXT[name], as_name or f"%{name}")


def fail(label: str, kind: str, text: str) -> str:
    n = f"%{label}"
    return f"""{label}:
{word("PyErr_SetString", n + ".raise")}
{word(kind, n + ".kind")}
{word(text, n + ".text")}
  call void {n}.raise(ptr {n}.kind, ptr {n}.text)
  ret ptr null"""


def takes(count: int, then: str) -> str:
    """Return the lines that go to `then` if the call has `count` positional arguments and no others, else to `bad`."""
    return f"""  %given = and i64 %flags, {COUNT}
  %asked = icmp eq i64 %given, {count}
  %bare = icmp eq ptr %kw, null
  %shaped = and i1 %asked, %bare
  br i1 %shaped, label %{then}, label %bad
{then}:"""
