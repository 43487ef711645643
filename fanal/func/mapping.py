"""vmap: a function of one example made one of many.

The function runs once, whatever the number of examples, on tensors that stand for any one of them; see
`core.ir.batch` for how that becomes the computation for all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import fanal
from fanal.core.ops.vmap import mapped
from fanal.core.tensor.tensor import Tensor
from fanal.utils._pytree import TreeSpec, _broadcast_to_and_flatten, tree_flatten, tree_unflatten


def vmap(
    func: Callable,
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable:
    """Return a function that applies `func` to every example of its arguments at once.

    in_dims: which dimension of each argument counts the examples, None for arguments that all share; a number, or a
    structure as of the arguments. Keyword arguments are shared. out_dims: where that dimension goes in the results.
    randomness: "error" forbids random operations, "different" draws for every example, "same" once for all.
    chunk_size: how many examples are done at a time; None: all.
    Raises ValueError for dimensions that do not fit, RuntimeError where the function asks for a value.
    Differs from torch: tensors made inside may be written with what differs between the examples.
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(
            f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    def call(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten(args)
        dims = _in_dims(func, in_dims, args, flat, spec)
        size = _size(flat, dims)
        if chunk_size is None:
            return _mapped(func, flat, dims, spec, out_dims, randomness, kwargs, size)
        return _in_chunks(func, flat, dims, spec, out_dims, randomness, kwargs, size, chunk_size)

    return wraps(func)(call) if hasattr(func, "__name__") else call


def _name(func: Callable) -> str:
    return getattr(func, "__name__", None) or repr(func)


def _in_dims(func: Callable, in_dims: Any, args: tuple, flat: list, spec: TreeSpec) -> list[int | None]:
    """Return the dimension of each leaf, not negative."""
    name = _name(func)
    if not isinstance(in_dims, (int, tuple)):
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): expected `in_dims` to be int or a (potentially nested) "
            f"tuple matching the structure of inputs, got: {type(in_dims)}."
        )
    if not args:
        raise ValueError(
            f"vmap({name})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are trying to vmap over a "
            "function with no inputs. The latter is unsupported."
        )
    begin = f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): "
    dims = _broadcast_to_and_flatten(in_dims, spec)
    if dims is None:
        raise ValueError(
            f"{begin}in_dims is not compatible with the structure of `inputs`. in_dims has structure "
            f"{tree_flatten(in_dims)[1]} but inputs has structure {spec}."
        )
    found: list[int | None] = []
    for x, d in zip(flat, dims):
        if d is not None and not isinstance(d, int):
            raise ValueError(
                f"{begin}Got in_dim={d} for an input but in_dim must be either an integer dimension or None."
            )
        if d is not None and not isinstance(x, Tensor):
            raise ValueError(
                f"{begin}Got in_dim={d} for an input but the input is of type {type(x)}. We cannot vmap over "
                "non-Tensor arguments, please use None as the respective in_dim"
            )
        if d is not None and not -x.dim() <= d < x.dim():
            raise ValueError(
                f"{begin}Got in_dim={d} for some input, but that input is a Tensor of dimensionality {x.dim()} so "
                f"expected in_dim to satisfy -{x.dim()} <= in_dim < {x.dim()}."
            )
        found.append(None if d is None else d % x.dim())
    return found


def _size(flat: list, dims: list[int | None]) -> int:
    """Return the number of examples."""
    sizes = [x.size(d) for x, d in zip(flat, dims) if d is not None]
    if not sizes:
        raise ValueError("vmap: at least one input must have a dimension that is mapped: all in_dims are None")
    if any(n != sizes[0] for n in sizes):
        raise ValueError(
            f"vmap: Expected all tensors to have the same size in the mapped dimension, got sizes {sizes} for the "
            "mapped dimension"
        )
    return sizes[0]


def _mapped(func: Callable, flat: list, dims: list[int | None], spec: TreeSpec, out_dims: Any, randomness: str,
            kwargs: dict, size: int) -> Any:
    places = [k for k, d in enumerate(dims) if d is not None]
    tensors = [flat[k] for k in places]
    in_dims = tuple([dims[k] for k in places])
    with mapped(size, randomness, tensors, in_dims) as level:
        mine = list(flat)
        for k, part in zip(places, level.parts):
            mine[k] = part
        out, out_spec = tree_flatten(func(*tree_unflatten(mine, spec), **kwargs))
        results = {k: d for k, d in enumerate(_out_dims(func, out_dims, out, out_spec)) if isinstance(out[k], Tensor)}
        try:
            made = level.collect([out[k] for k in results], list(results.values()))
        except ValueError as e:
            name = _name(func)
            raise ValueError(f"vmap({name}, ...): `{name}` {e}") from None
    for k, t in zip(results, made):
        out[k] = t
    return tree_unflatten(out, out_spec)


def _out_dims(func: Callable, out_dims: Any, out: list, spec: TreeSpec) -> list[int | None]:
    """Return where the examples go in each result."""
    name = _name(func)
    found = _broadcast_to_and_flatten(out_dims, spec)
    if found is None and spec.is_leaf() and isinstance(out_dims, tuple) and len(out_dims) == 1:
        found = list(out_dims)
    if found is None:
        raise ValueError(
            f"vmap({name}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with the structure of "
            f"`outputs`. out_dims has structure {tree_flatten(out_dims)[1]} but outputs has structure {spec}."
        )
    for x, d in zip(out, found):
        if d is not None and not isinstance(d, int):
            raise ValueError(
                f"vmap({name}, ..., out_dims={out_dims}): `out_dims` must be an int, None or a python collection of "
                "ints representing where in the outputs the vmapped dimension should appear."
            )
        if d is not None and not isinstance(x, Tensor):
            raise ValueError(
                f"vmap({name}, ...): `{name}` must only return Tensors, got type {type(x)}. Did you mean to set "
                "out_dims= to None for output?"
            )
    return found


def _in_chunks(func: Callable, flat: list, dims: list[int | None], spec: TreeSpec, out_dims: Any, randomness: str,
               kwargs: dict, size: int, chunk_size: int) -> Any:
    """Do some examples at a time. With randomness "same", every chunk draws the same numbers."""
    seen = fanal.get_rng_state() if randomness == "same" else None
    chunks = []
    for start in range(0, max(size, 1), chunk_size):
        if seen is not None:
            fanal.set_rng_state(seen)
        n = min(chunk_size, size - start)
        some = [x if d is None else x.narrow(d, start, n) for x, d in zip(flat, dims)]
        out, out_spec = tree_flatten(_mapped(func, some, dims, spec, out_dims, randomness, kwargs, n))
        chunks.append(out)
    where = _out_dims(func, out_dims, out, out_spec)
    whole = [column[0] if d is None else fanal.cat(column, d) for column, d in zip(zip(*chunks), where)]
    return tree_unflatten(whole, out_spec)
