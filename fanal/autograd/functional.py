"""Derivatives of functions: products with Jacobians and Hessians, and the matrices themselves.

Source: PyTorch documentation, "torch.autograd.functional".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fanal
from fanal.core.autograd.events import grad
from fanal.core.base.missing import finder
from fanal.core.tensor.tensor import Tensor

_LINEAR = (
    "While computing the hessian, found that the jacobian of the user-provided function with respect to input {} is "
    "independent of the input. This is not allowed in strict mode. You should ensure that your function is twice "
    "differentiable and that the jacobian depends on the inputs (this would be violated by a linear function for "
    "example)."
)
_CONSTANT = (
    "Output {} of the user-provided function does not require gradients. The outputs must be computed in a "
    "differentiable manner from the input when running in strict mode."
)


def _tuple(x: Any, name: str, where: str) -> tuple[bool, tuple]:
    """Return whether `x` is a tuple, and the tuple of tensors it is or stands for."""
    if isinstance(x, Tensor):
        return False, (x,)
    start = f"The {name} given to {where} must be either a Tensor or a tuple of Tensors but the "
    if not isinstance(x, tuple):
        raise TypeError(f"{start}given {name} has type {type(x)}.")
    for k, t in enumerate(x):
        if not isinstance(t, Tensor):
            raise TypeError(f"{start}value at index {k} has type {type(t)}.")
    return True, x


def _leaves(xs: tuple, create_graph: bool) -> tuple:
    """Return inputs of their own: cut from the caller's graph, or still in it for create_graph."""
    if create_graph:
        return tuple(x.view_as(x) if x.requires_grad else x.detach().clone().requires_grad_() for x in xs)
    return tuple(x.detach().clone().requires_grad_() for x in xs)


def _run(func: Callable, inputs: Any, create_graph: bool, where: str) -> tuple:
    many, xs = _tuple(inputs, "inputs", where)
    with fanal.enable_grad():
        ins = _leaves(xs, create_graph)
        out_many, outs = _tuple(func(*ins), "outputs of the user-provided function", where)
    return many, ins, out_many, outs


def _directions(v: Any, like: tuple, many: bool, what: str) -> tuple:
    """Return v as a tuple of tensors like `like`, the inputs or the outputs; None: 1, if that is one number."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if the {what} a single Tensor with a single element.")
        return (fanal.ones_like(like[0]),)
    _, vs = _tuple(v, "v", "the function")
    if len(vs) != len(like):
        if not many:
            raise RuntimeError("The given v should contain a single Tensor.")
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(vs)}.")
    for k, (a, b) in enumerate(zip(vs, like)):
        if a.shape != b.shape:
            entry = f"Entry {k} in v" if many else "v"
            raise RuntimeError(f"{entry} has invalid size: should be {b.shape} but got {a.shape}.")
    return vs


def _grads(outs: tuple, ins: tuple, vs: tuple, create_graph: bool, strict: bool, order: int = 1,
           batch: tuple[int, ...] = (), last: bool = True) -> tuple:
    """Return the sum of v^T d out / d in; strict: raise where that is zero because nothing depends on anything.

    order: 2 if the outputs are gradients. batch: (n,) if there are n of each of `vs`, in front. last: this is what
    the caller asked for, of which strict says that it can be differentiated further with create_graph.
    """
    for k, o in enumerate(outs):
        if strict and not o.requires_grad:
            raise RuntimeError((_CONSTANT if order == 1 else _LINEAR).format(k))
    pairs = [(o, v) for o, v in zip(outs, vs) if o.requires_grad]
    found: tuple = (None,) * len(ins)
    if pairs:
        found = grad([o for o, _ in pairs], ins, [v for _, v in pairs], retain_graph=True, create_graph=create_graph,
                     allow_unused=True, is_grads_batched=bool(batch))
    what = "jacobian" if order == 1 else "hessian"
    for k, g in enumerate(found):
        if strict and g is None:
            source = "output" if order == 1 else "jacobian"
            raise RuntimeError(
                f"The {source} of the user-provided function is independent of input {k}. This is not allowed in "
                "strict mode."
            )
        if strict and last and create_graph and not g.requires_grad:
            raise RuntimeError(
                f"The {what} of the user-provided function is independent of input {k}. This is not allowed in strict "
                "mode when create_graph=True."
            )
    return tuple(i.new_zeros((*batch, *i.shape)) if g is None else g for g, i in zip(found, ins))


def _give(many: bool, xs: tuple, create_graph: bool) -> Any:
    xs = xs if create_graph else tuple(x.detach() for x in xs)
    return xs if many else xs[0]


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """Return (func(inputs), v^T J)."""
    many, ins, out_many, outs = _run(func, inputs, create_graph, "vjp")
    vs = _directions(v, outs, out_many, "user-provided function returns")
    with fanal.enable_grad():
        found = _grads(outs, ins, vs, create_graph, strict)
    return _give(out_many, outs, create_graph), _give(many, found, create_graph)


def jvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """Return (func(inputs), J v), by differentiating the vector-Jacobian product once more. `func.jvp` is cheaper."""
    many, ins, out_many, outs = _run(func, inputs, create_graph, "jvp")
    vs = _directions(v, ins, many, "input to the user-provided function is")
    with fanal.enable_grad():
        us = tuple(fanal.zeros_like(o, requires_grad=True) for o in outs)
        back = _grads(outs, ins, us, True, strict, last=False)
        found = _grads(back, us, vs, create_graph, strict)
    return _give(out_many, outs, create_graph), _give(out_many, found, create_graph)


def jacobian(func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
             strategy: str = "reverse-mode") -> Any:
    """Return the Jacobian, shape (*output, *input); nested tuples for several outputs or inputs (outputs outside).

    All rows of an output come of one walk; `vectorize` changes nothing but what may be asked, as in PyTorch.
    """
    _check(vectorize, strict, create_graph, strategy)
    if strategy == "forward-mode":
        return _forward_jacobian(func, inputs)
    many, ins, out_many, outs = _run(func, inputs, create_graph, "jacobian")
    with fanal.enable_grad():
        result = _rows(outs, ins, create_graph, strict)
    given = [_give(many, r, create_graph) for r in result]
    return tuple(given) if out_many else given[0]


def _check(vectorize: bool, strict: bool, create_graph: bool, strategy: str) -> None:
    if strategy not in ("reverse-mode", "forward-mode"):
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: forward mode suits functions with '
            "more outputs than inputs."
        )
    for asked, name, error in ((strict, "strict", RuntimeError), (create_graph, "create_graph", NotImplementedError)):
        if asked and strategy == "forward-mode":
            raise error(
                f'torch.autograd.functional.jacobian: `{name}=True` and `strategy="forward-mode"` are not supported '
                f'together (yet). Please either set `{name}=False` or `strategy="reverse-mode"`.'
            )
    if strategy == "forward-mode" and not vectorize:
        raise NotImplementedError(
            "Computing Jacobian using forward-AD or forward-over-reverse Hessian is only implemented for "
            "`vectorize=True`."
        )
    if strict and vectorize:
        raise RuntimeError(
            "torch.autograd.functional.jacobian: `strict=True` and `vectorized=True` are not supported together. "
            "Please either set `strict=False` or `vectorize=False`."
        )


def _rows(outs: tuple, ins: tuple, create_graph: bool, strict: bool, order: int = 1) -> list[tuple]:
    """Return, for each output, its derivatives by the inputs."""
    result = []
    for o in outs:
        n = o.numel()
        basis = fanal.eye(n, dtype=o.dtype).reshape(n, *o.shape)
        rows = _grads((o,), ins, (basis,), create_graph, strict, order, (n,))
        result.append(tuple(r.reshape((*o.shape, *i.shape)) for r, i in zip(rows, ins)))
    return result


def _forward_jacobian(func: Callable, inputs: Any) -> Any:
    """Return the Jacobian by columns."""
    many, xs = _tuple(inputs, "inputs", "jacobian")

    def checked(*ins: Any) -> Any:
        out = func(*ins)
        _tuple(out, "outputs of the user-provided function", "jacobian")
        return out

    found = fanal.func.jacfwd(checked, tuple(range(len(xs))))(*_leaves(xs, False))
    if isinstance(found[0], tuple):
        return tuple(_give(many, f, False) for f in found)
    return _give(many, found, False)


def _scalar(outs: tuple, out_many: bool, where: str) -> None:
    if out_many:
        raise RuntimeError(f"The function given to {where} should return a single Tensor")
    if outs[0].numel() != 1:
        raise RuntimeError(f"The Tensor returned by the function given to {where} should contain a single element")


def _gradient(outs: tuple, ins: tuple, strict: bool) -> tuple:
    """Return the gradient of a scalar, to be differentiated again."""
    one = fanal.ones((), dtype=outs[0].dtype)
    return _grads((outs[0].reshape(()),), ins, (one,), True, strict, last=False)


def hessian(func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
            outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """Return the Hessian of a scalar function, shape (*input, *input); nested tuples for several inputs."""
    _check(vectorize, strict, create_graph, outer_jacobian_strategy)
    many, xs = _tuple(inputs, "inputs", "hessian")

    def gradient(*ins: Any) -> Any:
        own = tuple(x if x.requires_grad else x.view_as(x).requires_grad_() for x in ins)
        with fanal.enable_grad():
            out_many, outs = _tuple(func(*own), "outputs of the user-provided function", "hessian")
            _scalar(outs, out_many, "hessian")
            found = _gradient(outs, own, strict)
        return found if many else found[0]

    if outer_jacobian_strategy == "forward-mode":
        return _forward_jacobian(gradient, xs if many else xs[0])
    with fanal.enable_grad():
        ins = _leaves(xs, create_graph)
        found = gradient(*ins)
        result = _rows(found if many else (found,), ins, create_graph, strict, 2)
    given = tuple(_give(many, r, create_graph) for r in result)
    return given if many else given[0]


def _second(func: Callable, inputs: Any, v: Any, create_graph: bool, strict: bool, where: str) -> tuple:
    many, ins, out_many, outs = _run(func, inputs, create_graph, where)
    _scalar(outs, out_many, where)
    vs = _directions(v, ins, many, "input to the user-provided function is")
    with fanal.enable_grad():
        found = _grads(_gradient(outs, ins, strict), ins, vs, create_graph, strict, 2)
    return _give(False, outs, create_graph), _give(many, found, create_graph)


def vhp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """Return (func(inputs), v^T H)."""
    return _second(func, inputs, v, create_graph, strict, "vhp")


def hvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """Return (func(inputs), H v). The Hessian is symmetric, so this is vhp."""
    return _second(func, inputs, v, create_graph, strict, "hvp")


__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

__getattr__ = finder("torch.autograd.functional")
