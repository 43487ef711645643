"""What the compiler hands to the engine: an ordered list of steps over numbered values."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

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


@dataclass
class Lowered:
    """A program as launches, repeated ones among them, and host steps.

    Value ids are small integers. `inputs[i]` is the id of program input i. `known` holds values already in memory
    that steps read. `outputs[i]` is the id holding program output i: the id of input j where the program says that
    output i replaces input j, else a buffer of its own. `buffers` describes every id that is neither an input nor
    known. `checks` are (id of an int64 buffer of one element, size): a plan must zero that buffer before it runs and,
    afterwards, raise an error when it is no longer 0. It then holds 1 + the index that is out of bounds for that size
    when it is >= 0, else the index itself; with size 0, which no index has, a number was divided by zero.
    """

    steps: list[Any]
    inputs: list[int]
    outputs: list[int]
    buffers: dict[int, Buffer]
    known: dict[int, np.ndarray]
    checks: list[tuple[int, int]] = field(default_factory=list)


def failed(code: int, size: int) -> Exception:
    """Return the error that a check which holds `code` stands for."""
    if not size:
        return RuntimeError("ZeroDivisionError")
    return IndexError(f"index {code - 1 if code > 0 else code} is out of bounds for dimension with size {size}")
