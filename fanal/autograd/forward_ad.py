"""Dual numbers: tensors that carry a tangent, which every operation on them carries on.

Source: PyTorch documentation, "Forward-mode Automatic Differentiation".
Differs from torch: a dual tensor has memory of its own, so a write into it does not reach the primal.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from fanal.core.autograd.events import event
from fanal.core.autograd.forward import (
    close_level,
    enable_forward,
    give_tangent,
    is_forward_enabled,
    levels,
    open_level,
    tangent_at,
)
from fanal.core.autograd.modes import _Mode
from fanal.core.base.missing import finder
from fanal.core.base.state import state
from fanal.core.ir.prims import alias
from fanal.core.ir.prims.gradient import cast
from fanal.core.ops.build import result
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.tensor import Tensor


class UnpackedDualTensor(NamedTuple):
    """The primal and the tangent (None: zero) of a dual tensor."""

    primal: Any
    tangent: Any


class _Open(threading.local):
    """The level of `dual_level` on this thread, of which there is one at a time."""

    def __init__(self) -> None:
        self.level: int | None = None


_open = _Open()


def enter_dual_level() -> int:
    """Open a level at which tensors may have tangents; return its number, 0.

    Raises RuntimeError inside another one: PyTorch has one at a time, and torch.func.jvp nests.
    """
    if _open.level is not None:
        raise RuntimeError("Nested forward mode AD is not supported at the moment")
    _open.level = open_level()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Close the level. Every tangent of it is forgotten."""
    if level is not None and level != _current():
        raise RuntimeError(
            "Trying to exit a forward AD level that was not the last one that was created. This is not supported."
        )
    if _open.level is None:
        raise RuntimeError("Dual level must be a positive number.")
    close_level(_open.level)
    _open.level = None


def _current() -> int:
    return -1 if _open.level is None else 0


def _number(level: int | None, name: str) -> int | None:
    """Return the open level that a caller means, None if there is none."""
    if level is not None and level > max(0, _current()):
        raise RuntimeError(f"Invalid level given to {name}")
    return _open.level if level is None or level >= 0 else None


def make_dual(tensor: Any, tangent: Any, *, level: int | None = None) -> Any:
    """Return a tensor with the value and the history of `tensor` and this tangent.

    Dtypes: floating point and complex. Shapes: those of both are the same.
    Raises RuntimeError outside of a `dual_level`, and for a tensor that is a dual already.
    """
    at = _number(level, "_make_dual")
    if at is None:
        raise RuntimeError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to enter_dual_level() first."
        )
    for name, x in (("primal", tensor), ("tangent", tangent)):
        if x.dtype.category < 2:
            raise ValueError(f"Expected {name} to be floating point or complex, but got: {x.dtype}")
    return dual(tensor, tangent, at, True)


def _dual(tensor: Any, tangent: Any, at: int, new: bool = False) -> Any:
    """Return a tensor with this tangent at a level; if it is to be new there, the tensor must have none yet."""
    level = state.levels[at]
    if new and tangent_at(value(tensor), level) is not None:
        raise RuntimeError(
            "Making a dual Tensor based on a Tensor that already has a forward gradient at the same level 0 is not "
            "supported."
        )
    n, t = alias(read(tensor)), read(tangent)
    if t.dtype.is_complex and not n.dtype.is_complex:
        raise RuntimeError(f"a tangent of dtype {tangent.dtype} for a primal of dtype {tensor.dtype} is not supported")
    give_tangent(n, level, cast(t, n.dtype))
    return result(n, tensor)


def unpack_dual(tensor: Any, *, level: int | None = None) -> UnpackedDualTensor:
    """Return the primal and the tangent of a tensor; the tangent is None if it has none."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"_unpack_dual(): argument 'dual' (position 1) must be Tensor, not {type(tensor).__name__}")
    at = _number(level, "_fw_primal")
    return UnpackedDualTensor(tensor, None) if at is None else UnpackedDualTensor(*unpacked(tensor, at))


def _unpacked(tensor: Any, at: int) -> tuple[Any, Any]:
    """Return the value of a tensor without its tangent at a level, and that tangent or None."""
    n = read(tensor)
    t = tangent_at(n, state.levels[at]) if at < len(state.levels) else None
    if t is None:
        return tensor, None
    with levels(state.levels[:at]):  # what is made has no tangent here
        return result(alias(n), tensor), result(alias(t), tensor)


dual, unpacked = event("forward.dual", _dual), event("forward.unpacked", _unpacked)


class dual_level(_Mode):
    """Keep a level open inside this block or function."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(self, *exc: object) -> None:
        exit_dual_level()


class _set_fwd_grad_enabled(_Mode):
    """Switch forward mode at once; as a context manager, switch it back at the end."""

    def __init__(self, mode: bool) -> None:
        self.mode, self._old = mode, is_forward_enabled()
        enable_forward(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        enable_forward(self._old)

    def clone(self) -> Any:
        return _set_fwd_grad_enabled(self.mode)


def _is_fwd_grad_enabled() -> bool:
    return is_forward_enabled()


__all__ = [
    "UnpackedDualTensor",
    "dual_level",
    "enter_dual_level",
    "exit_dual_level",
    "make_dual",
    "unpack_dual",
]

__getattr__ = finder("torch.autograd.forward_ad")
