"""What the compiler hands to the engine: an ordered list of steps over numbered values."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from fanal.core.base.dim import now
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import Shape


class Buffer(NamedTuple):
    """Memory a plan must provide: C-contiguous."""

    nbytes: int
    shape: Shape
    dtype: DType


@dataclass
class HostStep:
    """A primitive computed by its NumPy reference between launches: `fn(*arrays) -> array`.

    `inputs` and `output` are value ids; `shapes` are what the input buffers are to be viewed as. The result has the
    output buffer's shape and dtype after a cast, and is stored C-contiguous.
    """

    fn: Callable[..., Any]
    inputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    output: int
    label: str
    where: list[Any] = field(default_factory=list)

    @property
    def reads(self) -> tuple[int, ...]:
        return self.inputs

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)


@dataclass
class Repeat:
    """Launches that are made for every place of a sequence, one place after the other.

    What an argument points to lies `step` bytes further on (`Buf`) at each place than at the one before.
    """

    launches: list[Any]
    count: int  # places
    reverse: bool  # from the last place to the first
    where: list[Any] = field(default_factory=list)

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(value for launch in self.launches for value in launch.reads))

    @property
    def writes(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(value for launch in self.launches for value in launch.writes))

    @property
    def label(self) -> str:
        return "repeated: " + ", ".join(launch.label for launch in self.launches)

    @property
    def flops(self) -> int:
        return self.count * sum(launch.flops for launch in self.launches)

    @property
    def nbytes(self) -> int:
        return self.count * sum(launch.nbytes for launch in self.launches)

    def unrolled(self) -> Iterator[Any]:
        """Yield the launches of every place."""
        for place in reversed(range(self.count)) if self.reverse else range(self.count):
            for launch in self.launches:
                args = [a if isinstance(a, int) else a._replace(offset=a.offset + a.step * place, step=0)
                        for a in launch.args]
                yield replace(launch, args=args)


class OtherSize(Exception):
    """What is planned for the present sizes has no place in the program: another must be made for them."""


SPARE = 1  # launches and temporaries that a plan for another size may have more


class Planned:
    """Launches that follow from the sizes in ways that no formula tells: they are planned anew for every size.

    `plan` returns temporary buffers and launches with plain numbers; `number` gives a buffer an id.
    """

    def __init__(self, plan: Callable[[], list[Any]], number: Callable[[], int]) -> None:
        self.plan = plan
        made = plan()
        launches = sum(hasattr(item, "kernel") for item in made)
        self.room = launches + SPARE
        self._ids = [number() for _ in range(len(made) - launches + SPARE)]
        self.take(made)
        self.label, self.where = ", ".join(x.label for x in self.launches), self.launches[0].where

    def fits(self, made: list[Any]) -> bool:
        """Tell whether there is room for a plan."""
        launches = sum(hasattr(item, "kernel") for item in made)
        return 0 < launches <= self.room and len(made) - launches <= len(self._ids)

    def take(self, made: list[Any]) -> None:
        """Go over to a plan that fits."""
        temps = [item for item in made if not hasattr(item, "kernel")]
        ids = {temp.id: i for temp, i in zip(temps, self._ids)}
        self.temps = dict.fromkeys(self._ids, 0) | {ids[temp.id]: temp.nbytes for temp in temps}
        self.launches = [renumbered(item, ids) for item in made if hasattr(item, "kernel")]

    @property
    def rows(self) -> list[Any]:
        """As many launches as there is room for: those at the end do nothing."""
        nothing = replace(self.launches[0], args=[], units=0, scratch=0, flops=0, nbytes=0, reads=(), writes=())
        return self.launches + [nothing] * (self.room - len(self.launches))

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(value for launch in self.launches for value in launch.reads))

    @property
    def writes(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((*self._ids, *(value for launch in self.launches for value in launch.writes))))

    @property
    def flops(self) -> int:
        return sum(launch.flops for launch in self.launches)

    @property
    def nbytes(self) -> int:
        return sum(launch.nbytes for launch in self.launches)


def renumbered(launch: Any, ids: dict[int, int]) -> Any:
    """Return a launch with other ids for some buffers."""
    if not ids:
        return launch
    args = [a if isinstance(a, int) else a._replace(value_id=ids.get(a.value_id, a.value_id)) for a in launch.args]
    return replace(launch, args=args, reads=tuple(ids.get(r, r) for r in launch.reads),
                   writes=tuple(ids.get(w, w) for w in launch.writes))


def settled(launch: Any) -> Any:
    """Return a launch as it is for the present sizes."""
    args = [now(a) if isinstance(a, int) else a._replace(offset=now(a.offset)) for a in launch.args]
    return replace(launch, args=args, units=now(launch.units), scratch=now(launch.scratch), flops=now(launch.flops),
                   nbytes=now(launch.nbytes))


@dataclass
class Lowered:
    """A program as launches, repeated ones among them, and host steps.

    Value ids are small integers. `inputs[i]` is the id of program input i. `known` holds values already in memory
    that steps read. `outputs[i]` is the id holding program output i: the id of input j where the program says that
    output i replaces input j, else a buffer of its own. `buffers` describes every id that is neither an input nor
    known. `checks` are (id of an int64 buffer of one element, size): a plan must zero that buffer before it runs and,
    afterwards, raise an error when it is no longer 0. It then holds 1 + the index that is out of bounds for that size
    when it is >= 0, else the index itself; with size 0, which no index has, a number was divided by zero.
    `gradients` are the program outputs that come and go together.
    """

    steps: list[Any]
    inputs: list[int]
    outputs: list[int]
    buffers: dict[int, Buffer]
    known: dict[int, np.ndarray]
    checks: list[tuple[int, int]] = field(default_factory=list)
    gradients: tuple[int, ...] = ()


def failed(code: int, size: int) -> Exception:
    """Return the error that a check which holds `code` stands for."""
    if not size:
        return RuntimeError("ZeroDivisionError")
    return IndexError(f"index {code - 1 if code > 0 else code} is out of bounds for dimension with size {size}")
