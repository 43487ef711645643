"""Hand-written kernels and programs for the tests of the machine below the emitters."""
from __future__ import annotations

from fanal.core.backends.contract import Buf, Kernel, Launch
from fanal.core.base.dtype import float32
from fanal.core.compiler.steps import Buffer, Lowered

_MAP = """
define void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
  %x = load ptr, ptr %args, align 8
  %yp = getelementptr i8, ptr %args, i64 8
  %y = load ptr, ptr %yp, align 8
  %any = icmp slt i64 %lo, %hi
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ %lo, %entry ], [ %n, %loop ]
  %xp = getelementptr float, ptr %x, i64 %i
  %v = load float, ptr %xp, align 4
  %m = fmul float %v, {scale}
  %a = fadd float %m, {shift}
  %q = getelementptr float, ptr %y, i64 %i
  store float %a, ptr %q, align 4
  %n = add i64 %i, 1
  %more = icmp slt i64 %n, %hi
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""

# y[i] = x[0] + ... + x[n-1]: every unit reads all of x, so a missing barrier shows. Integers, exact in float.
_ALL = """
define void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
  %x = load ptr, ptr %args, align 8
  %yp = getelementptr i8, ptr %args, i64 8
  %y = load ptr, ptr %yp, align 8
  %np = getelementptr i8, ptr %args, i64 16
  %n = load i64, ptr %np, align 8
  br label %outer
outer:
  %i = phi i64 [ %lo, %entry ], [ %i1, %store ]
  %todo = icmp slt i64 %i, %hi
  br i1 %todo, label %inner, label %done
inner:
  %j = phi i64 [ 0, %outer ], [ %j1, %inner ]
  %s = phi float [ 0.0, %outer ], [ %s1, %inner ]
  %xp = getelementptr float, ptr %x, i64 %j
  %v = load float, ptr %xp, align 4
  %s1 = fadd float %s, %v
  %j1 = add i64 %j, 1
  %more = icmp slt i64 %j1, %n
  br i1 %more, label %inner, label %store
store:
  %w = fmul float %s1, {scale}
  %q = getelementptr float, ptr %y, i64 %i
  store float %w, ptr %q, align 4
  %i1 = add i64 %i, 1
  br label %outer
done:
  ret void
}}
"""


def affine(name: str, scale: float = 1.0, shift: float = 1.0) -> Kernel:
    """y[i] = x[i] * scale + shift."""
    return Kernel(name, lambda: _MAP.format(name=name, scale=repr(float(scale)), shift=repr(float(shift))))


def total(name: str, scale: float) -> Kernel:
    """y[i] = scale * sum(x)."""
    return Kernel(name, lambda: _ALL.format(name=name, scale=repr(float(scale))))


def launch(kernel: Kernel, x: int, y: int, size: int, *more: int, work: int | None = None) -> Launch:
    """A launch from value x to value y, `size` floats. `work` replaces its bytes, which decide on threads."""
    nbytes = 8 * size if work is None else work
    return Launch(kernel, [Buf(x), Buf(y), *more], size, 0, 2 * size, nbytes, (x,), (y,), kernel.name)


def buffers(ids: range, size: int) -> dict[int, Buffer]:
    return {i: Buffer(4 * size, (size,), float32) for i in ids}


def chain(length: int, size: int) -> Lowered:
    """length times x -> x * (i % 3) + 1."""
    steps = [launch(affine(f"k_chain{i % 3}", i % 3), i, i + 1, size) for i in range(length)]
    return Lowered(steps, [0], [length], buffers(range(1, length + 1), size), {})
