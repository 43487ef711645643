"""What is going on while a vmapped function runs: one level for each of those that are nested."""

from __future__ import annotations

from collections.abc import Callable

from fanal.core.engine.handle import Storage, births
from fanal.core.engine.record import session, unfollowable
from fanal.core.ir.batch import Batch, number
from fanal.core.ir.prims import take
from fanal.core.ir.program import Node, Shape

RANDOM = (
    "vmap: called random operation while in randomness error mode. Please either use the 'same' or 'different' "
    "randomness flags on vmap or perform the randomness operation out of vmap"
)
SAME = (
    "Vmap does not currently support same randomness with a batched tensor input: draw outside of the vmap, or with "
    "randomness='different'."
)
DYNAMIC = (
    "vmap: a value was asked for that differs between the examples. We do not support batching operators that can "
    "output dynamic shape, or that need to see values before they can go on."
)
ITEM = (
    "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over calling .item() on a Tensor, "
    "please try to rewrite what you're doing with other operations."
)
CONTROL_FLOW = (
    "vmap: It looks like you're attempting to use a Tensor in some data-dependent control flow. We don't support that: "
    "use torch.where or masks, which do both sides."
)
ESCAPED = (
    "vmap: Either your tensor may have escaped from inside a function being vmapped, and it has no value outside of it "
    "(see https://pytorch.org/functorch/stable/ux_limitations.html): return it from the function."
)


class Level:
    """A vmapped function that runs now, recorded for the example of an unknown number.

    `batch` is None where the call is followed: then nothing is recorded. `segment` is the one in which it began;
    storages born earlier are shared by all examples.
    """

    __slots__ = ("batch", "born", "randomness", "segment", "size")

    def __init__(self, size: int, randomness: str, recorded: bool) -> None:
        self.size, self.randomness = size, randomness
        self.batch = Batch(number(), size) if recorded else None
        self.segment = session.segment
        self.born = next(births)

    def example(self, x: Node, dim: int) -> Node:
        """Return the part of a value that belongs to the example."""
        assert self.batch is not None
        return take(x, self.batch.number, dim)


def enter(size: int, randomness: str) -> Level:
    """Begin a level that is recorded."""
    session.vmapped = True
    level = Level(size, randomness, True)
    session.levels.append(level)
    return level


def leave() -> None:
    """End the innermost level."""
    level = session.levels.pop()
    if level.segment != session.segment:
        unfollowable("a value was read inside a function that is mapped")


def check_written(storage: Storage, new: Node) -> None:
    """Raise PyTorch's error if what differs between the examples is written where all of them look."""
    for level in session.levels:
        b = level.batch
        if b is not None and storage.born < level.born and b.of(new) is not None:
            raise RuntimeError(
                "vmap: inplace arithmetic(self, *extra_args) is not possible because there exists a Tensor `other` in "
                "extra_args that has more elements than `self`. This happened due to `other` being vmapped over but "
                "`self` not being vmapped over in a vmap. Please try to use out-of-place operators instead of inplace "
                "arithmetic."
            )


def unknowable(text: str) -> RuntimeError:
    """Return the error about a value that belongs to one example, whichever it is."""
    return RuntimeError(text if session.levels else ESCAPED)


def own_draws() -> list[Level]:
    """Return the levels, outermost first, in which every example draws random numbers of its own.

    Raises PyTorch's error where a level allows no random numbers.
    """
    if not session.levels:
        return []
    if any(level.randomness == "error" for level in session.levels):
        raise RuntimeError(RANDOM)
    return [level for level in session.levels if level.randomness == "different"]


def for_each(shape: Shape, draw: Callable[[Shape], Node]) -> Node:
    """Return a draw for every example that has one of its own, or one that all share."""
    levels = own_draws()
    drawn = draw((*[level.size for level in levels], *shape))
    for level in levels:
        drawn = level.example(drawn, 0)
    return drawn
