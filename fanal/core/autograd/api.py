"""backward() and grad(), with PyTorch's rules about which tensors may be asked and what accumulates where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal.core.autograd.backward import gradients, is_scalar_like, target
from fanal.core.autograd.callbacks import Stop, Walk, hooks_of
from fanal.core.autograd.hooks import AFTER, GradientEdge
from fanal.core.base.layout import sparse_coo
from fanal.core.base.state import grad_mode
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import name, note_grad, session, unfollowable
from fanal.core.ir.batch import Batch, number
from fanal.core.ir.prims import add, alias, concat, full, put, reshape, take, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import arrival, read, value, write
from fanal.core.tensor.sparse import ROWS_WANTED, Sparse, make
from fanal.core.tensor.tensor import wrap

NO_GRAD_FN = "element {} of tensors does not require grad and does not have a grad_fn"


def _tuple(x: Any) -> tuple:
    xs = (x,) if isinstance(x, (Handle, GradientEdge)) or x is None else x
    return tuple(i.tensor() if isinstance(i, GradientEdge) else i for i in xs)


def _roots(tensors: Sequence[Handle], grads: Sequence[Any], create: bool) -> tuple[list[Node], list[Node]]:
    roots, cots = [], []
    for k, (t, g) in enumerate(zip(tensors, grads)):
        with grad_mode(True):
            n = read(t)
        if not n.needs_grad:
            raise RuntimeError(NO_GRAD_FN.format(k))
        if g is None:
            if not is_scalar_like(n.shape):
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            if n.dtype.is_complex:
                raise RuntimeError(
                    f"grad can be implicitly created only for real scalar outputs but got "
                    f"torch.{n.dtype.name}"
                )
            c = full(n.shape, 1, n.dtype)
        else:
            if not isinstance(g, Handle):
                raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
            if tuple(g._shape) != n.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{k}] has a shape of "
                    f"torch.Size({list(g._shape)}) and "
                    f"output[{k}] has a shape of torch.Size({list(n.shape)})."
                )
            if g._dtype.is_complex != n.dtype.is_complex:
                raise RuntimeError(
                    "For complex Tensors, both grad_output and output are required to have "
                    "the same "
                    "dtype. Mismatch in dtype: "
                    f"grad_output[{k}] has a dtype of {g._dtype} and output[{k}] has a "
                    f"dtype of {n.dtype}."
                )
            with grad_mode(create):
                c = read(g)
        roots.append(n)
        cots.append(c)
    return roots, cots


def _written_rows(g: Node) -> list[tuple[Node, Node]] | None:
    """Return (indices, rows) for a gradient that is rows added to zeros, as an embedding's; else None."""
    if g.row is add:
        parts = [_written_rows(i) for i in g.inputs]
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
    if g.row is put and g.params == (0, "add") and g.inputs[0].row is full and g.inputs[0].params[1] == 0:
        return [(g.inputs[1], g.inputs[2])]
    return None


def _keep_rows(t: Any, g: Node) -> bool:
    """Make t.grad sparse if that was asked for and all of it is rows; tell whether it was done."""
    old = t._grad
    written = _written_rows(g) if old is None or isinstance(old, Sparse) else None
    if written is None:
        return False
    index = concat([reshape(i, (1, i.size)) for i, _ in written], 1)
    rows = concat([reshape(r, (i.size, *t._shape[1:])) for i, r in written], 0)
    if old is not None:
        index, rows = concat([value(old.places[0]), index], 1), concat([value(old.stored), rows], 0)
    parts = wrap(index), wrap(rows)
    t._grad = _of_rows(t, *parts)
    if old is not None:
        unfollowable("a sparse gradient grew")
    elif session.event is not None:
        session.event.built.append((t, parts, _of_rows))
    return True


def _of_rows(t: Any, index: Any, rows: Any) -> Any:
    """Return the gradient of a tensor that is these rows, and zero elsewhere."""
    return make(sparse_coo, (index,), rows, t._shape)


def accumulate(t: Any, g: Node, create: bool) -> None:
    """Add a gradient to t.grad: a new tensor the first time, in place after."""
    event = session.event
    name(t)
    note_grad(t)
    if ROWS_WANTED in t.__dict__ and not create and _keep_rows(t, g):
        pass
    elif isinstance(t._grad, Sparse):
        old = t._grad
        t._grad = wrap(add(put(zeros(t._shape, g.dtype), reshape(value(old.places[0]), (old.stored._shape[0],)),
                               value(old.stored), 0, "add"), g))
        unfollowable("a sparse gradient becomes dense")
    elif t._grad is None:
        if g.home is not None or g.buffer is not None:
            g = alias(g)
        t._grad = wrap(g)
        if event is not None:
            event.grads.append((t, None, t._grad))
    elif create:
        t._grad = wrap(add(read(t._grad), g))
        unfollowable("create_graph replaces .grad")
    else:
        name(t._grad)
        write(t._grad, add(value(t._grad), g))
        if event is not None:
            event.grads.append((t, t._grad, None))


def _key(t: Any, n: Node) -> int:
    return id(t) if t._leaf else target(n)


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> Walk:
    """Compute gradients of `tensors` and add them to the .grad of the leaves, as torch.autograd.backward."""
    if session.levels:
        raise RuntimeError(
            "backward() called inside a functorch transform. This is not supported, please use functorch.grad or "
            "functorch.vjp instead or call backward() outside of functorch transforms."
        )
    ts = _tuple(tensors)
    gs = _tuple(grad_tensors) if grad_tensors is not None else (None,) * len(ts)
    retain = create_graph if retain_graph is None else retain_graph
    roots, cots = _roots(ts, gs, create_graph)
    if inputs is None:
        yield from gradients(
            roots,
            cots,
            None,
            create_graph=create_graph,
            retain=retain,
            accumulate=lambda t, g: accumulate(t, g, create_graph),
        )
        return
    targets = _tuple(inputs)
    if not targets:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    with grad_mode(True):
        nodes = [arrival(t) for t in targets]
    keys = [_key(t, n) for t, n in zip(targets, nodes)]
    found = yield from gradients(roots, cots, set(keys), create_graph=create_graph, retain=retain, accumulate=None)
    for t, key in zip(targets, keys):
        if key in found:
            accumulate(t, found[key], create_graph)
            if t._leaf and hooks_of(t) & AFTER:
                yield Stop("after", t, (), create_graph, retain)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> Walk:
    """Return the gradients of `outputs` with respect to `inputs`, as torch.autograd.grad."""
    if is_grads_batched:
        return (yield from _batched(
            _tuple(outputs),
            _tuple(inputs),
            grad_outputs,
            retain_graph,
            create_graph,
            allow_unused,
            materialize_grads,
        ))
    outs, ins = _tuple(outputs), _tuple(inputs)
    gs = _tuple(grad_outputs) if grad_outputs is not None else (None,) * len(outs)
    retain = create_graph if retain_graph is None else retain_graph
    roots, cots = _roots(outs, gs, create_graph)
    with grad_mode(True):
        nodes = [arrival(t) for t in ins]
    for n in nodes:
        if not n.needs_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keys = [_key(t, n) for t, n in zip(ins, nodes)]
    found = yield from gradients(roots, cots, set(keys), create_graph=create_graph, retain=retain, accumulate=None)
    result: list[Any] = []
    allow_unused = materialize_grads if allow_unused is None else allow_unused
    with grad_mode(create_graph):
        for k, n in enumerate(nodes):
            g = found.get(keys[k])
            if g is not None:
                result.append(wrap(g))
            elif materialize_grads:
                result.append(wrap(zeros(n.shape, n.dtype)))
            elif allow_unused:
                result.append(None)
            else:
                raise RuntimeError(
                    f"The differentiated Tensor at index {k} appears to not have been used "
                    f"in the graph. "
                    "Set allow_unused=True if this is the desired behavior."
                )
    return tuple(result)


def _batched(
    outs: tuple,
    ins: tuple,
    grad_outputs: Any,
    retain_graph: bool | None,
    create: bool,
    allow_unused: bool | None,
    materialize: bool,
) -> Walk:
    """Return gradients for a batch of grad_outputs (first dimension): one walk, for whichever member it is."""
    given = {k: read(g) for k, g in enumerate(_tuple(grad_outputs)) if g is not None}
    if not given:
        raise RuntimeError("is_grads_batched=True needs grad_outputs")
    member = number()
    ones = [wrap(take(given[k], member, 0)) if k in given else None for k in range(len(outs))]
    found = yield from grad(
        outs, ins, ones, retain_graph, create, allow_unused=allow_unused, materialize_grads=materialize)
    batch = Batch(member, next(iter(given.values())).shape[0])
    return tuple([None if g is None else wrap(batch.whole(value(g))) for g in found])
