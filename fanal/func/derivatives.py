"""Derivatives of functions: of scalars, along and against directions, and whole Jacobians.

Every transform differentiates by tensors of its own, so transforms nest and know each other's variables apart.
Source: PyTorch documentation, "torch.func".
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fanal
from fanal.autograd.forward_ad import dual, unpacked
from fanal.core.autograd.forward import close_level, open_level
from fanal.core.autograd.transforms import pulled, settled, variable
from fanal.core.tensor.tensor import Tensor
from fanal.func.mapping import vmap
from fanal.utils._pytree import tree_leaves as leaves
from fanal.utils._pytree import tree_map as mapped
from fanal.utils._pytree import tree_structure as structure
from fanal.utils._pytree import tree_unflatten

Argnums = int | tuple[int, ...]


def filled(tree: Any, values: Iterable[Any]) -> Any:
    """Return a tree like another, with other leaves."""
    return tree_unflatten(values, structure(tree))


def _chosen(args: tuple, argnums: Argnums) -> tuple[int, ...]:
    """Return the places of the arguments to differentiate by, counted from the front."""
    if not isinstance(argnums, (int, tuple)) or not all(isinstance(k, int) for k in _many(argnums)):
        raise RuntimeError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    if argnums == ():
        raise RuntimeError("argnums must be non-empty")
    for k in _many(argnums):
        if not -len(args) <= k < len(args):
            raise RuntimeError(f"Got argnum={k}, but only {len(args)} positional inputs")
    places = tuple(k % len(args) for k in _many(argnums))
    if len(set(places)) != len(places):
        raise RuntimeError(f"argnums elements must be unique, got {argnums}")
    return places


def _many(argnums: Argnums) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else argnums


def _replaced(args: tuple, places: tuple[int, ...], values: Any) -> list:
    full = list(args)
    for k, v in zip(places, values):
        full[k] = v
    return full


def _need_tensors(x: Any, message: str, none: bool = False) -> list[Tensor]:
    """Return the tensors of a structure; raise if there is something else among them, or (but for `none`) nothing."""
    found = leaves(x)
    for t in found if found or none else [None]:
        if not isinstance(t, Tensor):
            raise RuntimeError(f"{message}, got unsupported type {type(t)}")
    return found


def _pair(out: Any, name: str, has_aux: bool) -> tuple[Any, Any]:
    """Return what a function gave as (output, aux)."""
    if not has_aux:
        return out, None
    if not (isinstance(out, tuple) and len(out) == 2):
        raise RuntimeError(f"{name}: output of function f should be a tuple: (output, aux) if has_aux is True")
    return out


def _own(x: Any) -> Any:
    """Return a tensor to differentiate by, which shares the memory and stays part of outer transforms."""
    if not isinstance(x, Tensor):
        raise ValueError(f"Thing passed to transform API must be Tensor, got {type(x)}")
    return variable(x)


class _Running(threading.local):
    """The variables of the transforms that run on this thread."""

    def __init__(self) -> None:
        self.variables: tuple = ()


_running = _Running()


@contextlib.contextmanager
def _variables(x: Any) -> Iterator[Any]:
    """Give tensors to differentiate by in the place of those in `x`, and record gradients, inside this block."""
    outer = _running.variables
    with fanal.enable_grad():
        own = mapped(_own, x)
        _running.variables = (*outer, *leaves(own))
        try:
            yield own
        finally:
            _running.variables = outer


def _settled(x: Any) -> Any:
    _need_tensors(x, "Expected tensors", none=True)
    return mapped(lambda t: settled(t, _running.variables), x)


def grad_and_value(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """Return a function that gives (gradient, value) of a scalar function, (gradient, (value, aux)) with `has_aux`."""

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        name = "grad_and_value(f)(*args)"
        places = _chosen(args, argnums)
        with _variables([args[k] for k in places]) as ins:
            value, aux = _pair(func(*_replaced(args, places, ins), **kwargs), name, has_aux)
            if not isinstance(value, Tensor):
                raise RuntimeError(f"{name}: Expected f(*args) to return a Tensor, got {type(value)}")
            if value.dim() != 0:
                raise RuntimeError(
                    f"{name}: Expected f(*args) to return a scalar Tensor, got tensor with {value.dim()} dims. Maybe "
                    "you wanted to use the vjp or jacrev APIs instead?"
                )
            found = filled(ins, pulled((value,), tuple(leaves(ins)), None, True))
        gradient = _settled(found[0] if isinstance(argnums, int) else tuple(found))
        return (gradient, (_settled(value), _settled(aux))) if has_aux else (gradient, _settled(value))

    return call


def grad(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """Return the gradient function of a scalar function; with `has_aux`, it gives (gradient, aux)."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return call


def vjp(func: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """Return (output, function from cotangents to gradients of the primals), and aux with `has_aux`."""
    with _variables(primals) as ins:
        output, aux = _pair(func(*ins), "vjp(f, *primals)", has_aux)
        outs = tuple(_need_tensors(output, "vjp(f, *primals): expected f(*primals) to return only tensors"))

    def back(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> tuple:
        if structure(cotangents) != structure(output):
            raise RuntimeError(
                "Expected pytree structure of cotangents to be the same as pytree structure of outputs to the "
                f"function. cotangents: {structure(cotangents)}, primal output: {structure(output)}"
            )
        create = fanal.is_grad_enabled() if create_graph is None else create_graph
        return _settled(filled(ins, pulled(outs, tuple(leaves(ins)), leaves(cotangents), create)))

    return (_settled(output), back, _settled(aux)) if has_aux else (_settled(output), back)


def jvp(func: Callable, primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> tuple:
    """Return (output, its derivative in the direction `tangents`), and aux with `has_aux`.

    strict: raise RuntimeError if an output does not depend on the primals, instead of returning zeros.
    """
    name = "jvp(f, primals, tangents)"
    if not isinstance(primals, tuple):
        raise RuntimeError(f"{name}: Expected primals to be a tuple. E.g. it should be valid to call f(*primals).")
    if structure(primals) != structure(tangents):
        raise RuntimeError(
            f"{name}: Expected primals and tangents to have the same python structure. For example, if primals is a "
            f"tuple of 3 tensors, tangents also must be. Got primals with structure {structure(primals)} and tangents "
            f"with structure {structure(tangents)}"
        )
    for what, x in (("primals", primals), ("tangents", tangents)):
        for t in leaves(x):
            if not isinstance(t, Tensor):
                raise RuntimeError(f"{name}: Expected {what} to only contain Tensors, got {type(t)}")
    if not leaves(primals):
        raise RuntimeError(f"{name}: Expected primals to contain at least one Tensor.")
    level = open_level()
    try:
        duals = filled(primals, [dual(p, t, level) for p, t in zip(leaves(primals), leaves(tangents))])
        output, aux = _pair(func(*duals), name, has_aux)
        pairs = [unpacked(o, level) for o in
                 _need_tensors(output, f"{name}: expected f(*primals) to return only tensors")]
        if strict and any(t is None for _, t in pairs):
            raise RuntimeError(
                "jvp(f, primals, tangents, strict=True): The output of f is independent of the inputs. This is not "
                "allowed with strict=True."
            )
        if has_aux:
            _need_tensors(aux, "Expected tensors")
            aux = mapped(lambda t: unpacked(t, level)[0], aux)
    finally:
        close_level(level)
    result = filled(output, [p for p, _ in pairs])
    derivative = filled(output, [fanal.zeros_like(p) if t is None else t for p, t in pairs])
    return (result, derivative, aux) if has_aux else (result, derivative)


def linearize(func: Callable, *primals: Any) -> tuple:
    """Return (output, function from tangents to the derivative of the output in their direction).

    `func` runs once. Its gradients are linear in the cotangents, and the derivative is the gradient of that.
    """
    output, back = vjp(func, *primals)
    with _variables(mapped(fanal.zeros_like, output)) as cotangents:
        gradients = tuple(leaves(back(cotangents)))

    def forward(*tangents: Any) -> Any:
        if structure(tangents) != structure(primals):
            raise RuntimeError(
                f"Expected the tangents {structure(tangents)} to have the same argspec as the primals "
                f"{structure(primals)}"
            )
        for k, (t, p) in enumerate(zip(leaves(tangents), leaves(primals))):
            for what in ("shape", "device", "dtype"):
                if getattr(t, what) != getattr(p, what):
                    raise RuntimeError(
                        f"tangent:{k} with {what} {getattr(t, what)} in flattened pytree doesn't match the {what} "
                        f"{getattr(p, what)} of the corresponding primal."
                    )
        create = fanal.is_grad_enabled()
        return _settled(filled(output, pulled(gradients, tuple(leaves(cotangents)), leaves(tangents), create)))

    return output, forward


def _basis(xs: list) -> list:
    """Return, for each tensor, the parts (N, *shape) in it of the N unit vectors of all of them together."""
    sizes = [x.numel() for x in xs]
    found = []
    for k, (x, n) in enumerate(zip(xs, sizes)):
        before, after = (fanal.zeros(sum(part), n, dtype=x.dtype) for part in (sizes[:k], sizes[k + 1 :]))
        found.append(fanal.cat([before, fanal.eye(n, dtype=x.dtype), after]).view((sum(sizes), *x.shape)))
    return found


def jacrev(func: Callable, argnums: Argnums = 0, *, has_aux: bool = False, chunk_size: int | None = None,
           _preallocate_and_copy: bool = False) -> Callable:
    """Return the function that gives the Jacobian, by reverse mode; (Jacobian, aux) with `has_aux`.

    The Jacobian has the structure of the output, with that of the arguments in the place of each leaf. One walk back
    gives `chunk_size` of its rows, or all.
    """
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        places = _chosen(args, argnums)

        def part(*xs: Any) -> Any:
            return func(*_replaced(args, places, xs), **kwargs)

        output, back, *aux = vjp(part, *(args[k] for k in places), has_aux=has_aux)
        outs = leaves(output)
        rows = vmap(lambda *unit: back(filled(output, unit)), chunk_size=chunk_size)(*_basis(outs))
        example = [args[k] for k in places]
        sizes = [o.numel() for o in outs]
        blocks = []
        for o, mine in zip(outs, zip(*(x.split(sizes) for x in leaves(rows)))):
            parts = [rows.view((*o.shape, *x.shape)) for rows, x in zip(mine, leaves(example))]
            block = filled(example, parts)
            blocks.append(block[0] if isinstance(argnums, int) else tuple(block))
        jacobian = filled(output, blocks)
        return (jacobian, aux[0]) if has_aux else jacobian

    return call


def jacfwd(func: Callable, argnums: Argnums = 0, has_aux: bool = False, *, randomness: str = "error") -> Callable:
    """Return the function that gives the Jacobian, by forward mode; (Jacobian, aux) with `has_aux`.

    The Jacobian has the structure of the output, with that of the arguments in the place of each leaf.
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(
            f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        places = _chosen(args, argnums)
        chosen = tuple(args[k] for k in places)
        ins = leaves(chosen)
        for x in ins:
            if not isinstance(x, Tensor):
                raise ValueError(f"Thing passed to transform API must be Tensor, got {type(x)}")

        def part(*xs: Any) -> Any:
            return func(*_replaced(args, places, xs), **kwargs)

        push = vmap(lambda *unit: jvp(part, chosen, filled(chosen, unit), has_aux=has_aux), randomness=randomness)
        output, columns, *aux = push(*_basis(ins))
        blocks = []
        for mine in leaves(columns):
            apart = mine.movedim(0, -1).split([x.numel() for x in ins], -1)
            block = filled(chosen, [c.reshape((*mine.shape[1:], *x.shape)) for c, x in zip(apart, ins)])
            blocks.append(block[0] if isinstance(argnums, int) else block)
        jacobian = filled(output, blocks)
        return (jacobian, mapped(lambda t: t[0], aux[0])) if has_aux else jacobian

    return call


def hessian(func: Callable, argnums: Argnums = 0) -> Callable:
    """Return the function that gives the second derivatives of a function: forward mode over reverse mode."""
    return jacfwd(jacrev(func, argnums), argnums)


__all__ = ["grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "linearize", "vjp"]
