"""Calls of built-in layers as one event each: what the engine must know to recognise such a call by its module.

The call of a layer depends on its argument, and on what the layer holds: its entries in `__dict__` (where parameters,
buffers, children and options stand, see `mirror`), and the `forward` of its class. Those are facts that the native
matcher asks for at once. A `Sequential` of such layers is such a layer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import finalize

from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Handle
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, name, session, unfollowable
from fanal.core.engine.tables import VERSION, Fact, Watch

# The files whose layers are one event each.
TOPICS = frozenset((
    "activation", "batchnorm", "channelshuffle", "conv", "dropout", "flatten", "fold", "instancenorm", "linear",
    "normalization", "padding", "pixelshuffle", "pooling", "sparse", "upsampling",
))
NONE, LAYER, CONTAINER = range(3)
# Of what every module has, what no layer's forward reads: tensors are read where they are mirrored.
_UNREAD = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))
KINDS: dict[type, int] = {}  # what the calls of a class are
# Classes of which somebody makes a layer for a single call, as in `nn.MaxPool2d(2)(x)`: the next one is another layer,
# so a call by itself is as many events as operators it calls.
_fleeting: set[type] = set()
_watched: set[int] = set()  # ids of layers without tensors that are there, of which a call was recorded


def kind_of(cls: type) -> int:
    """Return what calls of a class are: not one event, that of a layer, or that of a container of layers."""
    kind = KINDS.get(cls)
    if kind is None:
        home, _, topic = cls.__module__.rpartition(".")
        if home != __name__.rpartition(".")[0] or not VERSION or matcher.name != "native":
            kind = NONE  # the Python twin would compare facts one by one: calling is faster
        else:
            kind = LAYER if topic in TOPICS else CONTAINER if cls.__name__ == "Sequential" else NONE
        KINDS[cls] = kind
    return kind


def is_one_event(module: Any) -> bool:
    """Tell whether a call of `module` may be one event: no hooks, no other forward, and so for what it holds."""
    kind = kind_of(type(module))
    if not kind or module._hooked or "forward" in module.__dict__:
        return False
    return kind == LAYER or all(map(is_one_event, module._modules.values()))


def facts(module: Any) -> list[Fact]:
    """Return what a call of `module` depends on besides its arguments; name its tensors to the engine."""
    own = module.__dict__
    found: list[Fact] = [(type(module), "forward", type(module).forward)]
    for key, value in own.items():
        if isinstance(value, Handle):
            name(value)
        if key not in _UNREAD and not hasattr(value, "_modules"):
            found.append((own, key, value))
    if kind_of(type(module)) == CONTAINER:
        found.append((own, "_modules", module._modules))
        for key, child in module._modules.items():
            found.append((module._modules, key, child))
            found += facts(child)
    return found


def _run(module: Any, *args: Any) -> Any:
    event = session.event
    if event is not None:
        event.watch = Watch(facts(module))  # here: what runs before the flush may change them
        if id(module) not in _watched and not (module._parameters or module._buffers or module._modules):
            _watched.add(id(module))
            finalize(module, _gone, id(module), type(module), session.segment).atexit = False
        if event.manual:
            unfollowable("a layer has tensors of a class with __torch_function__")
    session.opaque = False  # an error inside names the operation that failed, not the layer
    try:
        return module.forward(*args)
    finally:
        session.opaque = True


def _gone(number: int, cls: type, segment: int) -> None:
    """Take notice that a layer is gone of which a call was recorded, the first time in this segment: if it is gone
    before the next segment ends, it was made for the call."""
    _watched.discard(number)
    if session.segment <= segment + 1:
        _fleeting.add(cls)


_CALL = Op("nn.Module.__call__", _run, explains=False)


def callable_of(cls: type, slow: Any) -> Any:
    """Return what stands as `__call__` in the class of modules; `slow` is what calls that were not followed run."""
    if matcher.name != "native":
        return slow
    return matcher.method(cls, _CALL.key, slow, "__call__", slow.__doc__)


class _Apart(threading.local):
    depth = 0


_apart = _Apart()


@contextmanager
def apart() -> Iterator[None]:
    """Let layers be as many events as operators they call: for a while they have tensors that no fact can name."""
    _apart.depth += 1
    try:
        yield
    finally:
        _apart.depth -= 1


def follows(module: Any, args: tuple) -> bool:
    """Tell whether a call of `module` made here and now is an event of its own."""
    return session.depth == 0 and not _apart.depth and not session.asked and is_one_event(module) and \
        type(module) not in _fleeting and not any(isinstance(a, Handle) and a._asked for a in args)


def one_event(module: Any, args: tuple) -> Any:
    """Follow or record the call of a layer."""
    return dispatch(_CALL, (module, *args), {})
