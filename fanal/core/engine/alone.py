"""Whether anybody but known segments holds a tensor from outside.

A layer writes to zeros that an earlier segment made, and what it has written gets a history; when the layer has returned,
only the results that follow from it are held. Whoever still held the zeros could begin a backward there.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from sys import getrefcount
from typing import Any

_LOOKED_AT = 1  # by so much more getrefcount counts the references to what an attribute holds


def references(segments: Iterable[Any]) -> Counter[int]:
    """Return how often segments refer to storages from outside, by their ids: of themselves, and by tensors that nobody
    else holds."""
    segments = list(segments)
    found = Counter(id(g.storage) for p in segments for g in p.groups if g.external)
    found.update(id(o._storage) for p in segments for o, g in zip(p.outs, p.out_groups) if p.groups[g].external)
    slots = [slot for p in segments for slot in p.slots if slot.tensor is not None]
    times = Counter(id(slot.tensor) for slot in slots)
    tensors = {id(slot.tensor): slot for slot in slots}
    found.update(id(slot.tensor._storage) for key, slot in tensors.items()
                 if getrefcount(slot.tensor) == times[key] + _LOOKED_AT)
    return found


def fade(path: Any, known: Iterable[Any]) -> bool:
    """Tell whether nobody holds what is not to be held after a run of `path`."""
    fading = [g for g in path.groups if g.fades]
    if not fading:
        return True
    found = references(known)
    return all(getrefcount(g.storage) == found[id(g.storage)] + _LOOKED_AT for g in fading)
