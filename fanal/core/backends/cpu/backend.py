"""The CPU as the compiler sees it: what it can compute, and how loops and contractions become launches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fanal.core.backends.contract import Launch, Temp
from fanal.core.backends.cpu import jit
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.contraction import ATTENTION, CONVOLUTIONS, attention, contract_launches
from fanal.core.backends.cpu.emit import FLOAT_ONLY, STORED
from fanal.core.backends.cpu.fft import fft_launches
from fanal.core.backends.cpu.lapack import lapack_launch
from fanal.core.backends.cpu.launch import loop_launches
from fanal.core.backends.cpu.matmul import TILED
from fanal.core.backends.cpu.parts import convert_launch, copy_launch
from fanal.core.backends.cpu.pool import POOLS, pool_launches
from fanal.core.backends.cpu.scan import scan_launch
from fanal.core.backends.cpu.scatter import scatter_launches
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler import tail as strided
from fanal.core.compiler.graph import Value
from fanal.core.compiler.loopir import Loop
from fanal.core.compiler.steps import Lowered, Repeat
from fanal.core.compiler.tail import Tail

_ROUTINES: dict[str, Callable[[Value, Target], Any]] = {
    "fft": fft_launches,
    "lapack": lapack_launch,
    "scan": scan_launch,
    "recast": copy_launch,
    "reshape": copy_launch,
    "convert": convert_launch,
}


class CpuBackend:
    """Lowers for one instruction set."""

    def __init__(self, target: Target | None = None, sparing: bool = False, as_many: bool = False) -> None:
        """sparing: prefer kernels that are there to those that are a little faster. as_many: let few rows be summed on
        the way, as many are."""
        self.target = target or targets.host()
        self.sparing, self.as_many = sparing, as_many

    def stores(self, dtype: DType) -> bool:
        """Tell whether kernels can load and store a dtype."""
        return dtype in STORED and (dtype is not dt.float16 or self.target.name != "sse2")

    def supports(self, v: Value) -> bool:
        """Tell whether kernels can compute a value of stored dtypes from inputs of stored dtypes."""
        row = v.row
        if row is None or row.code is None:
            return False
        return _emits(row.name, *(i.dtype for i in v.inputs), v.dtype)

    def special(self, v: Value) -> bool:
        """Tell whether there is a generator for a contraction or another kind of its own."""
        if v.name == "dot":
            kinds = tuple(i.dtype for i in v.inputs)
            able = v.dtype.is_floating_point or (bool(v.params) and self.target.tiles and kinds in TILED)
            return able and all(i.size for i in v.inputs)
        if v.name in CONVOLUTIONS:
            return (
                v.dtype in (dt.float32, dt.float64)
                and 3 <= len(v.shape) <= 5
                and all(i.size for i in v.inputs)
            )
        if v.name in POOLS or v.name in ATTENTION:
            return True
        if v.name == "fold":
            return v.dtype not in dt.ACCUMULATE
        if v.name in ("put", "scatter"):
            return v.params[1] == "set" or v.dtype not in dt.ACCUMULATE
        return False

    def scatter(self, v: Value) -> list[Temp | Launch]:
        """Return the launches that write `put` or `scatter` over a copy of its first operand."""
        return scatter_launches(v, self.target)

    def by_size(self, v: Value) -> bool:
        """Tell whether the launches of a contraction are planned for sizes that have no names."""
        return v.name in POOLS or v.name in CONVOLUTIONS

    def contract(self, v: Value, operands: list[strided.Operand], tail: Tail) -> list[Temp | Launch]:
        """Return the launches of a contraction and its tail. Raises ValueError for a layout it cannot read."""
        if v.name in POOLS:
            return pool_launches(v, operands, self.target)
        if v.name in ATTENTION:
            return attention(v, operands, self.target)
        return contract_launches(v, operands, tail, self.target, self.sparing)

    def routine(self, v: Value) -> list[Temp | Launch] | None:
        """Return the launches of a value that else its NumPy reference computes, or None."""
        make = _ROUTINES.get(v.name)
        found = make(v, self.target) if make else None
        return [found] if isinstance(found, Launch) else found

    def loop(self, loop: Loop) -> list[Temp | Launch]:
        """Return the launches of a loop."""
        return loop_launches(loop, self.target)


@functools.cache
def _emits(name: str, *dtypes: DType) -> bool:
    first, out = dtypes[0], dtypes[-1]
    if name in FLOAT_ONLY:
        return first.is_floating_point
    if name == "convert":  # out-of-range conversion to uint64 differs between machines
        return not (first.is_floating_point and out is dt.uint64)
    if name == "bitcast":
        return first.itemsize == out.itemsize
    if name == "fmod":
        return first is not dt.bool_
    if name in ("neg", "sign", "abs"):
        return first is not dt.bool_ or name == "abs"
    if name in ("and", "or", "not"):
        return not first.is_floating_point
    if name in ("shl", "shr", "idiv"):
        return first.category == 1
    return name not in ("conj", "real", "imag")


@functools.cache
def default(sparing: bool = False, as_many: bool = False) -> Any:
    """Return the backend of this machine."""
    return CpuBackend(None, sparing, as_many)


def ready(lowered: Lowered) -> bool:
    """Tell whether every kernel of a program is there; not asked of what is planned by size."""
    launches = (x for step in lowered.steps for x in (step.launches if isinstance(step, Repeat) else [step]))
    return all(jit.known(x.kernel.name) for x in launches if isinstance(x, Launch))
