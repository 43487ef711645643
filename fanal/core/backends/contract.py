"""What an emitter hands to a backend: kernels to compile and launches to run.

Every kernel has the signature `void name(ptr args, i64 lo, i64 hi, ptr scratch)`. `args` points to 8-byte
words in the order of `Launch.args` (addresses of buffers and plain integers); [lo, hi) are the work units this
thread does; `scratch` is 64-byte aligned memory of its own. The bits of the result do not depend on how the
units are divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from fanal.core.compiler.steps import HostStep as HostStep  # re-exported: the other kinds of step
from fanal.core.compiler.steps import Planned as Planned
from fanal.core.compiler.steps import Repeat as Repeat


class Buf(NamedTuple):
    """An argument word holding the address of a value's buffer plus `offset` bytes; `step`: see `Repeat`."""

    value_id: int
    offset: int = 0
    step: int = 0


@dataclass(frozen=True)
class Temp:
    """A buffer that lives only between the launches of one list. Its id is negative, values' ids are not."""

    id: int
    nbytes: int
    reads: ClassVar[tuple[int, ...]] = ()  # which other steps have
    writes: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True)
class Kernel:
    """The unit of compilation: structure only, no shapes and no addresses."""

    name: str  # "k_" + the first 24 hex digits of SHA-256 over the canonical structure and the target
    source: Callable[[], str] = field(compare=False)  # LLVM IR defining `name`; called on a cache miss only
    opt: int = 1  # code generation level; explicit-vector kernels gain nothing from IR passes

    def compiled(self) -> Kernel:
        """Return it without its source, which holds all that the compiler knew of it."""
        return Kernel(self.name, _compiled, self.opt)


def _compiled() -> str:
    raise RuntimeError("the source of a kernel is not kept once it is compiled")


@dataclass
class Launch:
    """The unit of execution: one kernel with its arguments and work."""

    kernel: Kernel
    args: list[Buf | int]
    units: int  # independent pieces of work, divided statically over threads
    scratch: int  # bytes of scratch per thread
    flops: int
    nbytes: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    label: str
    where: list[Any] = field(default_factory=list)  # the user's lines (Node.where) of what was fused here
