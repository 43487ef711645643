"""The machine part of tables: conditions on words of memory, references to set, arguments compared by content.

Pieces of functions, as LLVM IR; every name in a piece begins with the name it is given, so that one function can
have several.
"""

from __future__ import annotations

from fanal.core.engine.layout_ir import (
    CONTEXT,
    EQUAL,
    F_CONTEXT,
    HALF,
    INDIRECT,
    ITEM,
    OTHER,
    REBIND,
    SIZE,
    TABLE_HEAD,
    TYPE,
    at,
    fail,
    takes,
    word,
)


def conditions(n: str, table: str, true: str, false: str) -> str:
    """Return blocks that start at label `n` and go to `true` if every condition of `table` holds, else to `false`.

    `n` begins every name in them.
    """
    return f"""{n}:
  %{n}.count = load i64, ptr {table}
  %{n}.none = icmp eq i64 %{n}.count, 0
  br i1 %{n}.none, label %{true}, label %{n}.each
{n}.each:
  %{n}.i = phi i64 [0, %{n}], [%{n}.next, %{n}.good]
  %{n}.off = shl i64 %{n}.i, 5
  %{n}.from = add i64 %{n}.off, {TABLE_HEAD}
  %{n}.entry = getelementptr i8, ptr {table}, i64 %{n}.from
  %{n}.kind = load i64, ptr %{n}.entry
{at(f"%{n}.entry", 8, f"%{n}.a")}
{at(f"%{n}.entry", 16, f"%{n}.b", "i64")}
{at(f"%{n}.entry", 24, f"%{n}.want", "i64")}
  switch i64 %{n}.kind, label %{n}.word [i64 {HALF}, label %{n}.half
                                         i64 {ITEM}, label %{n}.item
                                         i64 {INDIRECT}, label %{n}.far]
{n}.word:
  %{n}.word.is = load i64, ptr %{n}.a
  br label %{n}.compare
{n}.half:
  %{n}.half.low = load i32, ptr %{n}.a
  %{n}.half.is = zext i32 %{n}.half.low to i64
  br label %{n}.compare
{n}.item:
{word("PyDict_GetItemWithError", f"%{n}.get")}
  %{n}.key = inttoptr i64 %{n}.b to ptr
  %{n}.found = call ptr %{n}.get(ptr %{n}.a, ptr %{n}.key)
  %{n}.item.is = ptrtoint ptr %{n}.found to i64
  br label %{n}.compare
{n}.far:
  %{n}.base = load ptr, ptr %{n}.a
  %{n}.far.at = getelementptr i8, ptr %{n}.base, i64 %{n}.b
  %{n}.far.is = load i64, ptr %{n}.far.at
  br label %{n}.compare
{n}.compare:
  %{n}.is = phi i64 [%{n}.word.is, %{n}.word], [%{n}.half.is, %{n}.half], [%{n}.item.is, %{n}.item],
                    [%{n}.far.is, %{n}.far]
  %{n}.ok = icmp eq i64 %{n}.is, %{n}.want
  br i1 %{n}.ok, label %{n}.good, label %{n}.bad
{n}.good:
  %{n}.next = add i64 %{n}.i, 1
  %{n}.more = icmp ult i64 %{n}.next, %{n}.count
  br i1 %{n}.more, label %{n}.each, label %{true}
{n}.bad:  ; a key whose hash or comparison fails is not there
{word("PyErr_Clear", f"%{n}.clear")}
  call void %{n}.clear()
  br label %{false}"""


def effects(n: str, table: str, done: str) -> str:
    """Return blocks that start at label `n`, set everything that `table` names, and go to `done`."""
    return f"""{n}:
{word("Py_IncRef", f"%{n}.take")}
{word("Py_DecRef", f"%{n}.drop")}
  %{n}.conditions = load i64, ptr {table}
{at(table, 8, f"%{n}.count", "i64")}
{at(table, 16, f"%{n}.bare", "i64")}
  %{n}.skip = shl i64 %{n}.conditions, 5
  %{n}.start = add i64 %{n}.skip, {TABLE_HEAD}
  %{n}.list = getelementptr i8, ptr {table}, i64 %{n}.start
  %{n}.all = add i64 %{n}.count, %{n}.bare
  %{n}.none = icmp eq i64 %{n}.all, 0
  br i1 %{n}.none, label %{done}, label %{n}.each
{n}.each:
  %{n}.i = phi i64 [0, %{n}], [%{n}.next, %{n}.on]
  %{n}.off = shl i64 %{n}.i, 4
  %{n}.entry = getelementptr i8, ptr %{n}.list, i64 %{n}.off
  %{n}.to = load ptr, ptr %{n}.entry
{at(f"%{n}.entry", 8, f"%{n}.new")}
  %{n}.owned = icmp ult i64 %{n}.i, %{n}.count
  br i1 %{n}.owned, label %{n}.reference, label %{n}.word
{n}.reference:
  call void %{n}.take(ptr %{n}.new)
  %{n}.old = load ptr, ptr %{n}.to
  store ptr %{n}.new, ptr %{n}.to
  call void %{n}.drop(ptr %{n}.old)
  br label %{n}.on
{n}.word:
  store ptr %{n}.new, ptr %{n}.to
  br label %{n}.on
{n}.on:
  %{n}.next = add i64 %{n}.i, 1
  %{n}.more = icmp ult i64 %{n}.next, %{n}.all
  br i1 %{n}.more, label %{n}.each, label %{done}"""


# An argument that is another object every step. The blocks from `differ` on compare it with a table: argument index,
# the next table of the step, type, and for a tuple, list or slice the number of its elements and each of them; for a
# tensor from outside offset of _storage, offset of node, number of entries, and entries of four words: which object
# (0 the tensor, 1 its storage, 2 the storage's node), offset in it, what must be there, how; then the number of later
# uses of the tensor and where each expects it. Such a tensor is held by the step.
def differ(items: int, limits: int) -> str:
    """Return the blocks. `items` is where a tuple's items start and where a list has the address of its own, `limits`
    where the three of a slice start."""
    return f"""differ:
{at("%step", REBIND, "%re.first.table")}
  br label %re.find
re.find:
  %re = phi ptr [%re.first.table, %differ], [%re.following, %re.on]
  %re.none = icmp eq ptr %re, null
  br i1 %re.none, label %miss, label %re.index
re.index:
  %re.i = load i64, ptr %re
  %re.here = icmp eq i64 %re.i, %i
  br i1 %re.here, label %re.type, label %re.on
re.on:
{at("%re", 8, "%re.following")}
  br label %re.find
re.type:
{at("%re", 16, "%re.want.type")}
{at("%a", TYPE, "%re.a.type")}
  %re.typed = icmp eq ptr %re.a.type, %re.want.type
  br i1 %re.typed, label %re.sort, label %miss
re.sort:
{word("tuple_type", "%re.tuple.type")}
{word("list_type", "%re.list.type")}
{word("slice_type", "%re.slice.type")}
  %re.tupled = icmp eq ptr %re.a.type, %re.tuple.type
  %re.listed = icmp eq ptr %re.a.type, %re.list.type
  %re.several = or i1 %re.tupled, %re.listed
  br i1 %re.several, label %re.size, label %re.single
re.single:
  %re.limits = getelementptr i8, ptr %a, i64 {limits}
  %re.cut = icmp eq ptr %re.a.type, %re.slice.type
  br i1 %re.cut, label %re.element, label %re.parts
re.size:
{at("%a", SIZE, "%re.a.size", "i64")}
{at("%re", 24, "%re.want.size", "i64")}
  %re.sized = icmp eq i64 %re.a.size, %re.want.size
  %re.some = icmp ne i64 %re.a.size, 0
  %re.long = and i1 %re.sized, %re.some
  br i1 %re.long, label %re.items, label %miss
re.items:
{at("%a", items, "%re.stored")}
  %re.inside = select i1 %re.tupled, ptr %re.stored.at, ptr %re.stored
  br label %re.element
re.element:
  %re.e = phi i64 [0, %re.items], [0, %re.single], [%re.e.next, %re.e.good]
  %re.e.items = phi ptr [%re.inside, %re.items], [%re.limits, %re.single], [%re.e.items, %re.e.good]
  %re.e.count = phi i64 [%re.a.size, %re.items], [3, %re.single], [%re.e.count, %re.e.good]
  %re.e.off = shl i64 %re.e, 3
  %re.e.at = getelementptr i8, ptr %re.e.items, i64 %re.e.off
  %re.e.is = load ptr, ptr %re.e.at
  %re.e.to = add i64 %re.e.off, 32
  %re.e.place = getelementptr i8, ptr %re, i64 %re.e.to
  %re.e.want = load ptr, ptr %re.e.place
  %re.e.same = icmp eq ptr %re.e.is, %re.e.want
  br i1 %re.e.same, label %re.e.good, label %re.e.kinds
re.e.kinds:  ; a slice in a tuple is made anew with it
{at("%re.e.is", TYPE, "%re.e.is.type")}
{at("%re.e.want", TYPE, "%re.e.want.type")}
  %re.e.one = icmp eq ptr %re.e.is.type, %re.slice.type
  %re.e.two = icmp eq ptr %re.e.want.type, %re.slice.type
  %re.e.both = and i1 %re.e.one, %re.e.two
  br i1 %re.e.both, label %re.e.slices, label %miss
re.e.slices:
{same_words("%re.e.is", "%re.e.want", limits, 3, "%re.e.limit")}
  br i1 %re.e.limit, label %re.e.good, label %miss
re.e.good:
  %re.e.next = add i64 %re.e, 1
  %re.e.more = icmp ult i64 %re.e.next, %re.e.count
  br i1 %re.e.more, label %re.element, label %listed
re.parts:
{at("%re", 24, "%re.storage.off", "i64")}
{at("%re", 32, "%re.node.off", "i64")}
{at("%re", 40, "%re.count", "i64")}
  %re.storage.at = getelementptr i8, ptr %a, i64 %re.storage.off
  %re.storage = load ptr, ptr %re.storage.at
  %re.node.at = getelementptr i8, ptr %re.storage, i64 %re.node.off
  %re.node = load ptr, ptr %re.node.at
  br label %re.each
re.each:
  %re.k = phi i64 [0, %re.parts], [%re.k.next, %re.good]
  %re.off = shl i64 %re.k, 5
  %re.from = add i64 %re.off, 48
  %re.entry = getelementptr i8, ptr %re, i64 %re.from
  %re.which = load i64, ptr %re.entry
{at("%re.entry", 8, "%re.offset", "i64")}
{at("%re.entry", 16, "%re.want")}
{at("%re.entry", 24, "%re.how", "i64")}
  %re.first = icmp eq i64 %re.which, 0
  %re.second = icmp eq i64 %re.which, 1
  %re.behind = select i1 %re.second, ptr %re.storage, ptr %re.node
  %re.object = select i1 %re.first, ptr %a, ptr %re.behind
  %re.place = getelementptr i8, ptr %re.object, i64 %re.offset
  %re.is = load ptr, ptr %re.place
  %re.same = icmp eq ptr %re.is, %re.want
  switch i64 %re.how, label %re.exact [i64 {EQUAL}, label %re.alike
                                       i64 {OTHER}, label %re.other]
re.exact:
  br i1 %re.same, label %re.good, label %miss
re.other:
  br i1 %re.same, label %miss, label %re.good
re.alike:
  br i1 %re.same, label %re.good, label %re.tuple
re.tuple:
  %re.null = icmp eq ptr %re.is, null
  br i1 %re.null, label %miss, label %re.kind
re.kind:
{at("%re.is", TYPE, "%re.is.type")}
  %re.is.tuple = icmp eq ptr %re.is.type, %re.tuple.type
  br i1 %re.is.tuple, label %re.ask, label %miss
re.ask:
{word("PyObject_RichCompareBool", "%re.compare")}
  %re.answer = call i32 %re.compare(ptr %re.is, ptr %re.want, i32 2)
  %re.yes = icmp eq i32 %re.answer, 1
  br i1 %re.yes, label %re.good, label %re.no
re.no:
{word("PyErr_Clear", "%re.clear")}
  call void %re.clear()
  br label %miss
re.good:
  %re.k.next = add i64 %re.k, 1
  %re.more = icmp ult i64 %re.k.next, %re.count
  br i1 %re.more, label %re.each, label %accept
accept:
  %re.tail.off = shl i64 %re.count, 5
  %re.tail.from = add i64 %re.tail.off, 48
  %re.tail = getelementptr i8, ptr %re, i64 %re.tail.from
  %re.uses = load i64, ptr %re.tail
  br label %re.use
re.use:
  %re.u = phi i64 [0, %accept], [%re.u.next, %re.expect]
  %re.u.some = icmp ult i64 %re.u, %re.uses
  br i1 %re.u.some, label %re.expect, label %accepted
re.expect:
  %re.u.next = add i64 %re.u, 1
  %re.u.at = getelementptr ptr, ptr %re.tail, i64 %re.u.next
  %re.u.arg = load ptr, ptr %re.u.at
  store ptr %a, ptr %re.u.arg
  br label %re.use
accepted:
  br label %equal
listed:
  br label %equal"""


def same_words(a: str, b: str, start: int, count: int, name: str) -> str:
    """Return the lines that compare `count` words of two objects from `start` on."""
    lines = []
    for k in range(count):
        lines += [at(a, start + 8 * k, f"{name}.a{k}"), at(b, start + 8 * k, f"{name}.b{k}"),
                  f"  {name}.is{k} = icmp eq ptr {name}.a{k}, {name}.b{k}",
                  f"  {name}{k} = and i1 {f'{name}{k - 1}' if k else 'true'}, {name}.is{k}"]
    return "\n".join(lines).replace(f"{name}{count - 1} =", f"{name} =")


def table_function(blocks: str) -> str:
    """Return holds(table) or apply(table): `blocks` work on `%table` and go to `yes` or `no`."""
    return f"""define ptr @NAME(ptr %f, ptr %args, i64 %flags, ptr %kw) nounwind {{
entry:
{at("%f", F_CONTEXT, "%ctx")}
{takes(1, "number")}
  %object = load ptr, ptr %args
{word("PyLong_AsLongLong")}
  %address = call i64 %PyLong_AsLongLong(ptr %object)
  %table = inttoptr i64 %address to ptr
  %odd = icmp ult i64 %address, 4096
  br i1 %odd, label %bad, label %do
{blocks}
yes:
  br label %answer
no:
  br label %answer
answer:
  %to = phi i64 [{CONTEXT["true"]}, %yes], [{CONTEXT["false"]}, %no]
  %result.at = getelementptr i8, ptr %ctx, i64 %to
  %result = load ptr, ptr %result.at
{word("Py_IncRef", "%count.result")}
  call void %count.result(ptr %result)
  ret ptr %result
{fail("bad", "type_error", "bad_table")}
}}
"""
