"""Switches of gradient recording: context managers, decorators, and the questions about them.

A change of mode is an event, so that a segment in which the modes change elsewhere is never taken for
another one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fanal.core.base import knobs
from fanal.core.base.state import state
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, leave_path


def _record_mode(grad: bool, inference: bool) -> None:
    state.grad, state.inference = grad, inference


_MODE = Op("engine.mode", _record_mode)


def _slow_mode(*args: Any) -> Any:
    return dispatch(_MODE, args, {})


_mode_event = matcher.function(_MODE.key, _slow_mode, "mode", _record_mode.__doc__, "fanal")


def set_modes(grad: bool, inference: bool) -> None:
    """Set gradient recording and inference mode of this thread."""
    if grad is not state.grad or inference is not state.inference:
        _mode_event(grad, inference)
        state.grad, state.inference = grad, inference  # a followed event runs nothing


class _Mode:
    """A context manager that is also a decorator of functions, generators and classes."""

    def __call__(self, wrapped: Any) -> Any:
        if inspect.isclass(wrapped):
            init = wrapped.__init__
            setattr(wrapped, "__init__", self._around(init))
            return wrapped
        return self._around(wrapped)

    def clone(self) -> Any:
        """Return a fresh manager of the same kind, for one entry."""
        return type(self)()

    def _around(self, f: Callable) -> Callable:
        fresh = self.clone
        if inspect.isgeneratorfunction(f):
            return _generator(fresh, f)

        @functools.wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return f(*args, **kwargs)

        return call

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError


def _generator(fresh: Callable, f: Callable) -> Callable:
    """Hold the mode while the generator runs, and give the caller its own back at every yield."""

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        gen = f(*args, **kwargs)
        try:
            with fresh():
                item = gen.send(None)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with fresh():
                        gen.close()
                    raise
                except BaseException as e:
                    with fresh():
                        item = gen.throw(e)
                else:
                    with fresh():
                        item = gen.send(sent)
        except StopIteration as e:
            return e.value

    return call


class _Plain(_Mode):
    """A mode without arguments, which may decorate without parentheses."""

    grad = True

    def __new__(cls, orig_func: Any = None) -> Any:
        return object.__new__(cls) if orig_func is None else object.__new__(cls)(orig_func)

    def __init__(self, orig_func: Any = None) -> None:
        self._old = True

    def __enter__(self) -> None:
        self._old = state.grad
        set_modes(self.grad, state.inference)

    def __exit__(self, *exc: object) -> None:
        set_modes(self._old, state.inference)


class no_grad(_Plain):
    """Record no gradients inside this block or function."""

    grad = False


class enable_grad(_Plain):
    """Record gradients inside this block or function."""


class set_grad_enabled(_Mode):
    """Switch gradient recording at once; as a context manager, switch it back at the end."""

    def __init__(self, mode: bool) -> None:
        self._old, self.mode = state.grad, bool(mode)
        set_modes(self.mode, state.inference)

    def __call__(self, wrapped: Any) -> Any:
        set_modes(self._old, state.inference)
        return super().__call__(wrapped)

    def __enter__(self) -> None:
        set_modes(self.mode, state.inference)

    def __exit__(self, *exc: object) -> None:
        set_modes(self._old, state.inference)

    def __repr__(self) -> str:
        return f"set_grad_enabled(mode={self.mode})"

    def clone(self) -> set_grad_enabled:
        old = state.grad
        new = set_grad_enabled(self.mode)
        new._old = old
        return new


class inference_mode(_Mode):
    """Record nothing for autograd inside this block or function; tensors made there can never take part in
    it."""

    def __new__(cls, mode: Any = True) -> Any:
        return object.__new__(cls) if isinstance(mode, bool) else cls()(mode)

    def __init__(self, mode: bool = True) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        self._old = (state.grad, state.inference)
        set_modes(not self.mode, self.mode)

    def __exit__(self, *exc: object) -> None:
        set_modes(*self._old)

    def clone(self) -> inference_mode:
        return inference_mode(self.mode)


def is_grad_enabled() -> bool:
    """Tell whether gradients are recorded."""
    return state.grad


def is_inference_mode_enabled() -> bool:
    """Tell whether inference mode is on."""
    return state.inference


_holding = 0
_follow_wanted = knobs.follow


def hold_following(on: bool) -> None:
    """Follow nothing from here on, or give up one such wish; the last one given up lets following begin again."""
    global _holding, _follow_wanted
    if on:
        leave_path()
        if not _holding:
            _follow_wanted, knobs.follow = knobs.follow, False
    _holding += 1 if on else -1
    if not _holding:
        knobs.follow = _follow_wanted


def set_anomaly_enabled(on: bool, check_nan: bool = True) -> None:
    """Look for NaN in every gradient. Every value is computed at once then, and nothing is followed."""
    if bool(on) is not state.anomaly:
        hold_following(on)
    state.anomaly = on
    state.check_nan = check_nan


class detect_anomaly:
    """Find the operation whose backward made a NaN, inside this block."""

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._old = (state.anomaly, state.check_nan)

    def __enter__(self) -> None:
        self._old = (state.anomaly, state.check_nan)
        set_anomaly_enabled(True, self.check_nan)

    def __exit__(self, *exc: object) -> None:
        set_anomaly_enabled(*self._old)


class set_detect_anomaly(detect_anomaly):
    """Switch anomaly detection at once; as a context manager, switch it back at the end."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        super().__init__(check_nan)
        set_anomaly_enabled(mode, check_nan)

    def __enter__(self) -> None:
        pass


def is_anomaly_enabled() -> bool:
    """Tell whether anomaly detection is on."""
    return state.anomaly


def is_anomaly_check_nan_enabled() -> bool:
    """Tell whether anomaly detection looks for NaN."""
    return state.check_nan
