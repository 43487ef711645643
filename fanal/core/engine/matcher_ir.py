"""The machine part of the native matcher, as LLVM IR: a few small functions that CPython calls.

The code has no globals and calls nothing by name. Every object it is called with, or its type, carries the address of a
*context*, a table of 8-byte words with the cursors and the addresses of what is needed of CPython's C API.
So one object file fits every process, and mapping it is all the loading it needs. `native` explains the
layouts.
"""
from __future__ import annotations

from types import ModuleType

from fanal.core.engine.layout_ir import (
    ARGS,
    COUNT,
    CURSORS,
    EXTRA,
    F_CONTEXT,
    GUARD,
    HELD,
    KEY,
    KWNAMES,
    METHODS,
    NEXT,
    OUT,
    OWNER,
    POSITIONAL,
    PROBES,
    S_CONTEXT,
    S_KEY,
    SIZE,
    SLOW,
    TYPE,
    at,
    fail,
    store,
    takes,
    word,
)
from fanal.core.engine.tables_ir import conditions, differ, effects, table_function

# Ids of threads are never used twice, unlike the addresses of their states.
_SLOT = f"""{at("%f", F_CONTEXT, "%ctx")}
{word("PyThreadState_Get")}
  %thread = call ptr %PyThreadState_Get()
{word("PyThreadState_GetID")}
  %id = call i64 %PyThreadState_GetID(ptr %thread)
  br label %probe
probe:
  %nth = phi i64 [0, %entry], [%nth.next, %passed]
  %sum = add i64 %id, %nth
  %hash = and i64 %sum, {CURSORS - 1}
  %slot = getelementptr [2 x ptr], ptr %ctx, i64 %hash
  %owner = load i64, ptr %slot
  %mine = icmp eq i64 %owner, %id
  br i1 %mine, label %slotted, label %passed
passed:
  %nth.next = add i64 %nth, 1
  %left = icmp ult i64 %nth.next, {PROBES}
  br i1 %left, label %probe, label %slotted
slotted:
  %step.at = getelementptr i8, ptr %slot, i64 8
  %step = load ptr, ptr %step.at"""

_RETURN_NONE = f"""{word("Py_IncRef")}
{word("none")}
  call void %Py_IncRef(ptr %none)
  ret ptr %none"""


def follow(items: int, limits: int) -> str:
    """Return the vectorcall of every function and method; see `tables_ir.differ`."""
    return f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{_SLOT}
  %set = icmp ne ptr %step, null
  %live = and i1 %mine, %set
  br i1 %live, label %head, label %miss
head:
{at("%step", S_KEY, "%want.key", "i64")}
{at("%f", KEY, "%key", "i64")}
{at("%step", POSITIONAL, "%want.count", "i64")}
  %count = and i64 %flags, {COUNT}
  %same.key = icmp eq i64 %key, %want.key
  %same.count = icmp eq i64 %count, %want.count
{at("%step", OUT, "%out")}
  %kept = icmp ne ptr %out, null  ; false once the garbage collector has emptied the step
  %called = and i1 %same.key, %kept
  %same = and i1 %called, %same.count
  br i1 %same, label %names, label %miss
names:
{at("%step", KWNAMES, "%want.kw")}
{at("%step", SIZE, "%total", "i64")}
{word("none")}
  %bare = icmp eq ptr %kw, null
  %have.kw = select i1 %bare, ptr %none, ptr %kw
  %same.kw = icmp eq ptr %have.kw, %want.kw
  br i1 %same.kw, label %values, label %spell
spell:  ; the same names at another place of the program are another tuple of the same interned strings
  %plain = icmp eq ptr %want.kw, %none
  %either = or i1 %plain, %bare
  br i1 %either, label %miss, label %sizes
sizes:
{at("%kw", SIZE, "%kw.size", "i64")}
  %want.size = sub i64 %total, %count
  %same.size = icmp eq i64 %kw.size, %want.size
  %some = icmp ne i64 %kw.size, 0
  %comparable = and i1 %same.size, %some
  br i1 %comparable, label %letters, label %miss
letters:
  %k = phi i64 [0, %sizes], [%k.next, %letter]
  %k.off = shl i64 %k, 3
  %k.items = add i64 %k.off, {items}
  %k.a.at = getelementptr i8, ptr %kw, i64 %k.items
  %k.a = load ptr, ptr %k.a.at
  %k.b.at = getelementptr i8, ptr %want.kw, i64 %k.items
  %k.b = load ptr, ptr %k.b.at
  %k.same = icmp eq ptr %k.a, %k.b
  br i1 %k.same, label %letter, label %miss
letter:
  %k.next = add i64 %k, 1
  %k.more = icmp ult i64 %k.next, %kw.size
  br i1 %k.more, label %letters, label %values
values:
  %items = getelementptr i8, ptr %step, i64 {ARGS}
  %empty = icmp eq i64 %total, 0
  br i1 %empty, label %guarded, label %compare
compare:
  %i = phi i64 [0, %values], [%i.next, %equal]
  %held = phi ptr [null, %values], [%held.next, %equal]
  %a.at = getelementptr ptr, ptr %args, i64 %i
  %a = load ptr, ptr %a.at
  %b.at = getelementptr ptr, ptr %items, i64 %i
  %b = load ptr, ptr %b.at
  %i.same = icmp eq ptr %a, %b
  br i1 %i.same, label %equal, label %differ
equal:
  %held.next = phi ptr [%held, %compare], [%a, %accepted], [%held, %listed]
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %total
  br i1 %more, label %compare, label %guarded
{differ(items, limits)}
guarded:
  %bound = phi ptr [null, %values], [%held.next, %equal]
{at("%step", GUARD, "%table")}
  %free.step = icmp eq ptr %table, null
  br i1 %free.step, label %hit, label %if
{conditions("if", "%table", "hit", "miss")}
hit:
{at("%step", NEXT, "%next")}
  %last = icmp eq ptr %next, %none
  %cursor = select i1 %last, ptr null, ptr %next
  store ptr %cursor, ptr %step.at
  ; after a run of the program nothing of the steps is near: let the next come while Python goes on
  call void @llvm.prefetch(ptr %next, i32 0, i32 3, i32 1)
  %next.more = getelementptr i8, ptr %next, i64 64
  call void @llvm.prefetch(ptr %next.more, i32 0, i32 3, i32 1)
{word("Py_IncRef")}
  call void %Py_IncRef(ptr %out)
  %unbound = icmp eq ptr %bound, null
  br i1 %unbound, label %effects, label %hold
hold:
{word("Py_DecRef")}
  call void %Py_IncRef(ptr %bound)
{at("%step", HELD, "%held.before")}
  store ptr %bound, ptr %held.before.at
  call void %Py_DecRef(ptr %held.before)
  br label %effects
effects:
  br i1 %free.step, label %return, label %then
{effects("then", "%table", "return")}
return:
  ret ptr %out
miss:
{at("%f", OWNER, "%class")}
  %free = icmp eq ptr %class, null
  br i1 %free, label %slow, label %check
check:  ; a method first makes sure of its `self`, as every method descriptor does
  %given = and i64 %flags, {COUNT}
  %no.self = icmp eq i64 %given, 0
  br i1 %no.self, label %lost, label %typed
typed:
  %self = load ptr, ptr %args
{at("%self", TYPE, "%self.type")}
  %exact = icmp eq ptr %self.type, %class
  br i1 %exact, label %slow, label %derived
derived:
{word("PyType_IsSubtype")}
  %sub = call i32 %PyType_IsSubtype(ptr %self.type, ptr %class)
  %isa = icmp ne i32 %sub, 0
  br i1 %isa, label %slow, label %wrong
slow:
{at("%f", SLOW, "%fallback")}
  %gone = icmp eq ptr %fallback, null
  br i1 %gone, label %dead, label %call
call:
{word("PyObject_Vectorcall")}
  %result = tail call ptr %PyObject_Vectorcall(ptr %fallback, ptr %args, i64 %flags, ptr %kw)
  ret ptr %result
wrong:
{word("PyErr_Format", "%wrong.raise")}
{word("type_error", "%wrong.kind")}
{word("bad_self", "%wrong.text")}
  call ptr (ptr, ptr, ...) %wrong.raise(ptr %wrong.kind, ptr %wrong.text, ptr %f, ptr %self.type)
  ret ptr null
lost:
{word("PyErr_Format", "%lost.raise")}
{word("type_error", "%lost.kind")}
{word("no_self", "%lost.text")}
  call ptr (ptr, ptr, ...) %lost.raise(ptr %lost.kind, ptr %lost.text, ptr %f)
  ret ptr null
{fail("dead", "type_error", "dead")}
}}
declare void @llvm.prefetch(ptr, i32, i32, i32)
"""


def new_step(items: int) -> str:
    """Return new_step(key, args, kwnames, out)."""
    return f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{at("%f", F_CONTEXT, "%ctx")}
{takes(4, "types")}
  %key.object = load ptr, ptr %args
{at("%args", 8, "%values")}
{at("%args", 16, "%names")}
{at("%args", 24, "%out")}
{at("%values", TYPE, "%values.type")}
{at("%names", TYPE, "%names.type")}
{word("tuple_type")}
{word("none")}
  %values.ok = icmp eq ptr %values.type, %tuple_type
  br i1 %values.ok, label %named, label %bad
named:
{at("%values", SIZE, "%total", "i64")}
  %no.names = icmp eq ptr %names, %none
  br i1 %no.names, label %counted, label %tuple
tuple:
  %names.ok = icmp eq ptr %names.type, %tuple_type
  br i1 %names.ok, label %sized, label %bad
sized:
{at("%names", SIZE, "%names.size", "i64")}
  %fits = icmp ule i64 %names.size, %total
  br i1 %fits, label %counted, label %bad
counted:
  %named.count = phi i64 [0, %named], [%names.size, %sized]
  %no.name = icmp eq i64 %named.count, 0
  %kept.names = select i1 %no.name, ptr %none, ptr %names
{word("PyLong_AsLongLong")}
  %key = call i64 %PyLong_AsLongLong(ptr %key.object)
  %odd = icmp eq i64 %key, -1
  br i1 %odd, label %error, label %make
error:
{word("PyErr_Occurred")}
  %raised = call ptr %PyErr_Occurred()
  %bad.key = icmp ne ptr %raised, null
  br i1 %bad.key, label %fail, label %make
make:
{word("PyType_GenericAlloc")}
{word("step_type")}
  %step = call ptr %PyType_GenericAlloc(ptr %step_type, i64 %total)
  %none.made = icmp eq ptr %step, null
  br i1 %none.made, label %fail, label %fill
fill:
{word("Py_IncRef")}
  call void %Py_IncRef(ptr %out)
  call void %Py_IncRef(ptr %kept.names)
  call void %Py_IncRef(ptr %none)
{store("%step", S_CONTEXT, "%ctx", "%to.ctx")}
{store("%step", NEXT, "%none", "%to.next")}
{store("%step", OUT, "%out", "%to.out")}
{store("%step", KWNAMES, "%kept.names", "%to.names")}
  call void %Py_IncRef(ptr %none)
  call void %Py_IncRef(ptr %none)
{store("%step", HELD, "%none", "%to.held")}
{store("%step", EXTRA, "%none", "%to.extra")}
{store("%step", S_KEY, "%key", "%to.key", "i64")}
  %positional = sub i64 %total, %named.count
{store("%step", POSITIONAL, "%positional", "%to.count", "i64")}
  %empty = icmp eq i64 %total, 0
  br i1 %empty, label %done, label %copy
copy:
  %i = phi i64 [0, %fill], [%i.next, %copy]
  %off = shl i64 %i, 3
  %from.off = add i64 %off, {items}
  %from = getelementptr i8, ptr %values, i64 %from.off
  %value = load ptr, ptr %from
  %to.off = add i64 %off, {ARGS}
  %to = getelementptr i8, ptr %step, i64 %to.off
  store ptr %value, ptr %to
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %total
  br i1 %more, label %copy, label %done
done:
  ret ptr %step
fail:
  ret ptr null
{fail("bad", "type_error", "bad_new")}
}}
"""


SET_ARG = f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{at("%f", F_CONTEXT, "%ctx")}
{takes(3, "types")}
  %step = load ptr, ptr %args
{at("%args", 8, "%index")}
{at("%args", 16, "%value")}
{at("%step", TYPE, "%type")}
{word("step_type")}
  %typed = icmp eq ptr %type, %step_type
  br i1 %typed, label %number, label %bad
number:
{word("PyLong_AsLongLong")}
  %i = call i64 %PyLong_AsLongLong(ptr %index)
{at("%step", SIZE, "%total", "i64")}
  %inside = icmp ult i64 %i, %total
  br i1 %inside, label %set, label %outside
outside:
{word("PyErr_Occurred")}
  %raised = call ptr %PyErr_Occurred()
  %bad.index = icmp ne ptr %raised, null
  br i1 %bad.index, label %fail, label %range
set:
  %items = getelementptr i8, ptr %step, i64 {ARGS}
  %to = getelementptr ptr, ptr %items, i64 %i
  store ptr %value, ptr %to
{_RETURN_NONE}
fail:
  ret ptr null
{fail("range", "index_error", "bad_index")}
{fail("bad", "type_error", "bad_set")}
}}
"""


# A slot whose thread has a cursor in it belongs to that thread; the first empty one to whoever comes.
SET_CURSOR = f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{_SLOT}
{takes(1, "types")}
{word("none")}
{word("step_type")}
{word("true")}
{word("false")}
{word("Py_IncRef")}
  %value = load ptr, ptr %args
{at("%value", TYPE, "%type")}
  %clear = icmp eq ptr %value, %none
  %typed = icmp eq ptr %type, %step_type
  %valid = or i1 %clear, %typed
  br i1 %valid, label %right, label %bad
right:
  br i1 %mine, label %set, label %strange
strange:
  br i1 %clear, label %done, label %search
search:
  %k = phi i64 [0, %strange], [%k.next, %occupied]
  %k.sum = add i64 %id, %k
  %k.hash = and i64 %k.sum, {CURSORS - 1}
  %k.slot = getelementptr [2 x ptr], ptr %ctx, i64 %k.hash
  %k.step.at = getelementptr i8, ptr %k.slot, i64 8
  %k.step = load ptr, ptr %k.step.at
  %vacant = icmp eq ptr %k.step, null
  br i1 %vacant, label %set, label %occupied
occupied:
  %k.next = add i64 %k, 1
  %k.left = icmp ult i64 %k.next, {PROBES}
  br i1 %k.left, label %search, label %none.left
set:
  %to = phi ptr [%slot, %right], [%k.slot, %search]
  %to.step = getelementptr i8, ptr %to, i64 8
  %cursor = select i1 %clear, ptr null, ptr %value
  store i64 %id, ptr %to
  store ptr %cursor, ptr %to.step
  br label %done
done:
  call void %Py_IncRef(ptr %true)
  ret ptr %true
none.left:
  call void %Py_IncRef(ptr %false)
  ret ptr %false
{fail("bad", "type_error", "bad_cursor")}
}}
"""


def get_cursor(take: bool) -> str:
    """Return get_cursor(), or take_cursor(), which leaves none behind."""
    return f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{_SLOT}
{takes(0, "look")}
{word("none")}
{word("Py_IncRef")}
  %set = icmp ne ptr %step, null
  %live = and i1 %mine, %set
  br i1 %live, label %found, label %nothing
found:
{"  store ptr null, ptr %step.at" if take else ""}
  call void %Py_IncRef(ptr %step)
  ret ptr %step
nothing:
  call void %Py_IncRef(ptr %none)
  ret ptr %none
{fail("bad", "type_error", "bad_get")}
}}
"""


# A step that dies takes the cursors on it away, so a cursor needs no reference of its own.
FINALIZE = f"""define void @NAME(ptr %step) nounwind {{
entry:
{at("%step", S_CONTEXT, "%ctx")}
  %missing = icmp eq ptr %ctx, null
  br i1 %missing, label %done, label %look
look:
  %i = phi i64 [0, %entry], [%i.next, %on]
  %slot = getelementptr [2 x ptr], ptr %ctx, i64 %i
  %cursor.at = getelementptr i8, ptr %slot, i64 8
  %cursor = load ptr, ptr %cursor.at
  %here = icmp eq ptr %cursor, %step
  br i1 %here, label %drop, label %on
drop:
  store ptr null, ptr %cursor.at
  br label %on
on:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {CURSORS}
  br i1 %more, label %look, label %done
done:
  ret void
}}
"""

BIND = f"""define ptr @NAME(ptr %f, ptr %object, ptr %type) nounwind {{
entry:
{at("%f", F_CONTEXT, "%ctx")}
{at("%f", OWNER, "%class")}
  %free = icmp eq ptr %class, null
  %unbound = icmp eq ptr %object, null
  %self = or i1 %free, %unbound
  br i1 %self, label %same, label %bound
same:
{word("Py_IncRef")}
  call void %Py_IncRef(ptr %f)
  ret ptr %f
bound:
{word("PyMethod_New")}
  %method = tail call ptr %PyMethod_New(ptr %f, ptr %object)
  ret ptr %method
}}
"""

REPR = f"""define ptr @NAME(ptr %f) nounwind {{
entry:
{at("%f", F_CONTEXT, "%ctx")}
{word("repr")}
{word("PyObject_Vectorcall")}
  %args = alloca ptr
  store ptr %f, ptr %args
  %text = call ptr %PyObject_Vectorcall(ptr %repr, ptr %args, i64 1, ptr null)
  ret ptr %text
}}
"""

# A name of a module: its dictionary is asked first, and only then all that CPython asks, `__getattr__` last.
GET_NAME = f"""define ptr @NAME(ptr %module, ptr %name) nounwind {{
entry:
{at("%module", TYPE, "%kind")}
{at("%kind", METHODS, "%methods")}
{at("%methods", 8, "%ctx")}
{at("%module", ModuleType.__dictoffset__, "%names")}
{word("PyDict_GetItemWithError")}
  %value = call ptr %PyDict_GetItemWithError(ptr %names, ptr %name)
  %missing = icmp eq ptr %value, null
  br i1 %missing, label %ask, label %found
found:
{word("Py_IncRef")}
  call void %Py_IncRef(ptr %value)
  ret ptr %value
ask:
{word("PyErr_Clear")}
  call void %PyErr_Clear()
{word("get_name")}
  %result = tail call ptr %get_name(ptr %module, ptr %name)
  ret ptr %result
}}
"""


def sources() -> dict[str, str]:
    """Return the IR of every function by role; each names itself @NAME."""
    items = tuple.__basicsize__  # where ob_item starts differs between versions of CPython
    limits = slice.__basicsize__ - 24
    return {"follow": follow(items, limits), "new_step": new_step(items), "set_arg": SET_ARG,
            "set_cursor": SET_CURSOR, "get_cursor": get_cursor(False), "take_cursor": get_cursor(True),
            "finalize": FINALIZE, "bind": BIND, "repr": REPR, "get_name": GET_NAME,
            "holds": table_function(conditions("do", "%table", "yes", "no")),
            "apply": table_function(effects("do", "%table", "yes"))}
