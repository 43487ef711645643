"""Autocast as a region of the program."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fanal.amp.settings import (
    autocast_decrement_nesting,
    autocast_increment_nesting,
    get_autocast_dtype,
    is_autocast_available,
    is_autocast_cache_enabled,
    is_autocast_enabled,
    switch,
)
from fanal.core.base import dtype as dt
from fanal.core.tensor.tensor import Tensor


class autocast:
    """Compute matrix products and convolutions in 16 bits, and what needs the range in float32, inside a block.

    A context manager, or a decorator. `core.ops.autocast` has the table of operators; `lens.casts` reports
    what was cast.

    Dtypes: bfloat16 (the default on the CPU) or float16.
    Raises: RuntimeError for a kind of device that autocast does not know; warns, and does nothing, for CUDA and
    for another dtype.
    Differs from torch: a weight that was written since it was cast is cast anew.
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else dtype
        if not is_autocast_available(device_type):
            raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
        self.device = device_type
        self._cache_enabled = is_autocast_cache_enabled() if cache_enabled is None else cache_enabled
        if enabled and device_type == "cuda":
            warnings.warn("CUDA is not available or torch_xla is imported. Disabling autocast.", stacklevel=2)
            enabled = False
        elif enabled and self.fast_dtype not in (dt.bfloat16, dt.float16):
            name = device_type.upper()
            warnings.warn(
                f"In {name} autocast, but the target dtype is not supported. Disabling autocast.\n"
                f"{name} Autocast only supports dtypes of torch.bfloat16, torch.float16 currently.",
                stacklevel=2,
            )
            enabled = False
        self._enabled = enabled

    def __enter__(self) -> autocast:
        self.prev = is_autocast_enabled(self.device)
        self.prev_fastdtype = get_autocast_dtype(self.device)
        self.prev_cache_enabled = is_autocast_cache_enabled()
        autocast_increment_nesting()
        switch(self.device, self._enabled, self.fast_dtype, self._cache_enabled)
        return self

    def __exit__(self, *exc: object) -> None:
        outermost = autocast_decrement_nesting() == 0
        switch(self.device, self.prev, self.prev_fastdtype, self.prev_cache_enabled, outermost)

    def __call__(self, func: Callable) -> Callable:
        if not callable(func):
            raise TypeError(
                f"autocast()(func) requires a callable, but got {type(func).__name__}. Did you mean to use autocast "
                "as a context manager? For example:\n    with torch.autocast(device_type=...):\n"
                "        output = model(input)"
            )

        @functools.wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return call


def _cast(x: Any, device_type: str, to: dt.dtype) -> Any:
    """Cast the floating-point tensors of a device in a nest of containers, but not float64."""
    if isinstance(x, Tensor):
        eligible = x.is_floating_point() and x.device.type == device_type and x.dtype is not dt.float64
        return x.to(to) if eligible else x
    if isinstance(x, (str, bytes, np.ndarray)):
        return x
    if isinstance(x, Mapping):
        return {_cast(k, device_type, to): _cast(v, device_type, to) for k, v in x.items()}
    if isinstance(x, Iterable):
        items = (_cast(i, device_type, to) for i in x)
        return type(x)(items) if isinstance(x, (list, tuple)) else items  # type: ignore[call-arg]
    return x


def _check_device_type(device_type: Any) -> None:
    if not isinstance(device_type, str):
        raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")


def custom_fwd(fwd: Callable | None = None, *, device_type: str, cast_inputs: Any = None) -> Callable:
    """Decorate the forward of a custom function: with `cast_inputs`, autocast is off in it and its inputs are cast."""
    _check_device_type(device_type)
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def call(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        on = is_autocast_enabled(device_type)
        ctx._dtype = get_autocast_dtype(device_type)
        ctx._fwd_used_autocast = on and cast_inputs is None
        if not on or cast_inputs is None:
            return fwd(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, device_type, cast_inputs), **_cast(kwargs, device_type, cast_inputs))

    return call


def custom_bwd(bwd: Callable | None = None, *, device_type: str) -> Callable:
    """Decorate the backward of a custom function: autocast is in it what it was in the forward."""
    _check_device_type(device_type)
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def call(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, dtype=ctx._dtype, enabled=ctx._fwd_used_autocast):
            return bwd(ctx, *args, **kwargs)

    return call
