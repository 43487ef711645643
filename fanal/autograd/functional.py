"""Derivatives of functions: products with Jacobians and Hessians, and the matrices themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fanal
from fanal.core.autograd.events import grad
from fanal.core.base.missing import finder
from fanal.core.tensor.tensor import Tensor


def _tuple(x: Any, name: str, where: str) -> tuple[bool, tuple]:
    many = isinstance(x, tuple)
    xs = x if many else (x,)
    for k, t in enumerate(xs):
        if not isinstance(t, Tensor):
            raise TypeError(
                f"The {name} given to {where} must be either a Tensor or a tuple of Tensors but the value at "
                f"index {k} has type {type(t)}."
            )
    return many, xs


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


def _directions(v: Any, like: tuple, where: str) -> tuple:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(
                "The vector v can only be None if the "
                + (
                    "user-provided function returns a single Tensor with a single element."
                    if where in ("vjp",)
                    else "input to the user-provided function is a single Tensor with a single element."
                )
            )
        return (fanal.ones_like(like[0]),)
    _, vs = _tuple(v, "v", where)
    if len(vs) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(vs)}.")
    for k, (a, b) in enumerate(zip(vs, like)):
        if a.shape != b.shape:
            raise RuntimeError(
                f"v has invalid size: should be {b.shape} but got {a.shape}."
                if len(vs) == 1
                else f"Entry {k} in v has invalid size: should be {b.shape} but got {a.shape}"
            )
    return vs


def _grads(outs: tuple, ins: tuple, vs: Any, create_graph: bool, strict: bool, what: str) -> tuple:
    pairs = [(o, v) for o, v in zip(outs, vs) if o.requires_grad]
    if strict and len(pairs) != len(outs):
        raise RuntimeError(
            f"Output {next(k for k, o in enumerate(outs) if not o.requires_grad)} of the user-provided "
            f"function "
            "does not require gradients. The outputs must be computed in a differentiable manner from the "
            "input when running in strict mode."
        )
    if not pairs:
        return tuple(fanal.zeros_like(i) for i in ins)
    found = grad(
        [o for o, _ in pairs],
        ins,
        [v for _, v in pairs],
        create_graph=create_graph,
        allow_unused=True,
        retain_graph=True,
    )
    made = []
    for k, (g, i) in enumerate(zip(found, ins)):
        if g is None:
            if strict:
                raise RuntimeError(
                    f"The output of the user-provided function is independent of input {k}. This is not "
                    f"allowed in strict mode when computing the {what}."
                )
            g = fanal.zeros_like(i)
        made.append(g)
    return tuple(made)


def _give(many: bool, xs: tuple, create_graph: bool) -> Any:
    xs = xs if create_graph else tuple(x.detach() for x in xs)
    return xs if many else xs[0]


def vjp(
    func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple:
    """Return (func(inputs), v^T J)."""
    many, ins, out_many, outs = _run(func, inputs, create_graph, "vjp")
    vs = _directions(v, outs, "vjp")
    with fanal.enable_grad():
        found = _grads(outs, ins, vs, create_graph, strict, "vjp")
    return _give(out_many, outs, create_graph), _give(many, found, create_graph)


def jvp(
    func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple:
    """Return (func(inputs), J v), by differentiating the vector-Jacobian product once more."""
    _, ins, out_many, outs = _run(func, inputs, create_graph, "jvp")
    vs = _directions(v, ins, "jvp")
    with fanal.enable_grad():
        us = tuple(fanal.zeros_like(o, requires_grad=True) for o in outs)
        back = _grads(outs, ins, us, True, strict, "jvp")
        found = _grads(back, us, vs, create_graph, False, "jvp")
    return _give(out_many, outs, create_graph), _give(out_many, found, create_graph)


def jacobian(
    func: Callable,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Return the Jacobian, shape (*output, *input); nested tuples for several outputs or inputs (outputs
    outside).

    `vectorize` changes nothing. Raises for strategy="forward-mode" without vectorize, as torch.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')
    if strategy == "forward-mode" and not vectorize:
        raise NotImplementedError(
            "Computing Jacobian in forward-mode is only supported with `vectorize=True`."
        )
    many, ins, out_many, outs = _run(func, inputs, create_graph, "jacobian")
    result = []
    with fanal.enable_grad():
        for k, o in enumerate(outs):
            rows: list[list[Any]] = [[] for _ in ins]
            flat = o.reshape(-1)
            for j in range(o.numel()):
                one = fanal.zeros_like(flat)
                one[j] = 1
                if o.requires_grad:
                    found = _grads((flat,), ins, (one,), create_graph, strict, "jacobian")
                elif strict:
                    raise RuntimeError(
                        f"Output {k} of the user-provided function does not require gradients. The outputs "
                        f"must "
                        "be computed in a differentiable manner from the input when running in strict mode."
                    )
                else:
                    found = tuple(fanal.zeros_like(i) for i in ins)
                for r, g in zip(rows, found):
                    r.append(g)
            result.append(
                tuple(
                    (fanal.stack(r) if r else i.new_zeros((0, *i.shape))).reshape(*o.shape, *i.shape)
                    for r, i in zip(rows, ins)
                )
            )
    if not create_graph:
        result = [tuple(x.detach() for x in r) for r in result]
    given = [r if many else r[0] for r in result]
    return tuple(given) if out_many else given[0]


def _scalar(outs: tuple, out_many: bool, where: str) -> None:
    if out_many or not isinstance(outs[0], Tensor):
        raise RuntimeError(f"The function given to {where} should return a single Tensor")
    if outs[0].numel() != 1:
        raise RuntimeError(
            f"The Tensor returned by the function given to {where} should contain a single element"
        )


def hessian(
    func: Callable,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Return the Hessian of a scalar function, shape (*input, *input); nested tuples for several inputs."""
    many, xs = _tuple(inputs, "inputs", "hessian")

    def gradient(*ins: Any) -> Any:
        out = func(*ins)
        if isinstance(out, tuple):
            raise RuntimeError("The function given to hessian should return a single Tensor")
        _scalar((out,), False, "hessian")
        found = _grads((out.reshape(()),), ins, (fanal.ones((), dtype=out.dtype),), True, strict, "hessian")
        return found if many else found[0]

    return jacobian(gradient, xs if many else xs[0], create_graph=create_graph, strict=strict)


def vhp(
    func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple:
    """Return (func(inputs), v^T H)."""
    many, ins, out_many, outs = _run(func, inputs, create_graph, "vhp")
    _scalar(outs, out_many, "vhp")
    vs = _directions(v, ins, "vhp")
    with fanal.enable_grad():
        g = _grads((outs[0].reshape(()),), ins, (fanal.ones((), dtype=outs[0].dtype),), True, strict, "vhp")
        found = _grads(g, ins, vs, create_graph, strict, "vhp")
    return _give(False, outs, create_graph), _give(many, found, create_graph)


def hvp(
    func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple:
    """Return (func(inputs), H v). The Hessian is symmetric, so this is vhp."""
    return vhp(func, inputs, v, create_graph, strict)


__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

__getattr__ = finder("torch.autograd.functional")
