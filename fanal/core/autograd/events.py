"""backward() and grad() as events, for the public modules above the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.autograd import api
from fanal.core.autograd.callbacks import drive, stepwise
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op
from fanal.core.tensor.sparse import ELSEWHERE, elsewhere


def event(name: str, fn: Callable, module: str = "fanal.autograd") -> Any:
    """Return the form of a function whose calls are events."""
    op = Op(name, fn)

    def slow(*args: Any, **kwargs: Any) -> Any:
        if ELSEWHERE:
            other = elsewhere(args, kwargs)
            if other is not None:
                return other(name, args, kwargs)
        return drive(dispatch(op, args, kwargs))

    return matcher.function(op.key, slow, fn.__name__, fn.__doc__, module)


backward = event("autograd.backward", stepwise(api.backward))
grad = event("autograd.grad", stepwise(api.grad))
