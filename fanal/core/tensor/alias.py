"""Views and in-place writes as versions of a storage.

A view is a chain of view primitives from the root value of its storage. Reading applies the chain; writing
runs it backwards, so that a write through any view makes one new root value, and all other views re-derive
from it.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base.dtype import int64
from fanal.core.base.shape import Shape
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.handle import (
    BASE,
    Chain,
    Handle,
    Origin,
    Storage,
    copied,
    counted,
    hooked,
    shared_outside,
)
from fanal.core.engine.level import check_written
from fanal.core.engine.record import (
    busy,
    changed,
    flush,
    history_ahead,
    hold,
    leave_path,
    note_snapshot,
    note_write,
    session,
    unfollowable,
)
from fanal.core.ir.prims import (
    alias,
    bitcast,
    broadcast,
    convert,
    detach,
    flip,
    full,
    given,
    iota,
    lt,
    num,
    permute,
    put,
    recast,
    reshape,
    slice_,
    strided,
    take,
    tape,
    update_slice,
    where,
    window,
    zeros,
)
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row


def value(t: Handle) -> Node:
    """Return the value a tensor holds now, with its history."""
    s = t._storage
    if (s.foreign is not None and not s.meta) or id(t) in session.shown:
        return _snapshot(t)
    return history(t)


def history(t: Handle) -> Node:
    """Return the value a tensor holds, though somebody outside may change its bytes: where gradients of it arrive."""
    path = session.path
    if path is not None and path.gives and history_ahead(t._storage):
        leave_path()
    s = t._storage
    if t._seen == s.version and not _outlived(t._node, s.node):
        return t._node
    leaf = None if t._detached or s.node.needs_grad else leaf_of(t)
    if leaf is None and (state.grad or not s.node.needs_grad):
        n = derive(s.node, t._chain)
    else:
        with grad_mode(True):  # what a tensor holds does not depend on who asks
            if leaf is None:
                n = derive(s.node, t._chain)
            elif leaf._storage is s:
                n = derive(read(leaf), t._chain[len(leaf._chain):])  # a leaf's view is still part of the leaf
            else:  # whose data were replaced: the view shows those that it was made of
                unfollowable("a view of a leaf that has other data now")
                n = derive(s.node, t._chain)
                if leaf._shape == s.node.shape:
                    n = tape((n, derive(read(leaf), t._chain)), _pass)
    if t._detached:
        n = _of_cut(t, detach(n), t._chain)
        if t._seen >= 0 and t._node.needs_grad and _of_function(t):
            with grad_mode(True):  # the memory was written without a history; what the function gave it is the tensor's
                n = tape((n, t._node), _pass)
    t._node, t._seen = n, s.version
    if n.home is None:
        n.home = (ref(s), s.version)
    return n


def _of_function(t: Handle) -> bool:
    """Tell whether `t` is an argument that a custom function returned, or a view of one."""
    return type(t._base_ref) is Origin and t._base_ref.kind == "function"


def _outlived(n: Node, root: Node) -> bool:
    """Tell whether `n` is a view of the pending value that `root` was: a write through the view left it there."""
    if root.buffer is None or n.buffer is not None or n.needs_grad:
        return False
    while n is not root and len(n.inputs) == 1:
        n = n.inputs[0]
    return n is not root


class Cut:
    """The history that a storage has for tensors that were detached from it, since one was written with a gradient.

    Those with `_detached` = `number` have it; those detached later, before the next such write, begin with none.
    """

    __slots__ = ("number", "shadow")

    def __init__(self, number: int, shadow: Storage) -> None:
        self.number, self.shadow = number, shadow


def cut(s: Storage) -> int:
    """Return the `_detached` of a tensor that is detached now."""
    return True if s.cut is None else s.cut.number + 1


def _of_cut(t: Handle, n: Node, chain: Chain) -> Node:
    """Return the value `n` of a detached tensor, or of another chain of views, with the history it was given since."""
    known = t._storage.cut
    if known is None or known.number < t._detached:
        return n
    if known.number > t._detached:
        raise RuntimeError("the history of this tensor is not known any more: it was detached, then written with what "
                           "requires gradients, and then another detached one of the same memory was; clone() them")
    with grad_mode(True):
        return tape((n, derive(known.shadow.node, chain)), _pass)


def _gives_history(t: Handle, new: Node) -> bool:
    """Tell whether writing `new` changes the history of a detached tensor. That of `.data` ends with the statement."""
    if not t._detached or not state.grad or t._base_ref is UNCOUNTED:
        return False
    return new.needs_grad or (t._storage.cut is not None and t._storage.cut.number == t._detached)


def _write_cut(t: Handle, new: Node) -> Node:
    """Return the root value after a write of `new`, which requires gradients, through a detached tensor: the history
    is that tensor's, not the storage's."""
    s = t._storage
    unfollowable("a detached tensor was written with what requires gradients")
    root = write_through(_of_cut(t, detach(s.node), ()), t._chain, new)
    shadow = Storage(alias(root))
    shadow.node.home = (ref(shadow), 0)
    hold(shadow)
    s.cut = Cut(t._detached, shadow)
    changed()
    return detach(root)


def _snapshot(t: Handle) -> Node:
    """Return a copy of bytes that somebody outside may change before this segment runs."""
    s = t._storage
    a = session.shown.get(id(t))
    if a is None:
        if not shared_outside(s):
            return value(t)
        if s.node.buffer is None:
            flush("shared memory")
        a = copied(t)
    n = given(a, t._dtype)
    n.home = (ref(s), s.version)  # so it never becomes another tensor's own value: that would be no result of its event
    note_snapshot(n, t)
    past = history(t)
    return tape((n, past), _pass) if past.needs_grad else n


def read(t: Handle) -> Node:
    """Return the value for use by an operation: a leaf's value is where its gradient will arrive."""
    n = value(t)
    if t._leaf and state.grad:
        known = t._leaf_node
        if known is None or known.inputs[:1] != (n,):
            known = t._leaf_node = alias(n)
            known.leaf = t
            known.needs_grad = True
            known.home = (ref(t._storage), t._storage.version)
        elif n.home and n.home != known.home and n.home[0]() is t._storage:
            known.home = n.home  # a write was taken back, and the version that it had counts as one more
        return known
    if type(t._base_ref) is Origin and state.grad:
        text = _lost_to_a_write(t, n)
        if text is not None:
            if session.event is None or not session.event.op.operator:
                raise RuntimeError(text)
            session.doubt = text  # PyTorch looks at the history only where a gradient follows
        if not n.needs_grad and of_history(t):
            n = tape((n,), lost)
            n.needs_grad = True
    return n


def rebase(t: Handle) -> None:
    """Let the history of a write through a view begin at what it is a view of, as in PyTorch, where hooks on the view
    see none of it."""
    if hooked(t):
        t._seen = -1


def arrival(t: Handle) -> Node:
    """Return the value at which the gradient of a tensor arrives."""
    if t._leaf:
        return read(t)
    n = history(t)
    check_origin(t, n)
    return read(t) if t._storage.foreign is None else n


def leaf_of(t: Handle) -> Any:
    """Return the leaf of which `t` is a view, or None."""
    base = t._base_ref
    if type(base) is Origin:
        base = base.leaf
    return base if base is not None and base._leaf and isinstance(base, Handle) else None


def of_history(t: Handle) -> bool:
    """Tell whether `t` is a view, made while no gradients were recorded, of something that requires them.

    It requires them too, as in PyTorch; what is computed from it has a gradient that arrives nowhere.
    """
    origin = t._base_ref
    return type(origin) is Origin and _required(t, origin)


def _required(t: Handle, origin: Origin) -> bool:
    if t._detached and origin.kind == "several" and origin.output is None:
        return False  # pieces of a detached tensor
    return t._storage.node.needs_grad or (origin.leaf is not None and origin.leaf._leaf)


def check_origin(t: Handle, n: Node) -> None:
    """Raise PyTorch's error if `t`, whose value is `n`, is a view that does not survive the writes since."""
    text = _lost_to_a_write(t, n)
    if text is not None:
        raise RuntimeError(text)


def _lost_to_a_write(t: Handle, n: Node) -> str | None:
    origin = t._base_ref
    if type(origin) is not Origin or t._path:  # what following hands out was looked at when it was recorded
        return None
    if origin.version != counted(t._storage) and (n.needs_grad or _required(t, origin)):
        return origin.text(BASE)
    return None


def derive(n: Node, chain: Chain) -> Node:
    """Apply a chain of views."""
    for row, params in chain:
        n = row(n, *params)
    return n


def strides_as_views(shape: Shape, strides: Shape, offset: int, size: int) -> Chain:
    """Return the views that show a flat tensor of `size` elements with these strides: cuts and a permutation, if each
    dimension lies within one step of the next."""
    order = sorted(range(len(shape)), key=lambda d: (-strides[d], -shape[d]))
    chain: list[tuple[Row, tuple]] = []
    row, cut = size - offset, offset  # elements there are to divide, and where they begin
    lead: Shape = ()
    for d in order:
        n, s = shape[d], strides[d]
        if n == 0 or s == 0 or n * s > row:
            return ((strided, (shape, strides, offset)),)
        starts, ones = (*(0 for _ in lead), cut), (1,) * (len(lead) + 1)
        chain += [(slice_, (starts, (*lead, cut + n * s), ones)), (reshape, ((*lead, n, s),))]
        lead, row, cut = (*lead, n), s, 0
    starts, ones = (*(0 for _ in lead), cut), (1,) * (len(lead) + 1)
    chain += [(slice_, (starts, (*lead, cut + 1), ones)), (reshape, (lead,))]
    if order != sorted(order):
        chain.append((permute, (tuple(order.index(d) for d in range(len(shape))),)))
    return tuple(chain)


class Mark:
    """Stands in `_base_ref` of a handle of a special kind."""

    _leaf = False


UNCOUNTED = Mark()  # made by `.data`: PyTorch's version counter does not see its writes
VARIABLE = Mark()  # a leaf that a function transform made to differentiate by: it collects no gradients


def write(t: Handle, new: Node) -> None:
    """Make `new` (shape and dtype of `t`) the value of `t`, and so of every view of its storage."""
    s = t._storage
    if session.doubt is not None and session.event is not None and t._dtype.category >= 2:
        raise RuntimeError(session.doubt)
    if session.levels:
        check_written(s, new)
    old = s.node
    if _gives_history(t, new):
        root = _write_cut(t, new)
    else:
        root = write_through(old, t._chain, detach(new) if t._detached and new.needs_grad else new)
    if t._detached or not state.grad:
        if old.needs_grad:  # values change, history does not: gradients pass as if nothing had been written
            root = tape((root, old), _unseen)
            root.needs_grad = True
    elif (
        old.needs_grad and not root.needs_grad
    ):  # overwritten as a whole: what stood there gets a gradient of zeros
        root = tape((root, old), _overwritten)
    memory = s.node.buffer if s.foreign is not None and s.foreign() is not None else None
    if t._retain:
        _move_retained(t, new)
    if (root.home is not None and root.home[0]() is not None) or (root.buffer is not None and _is_number(root)):
        root = alias(root)  # one value, two tensors: each needs memory of its own; and a number is one of the program
    note_write(s)
    s.write(root)
    if t._base_ref is UNCOUNTED:
        count, *latest = s.uncounted or (0,)
        s.uncounted = (count + 1, *latest[-64:], s.version)
    root.home = (ref(s), s.version)
    if new.home is None or new.home[0]() is None:
        new.home = root.home
    if root.buffer is None or busy():
        hold(s)
    if memory is not None:  # whoever shares the bytes sees the write at once
        flush("shared memory")
        assert root.buffer is not None
        np.copyto(memory, root.buffer)
        root.buffer = memory
    if not t._chain and not t._detached:
        t._node, t._seen = root, s.version


def _is_number(n: Node) -> bool:
    """Tell whether a value is a number among the arguments of the present event, which may be another the next time."""
    return session.event is not None and any(n is number for number, _ in session.event.scalars)


def own_memory(t: Handle) -> np.ndarray | None:
    """Return the memory of a contiguous tensor if it may be overwritten at once, else None.

    It may if nothing is pending and nobody but `t` and its views can see the bytes: no graph, no other tensor.
    """
    s = t._storage
    node = s.node
    if t._chain or s.foreign is not None or node.buffer is None or node.needs_grad or busy():
        return None
    own = 3 + (t._node is node)  # the storage's, this function's and the call's
    return node.buffer if getrefcount(node) == own and getrefcount(node.buffer) == 2 else None


def _move_retained(t: Handle, new: Node) -> None:
    """A tensor that retains its gradient retains that of its newest value."""
    hooks = t._node.hooks
    if hooks is not None and not t._chain and new.needs_grad:
        hooks.keep = [k for k in hooks.keep if k is not t]
        if new.hooks is None:
            new.hooks = type(hooks)()
        new.hooks.keep.append(t)


def _pass(g: Node, y: Node, old: Node) -> list[Node]:
    return [g]


def _unseen(g: Node, y: Node, old: Node) -> list[Node]:
    return [g]


def lost(g: Node, y: Node) -> list[Node]:
    return []


def _overwritten(g: Node, y: Node, old: Node) -> list[Node]:
    return [zeros(old.shape, old.dtype)]


# Rules of what happened to the history alone: forward mode, which knows no `no_grad`, goes by the value.
HISTORY = frozenset((_unseen, lost, _overwritten))


def write_through(root: Node, chain: Chain, new: Node) -> Node:
    """Return the root value after the view at the end of `chain` was set to `new`."""
    first = next((k for k, (row, _) in enumerate(chain) if row in _REPEATING), len(chain))
    values = [root]
    for row, params in chain[:first]:
        values.append(row(values[-1], *params))
    if first < len(chain):
        new = _write_places(values[-1], chain[first:], new)
    for (row, params), before in zip(reversed(chain[:first]), reversed(values[:-1])):
        new = unview(row, params, before, new)
    return new


_REPEATING = (window, broadcast, strided)  # views that may show one element in several places


def _write_places(x: Node, chain: Chain, v: Node) -> Node:
    """Return x with the elements that a chain of views shows replaced by `v`, and no others: a view of a part leaves
    the other places where the same elements show."""
    at = reshape(_positions(x), x.shape)
    for row, params in chain:
        if row in (bitcast, convert, recast):
            raise RuntimeError("writing through a view in another dtype of elements that may repeat is not supported")
        at = row(at, *params)
    if v.size == 0:
        return x
    # Of the places where an element shows, the last one stays, and only that one has a gradient.
    none = full((x.size,), -1, int64)
    last = reshape(put(none, reshape(at, (v.size,)), _positions(v), 0, "set"), x.shape)
    kept = lt(last, num(last, 0))
    return where(kept, x, take(reshape(v, (v.size,)), where(kept, num(last, 0), last), 0))


def unview(row: Row, params: tuple, x: Node, v: Node) -> Node:
    """Return x with the elements that `row` shows replaced by `v`."""
    if row is reshape:
        return reshape(v, x.shape)
    if row is permute:
        inverse = [0] * len(params[0])
        for i, p in enumerate(params[0]):
            inverse[p] = i
        return permute(v, tuple(inverse))
    if row is slice_:
        return update_slice(x, v, *params)
    if row is flip:
        return flip(v, *params)
    if row is bitcast:
        return bitcast(v, x.dtype)
    if row is convert:
        return convert(v, x.dtype)
    if row is recast:
        return recast(v, x.dtype)
    raise RuntimeError(f"writing through a view made by '{row.name}' is not supported")


def _positions(x: Node) -> Node:
    return iota((x.size,), 0, int64) if x.size else full((0,), 0, int64)
