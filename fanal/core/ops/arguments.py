"""What arguments must be: the checks PyTorch's argument parser makes before an operator runs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import CO_VARARGS, CO_VARKEYWORDS
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.engine.matcher import Parameters

_OF_PYTHON = {bool: dt.bool_, int: dt.int64, float: dt.float64, complex: dt.complex128}


def passing(call: Callable, fn: Callable, *names: str) -> Callable:
    """Return `call`, noting that it takes what `fn` takes, and these keywords besides."""
    call.passes, call.adds = fn, names  # type: ignore[attr-defined]
    return call


def parameters(fn: Callable) -> Parameters | None:
    """Return all the parameters that a call of `fn` may have, or None if they cannot be told."""
    added: tuple[str, ...] = ()
    while hasattr(fn, "passes"):
        added += fn.adds  # type: ignore[attr-defined]
        fn = fn.passes
    code = getattr(fn, "__code__", None)
    if code is None or code.co_flags & (CO_VARARGS | CO_VARKEYWORDS):
        return None
    own = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    must = own[:code.co_argcount - len(fn.__defaults__ or ())]
    others = tuple(n for n in dict.fromkeys(added) if n not in own and _NUMPY.get(n) in must)
    names = (*own, *dict.fromkeys(n for n in added if n not in (*own, *others)))
    return Parameters(names, code.co_posonlyargcount, code.co_argcount, others)


def taking_tensors(fn: Callable, name: str, tensors: int | None, method: bool = False) -> Callable:
    """Return `fn`, which raises TypeError unless its first `tensors` arguments are tensors.

    By default that is the first, if it is called input or self. Where it is annotated as an `Operand` it may be a
    number, but then the second one must be a tensor. Texts count the arguments of a method without self. dtype= may
    also be one of Python's number types.
    """
    plain = getattr(fn, "__wrapped__", fn)
    code = getattr(plain, "__code__", None)
    if code is None:
        return fn
    names = code.co_varnames[: code.co_argcount]
    if "dtype" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        fn = _with_dtype(fn, name)
    if tensors is None:
        tensors = 1 if names[:1] in (("input",), ("self",)) else 0
        if not method and len(names) > 1 and all(plain.__annotations__.get(n) == "Operand" for n in names[:2]):
            return _taking_one_of(fn, name, names[:2])
    first = int(method)
    wanted = names[first:tensors]
    if not wanted:
        return fn

    def call(*args: Any, **kwargs: Any) -> Any:
        for i, n in enumerate(wanted, first):
            x = args[i] if i < len(args) else kwargs.get(n, fn)
            if not isinstance(x, Handle) and x is not fn:  # a missing argument is Python's error
                raise TypeError(
                    f"{name}(): argument '{n}' (position {i + 1 - first}) must be Tensor, not {type(x).__name__}"
                )
        return fn(*args, **kwargs)

    return passing(call, fn)


# What NumPy and the Array API standard call an argument, and PyTorch's name, as its argument parser has them.
_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}


def under_numpys_names(fn: Callable, operator: Callable, method: bool = False) -> Callable:
    """Return `fn`, which takes the arguments of `operator` also under NumPy's names; but for the self of a method."""
    code = getattr(getattr(operator, "__wrapped__", operator), "__code__", None)
    if code is None:
        return fn
    own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    names = {numpys: ours for numpys, ours in _NUMPY.items() if ours in own[int(method):] and numpys not in own}
    if not names:
        return fn

    def call(*args: Any, **kwargs: Any) -> Any:
        if not names.keys().isdisjoint(kwargs):
            kwargs = {k if names.get(k) in kwargs else names.get(k, k): v for k, v in kwargs.items()}
        return fn(*args, **kwargs)

    return passing(call, fn, *names)


# What PyTorch calls the sizes, or dimensions, that are given one by one or as a tuple.
_SIZES = ("size", "shape", "repeats", "dims")


def with_size(fn: Callable, name: str, operator: Callable) -> Callable:
    """Return `fn`, which takes the sizes of `operator`(2, 3) also as size=(2, 3), and raises TypeError without any."""
    code = getattr(operator, "__code__", None)
    if code is None or not code.co_flags & CO_VARARGS:
        return fn
    count = code.co_argcount
    own = code.co_varnames[: count + code.co_kwonlyargcount]
    if code.co_varnames[len(own)] not in ("size", "sizes", "axes") or ("dtype" in own and "size" in own):
        return fn
    keyword = next((n for n in _SIZES if n in own), "size")

    def call(*args: Any, **kwargs: Any) -> Any:
        if keyword not in own:
            size = kwargs.pop(keyword, None)
            args = args if size is None else (*args, size)
        if len(args) <= count and kwargs.get(keyword) is None:
            raise TypeError(f'{name}() missing 1 required positional arguments: "{keyword}"')
        return fn(*args, **kwargs)

    return passing(call, fn)


# Operators that PyTorch takes in an older form, too, with numbers before tensors, and what these are.
_NUMBERS_FIRST = {
    **dict.fromkeys(("add", "sub"), ("alpha",)),
    **dict.fromkeys(("addcdiv", "addcmul"), ("value",)),
    **dict.fromkeys(("addbmm", "addmm", "addmv", "addr", "baddbmm"), ("beta", "alpha")),
}


def numbers_first(fn: Callable, name: str, operator: Callable) -> Callable:
    """Return `fn`, which takes numbers before its tensors if `name` is of an operator that does: add(x, 2, y) is
    add(x, y, alpha=2)."""
    names = _NUMBERS_FIRST.get(name)
    if names is None:
        return fn
    positional = operator.__code__.co_argcount

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > positional:
            tensors = [a for a in args if isinstance(a, Handle)]
            numbers = [a for a in args if not isinstance(a, Handle)]
            if len(tensors) == positional and len(numbers) <= len(names):
                return fn(*tensors, **dict(zip(names, numbers)), **kwargs)
        return fn(*args, **kwargs)

    return call  # not `passing`: it has no fixed number of arguments


def _with_dtype(fn: Callable, name: str) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        d = kwargs.get("dtype")
        if d is not None and not isinstance(d, dt.dtype):
            kwargs["dtype"] = of_python(d, name)
        return fn(*args, **kwargs)

    return passing(call, fn)


def of_python(kind: Any, name: str) -> dt.dtype:
    """Return the dtype of Python's float, int, bool or complex. Raises TypeError for anything else."""
    if isinstance(kind, type) and kind in _OF_PYTHON:
        return _OF_PYTHON[kind]
    raise TypeError(f"{name}(): argument 'dtype' must be torch.dtype, not {type(kind).__name__}")


def _taking_one_of(fn: Callable, name: str, pair: tuple[str, ...]) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = (*args[:2], *(kwargs[n] for n in pair if n in kwargs))
        if len(given) == 2 and not any(isinstance(x, Handle) for x in given):
            got = ", ".join(type(x).__name__ for x in given)
            raise TypeError(
                f"{name}() received an invalid combination of arguments - got ({got}), but expected one of:\n"
                f" * (Tensor {pair[0]}, Tensor {pair[1]})\n * (Tensor {pair[0]}, Number {pair[1]})\n"
                f" * (Number {pair[0]}, Tensor {pair[1]})\n"
            )
        return fn(*args, **kwargs)

    return passing(call, fn)


def no_zero(d: dt.dtype, divisor: Any) -> None:
    """Raise PyTorch's error for integers divided by the number 0; zeros in a tensor are found when it is computed."""
    if d.category < 2 and isinstance(divisor, (int, float)) and divisor == 0:
        raise RuntimeError("ZeroDivisionError")
