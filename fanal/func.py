"""Function transforms by way of backward: grad, vjp, jacobians, functional_call. Batching (vmap) is
refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fanal
from fanal.autograd import functional
from fanal.core.autograd.events import grad as _grad
from fanal.core.base.missing import finder
from fanal.core.tensor.tensor import Tensor


def _map(f: Callable, x: Any) -> Any:
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_map(f, i) for i in x))
    if isinstance(x, (tuple, list)):
        return type(x)(_map(f, i) for i in x)
    if isinstance(x, dict):
        return type(x)((k, _map(f, v)) for k, v in x.items())
    return x


def _flat(x: Any) -> list[Any]:
    found: list[Any] = []
    _map(lambda t: found.append(t) or t, x)
    return found


def _filled(x: Any, values: Any) -> Any:
    it = iter(values)
    return _map(lambda t: next(it), x)


def _own(x: Any) -> Any:
    """Return tensors that gradients can be asked for, still part of an outer transform."""
    return _map(lambda t: t.view_as(t) if t.requires_grad else t.detach().requires_grad_(), x)


def grad_and_value(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """Return a function that gives (gradient, value) of a scalar function."""

    def call(*args: Any, **kwargs: Any) -> Any:
        places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        ins = list(args)
        with fanal.enable_grad():
            for k in places:
                ins[k] = _own(ins[k])
            out = func(*ins, **kwargs)
            value, aux = out if has_aux else (out, None)
            if not isinstance(value, Tensor) or value.dim() != 0:
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a scalar tensor, got "
                    + (f"tensor with {value.dim()} dims" if isinstance(value, Tensor) else f"{type(value)}")
                )
            wanted = [t for k in places for t in _flat(ins[k])]
            outer = any(t.requires_grad for k in places for t in _flat(args[k])) or _closes(args, places)
            found = _grad(value, wanted, create_graph=True, materialize_grads=True)
        if not outer:
            found = [g.detach() for g in found]
            value = value.detach()
        it = iter(found)
        shaped = tuple(_map(lambda t: next(it), ins[k]) for k in places)
        gradient = shaped[0] if isinstance(argnums, int) else shaped
        return (gradient, (value, aux)) if has_aux else (gradient, value)

    return call


def _closes(args: tuple, places: tuple[int, ...]) -> bool:
    return any(t.requires_grad for k, a in enumerate(args) if k not in places for t in _flat(a))


def grad(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """Return the gradient function of a scalar function."""
    both = grad_and_value(func, argnums, has_aux)

    def call(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return call


def vjp(func: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """Return (output, function from cotangents to gradients of the primals)."""
    with fanal.enable_grad():
        ins = _own(primals)
        out = func(*ins)
    output, aux = out if has_aux else (out, None)

    def back(*cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        vs = _flat(cotangents)
        outs = _flat(output)
        found = _grad(
            [o for o in outs if o.requires_grad],
            _flat(ins),
            [v for o, v in zip(outs, vs) if o.requires_grad],
            retain_graph=True,
            create_graph=fanal.is_grad_enabled() if create_graph is None else create_graph,
            materialize_grads=True,
        )
        return _filled(ins, found)

    return (output, back, aux) if has_aux else (output, back)


def jvp(
    func: Callable, primals: tuple, tangents: tuple, *, strict: bool = False, has_aux: bool = False
) -> tuple:
    """Return (output, directional derivative)."""
    if has_aux:
        raise RuntimeError("func.jvp(has_aux=True) is not supported")
    many = isinstance(primals, tuple)
    return functional.jvp(func, primals if many else (primals,), tangents if many else (tangents,))


def jacrev(
    func: Callable, argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False, chunk_size: Any = None
) -> Callable:
    """Return the Jacobian function with respect to some arguments."""
    if has_aux:
        raise RuntimeError("func.jacrev(has_aux=True) is not supported")

    def call(*args: Any) -> Any:
        places = (argnums,) if isinstance(argnums, int) else tuple(argnums)

        def part(*xs: Any) -> Any:
            full = list(args)
            for k, x in zip(places, xs):
                full[k] = x
            return func(*full)

        outer = fanal.is_grad_enabled() and any(t.requires_grad for t in _flat(args))
        found = functional.jacobian(part, tuple(args[k] for k in places), create_graph=outer)
        return (
            found[0]
            if isinstance(argnums, int) and not isinstance(found[0], tuple)
            else tuple(f[0] for f in found)
            if isinstance(argnums, int)
            else found
        )

    return call


jacfwd = jacrev


def hessian(func: Callable, argnums: int | tuple[int, ...] = 0) -> Callable:
    """Return the Hessian function of a scalar function."""

    def call(*args: Any) -> Any:
        if not isinstance(argnums, int):
            raise RuntimeError("func.hessian with several argnums is not supported")

        def part(x: Any) -> Any:
            full = list(args)
            full[argnums] = x
            return func(*full)

        return functional.hessian(part, args[argnums])

    return call


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with other tensors in the place of its parameters and buffers."""
    from fanal.nn.utils import stateless

    return stateless.functional_call(
        module, parameter_and_buffer_dicts, args, kwargs, tie_weights=tie_weights, strict=strict
    )


def stack_module_state(models: Any) -> tuple[dict, dict]:
    """Return the stacked parameters and buffers of modules of one kind."""
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    params = {
        k: fanal.stack([dict(m.named_parameters())[k] for m in models]).detach().requires_grad_()
        for k, _ in models[0].named_parameters()
    }
    buffers = {
        k: fanal.stack([dict(m.named_buffers())[k] for m in models]) for k, _ in models[0].named_buffers()
    }
    return params, buffers


def vmap(
    func: Callable, in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *, chunk_size: Any = None
) -> Callable:
    """Raise RuntimeError when called: batching is not supported."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("vmap is not supported: write the batch dimension out; broadcasting does the rest")

    return call


def linearize(func: Callable, *primals: Any) -> tuple:
    """Return (output, function from tangents to the directional derivative)."""
    output = func(*primals)
    return output, lambda *tangents: jvp(func, primals, tangents)[1]


__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "vjp",
    "vmap",
]

__getattr__ = finder("torch.func")
