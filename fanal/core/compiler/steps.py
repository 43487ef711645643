"""What the compiler hands to the engine: an ordered list of steps over numbered values."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
class Lowered:
    """A program as launches and host steps.

    Value ids are small integers. `inputs[i]` is the id of program input i. `known` holds values already in memory
    that steps read. `outputs[i]` is the id holding program output i: the id of input j where the program says that
    output i replaces input j, else a buffer of its own. `buffers` describes every id that is neither an input nor
    known. `checks` are (id of an int64 buffer of one element, error, message): a plan must zero that buffer before it
    runs and, afterwards, raise the error with the message, {index} filled in, when it is no longer 0; it then holds
    1 + the bad index when that is >= 0, else the bad index itself.
    """

    steps: list[Any]
    inputs: list[int]
    outputs: list[int]
    buffers: dict[int, Buffer]
    known: dict[int, np.ndarray]
    checks: list[tuple[int, type[Exception], str]] = field(default_factory=list)
