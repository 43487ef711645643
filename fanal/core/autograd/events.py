"""backward(), grad() and the parts of function transforms as events, for the public modules above the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.autograd import api, transforms
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op
from fanal.core.tensor.sparse import ELSEWHERE, elsewhere


def _event(name: str, fn: Callable) -> Any:
    op = Op(name, fn)

    def slow(*args: Any, **kwargs: Any) -> Any:
        if ELSEWHERE:
            other = elsewhere(args, kwargs)
            if other is not None:
                return other(name, args, kwargs)
        return dispatch(op, args, kwargs)

    return matcher.function(op.key, slow, fn.__name__, fn.__doc__, "fanal.autograd")


backward = _event("autograd.backward", api.backward)
grad = _event("autograd.grad", api.grad)
variable = _event("autograd.variable", transforms.variable)
pulled = _event("autograd.pulled", transforms.pulled)
settled = _event("autograd.settled", transforms.settled)
