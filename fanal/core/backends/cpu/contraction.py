"""Contractions to launches: operands for the product and convolution generators, and tails as epilogues."""

from __future__ import annotations

from dataclasses import replace

from fanal.core.backends.contract import Buf, Launch, Temp
from fanal.core.backends.cpu.attention import attention_backward_launches, attention_launches
from fanal.core.backends.cpu.conv import conv_launches, input_gradient_launches, weight_gradient_launches
from fanal.core.backends.cpu.emit import REGISTER, Scalar, vector
from fanal.core.backends.cpu.epilogue import Epilogue, Site
from fanal.core.backends.cpu.loops import op_key, word_bits
from fanal.core.backends.cpu.matmul import Operand, matmul_launches
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import contiguous_strides
from fanal.core.compiler import tail as strided
from fanal.core.compiler.graph import Value
from fanal.core.compiler.tail import COLUMN, HERE, ROW, Tail
from fanal.core.ir.prims.attention import stats_at

CONVOLUTIONS = ("conv", "conv_dx", "conv_dw")
ATTENTION = ("attention", "attention_grad")


def attention(v: Value, operands: list[strided.Operand], target: Target) -> list[Temp | Launch]:
    """Return what computes attention or its gradient. Raises ValueError for a layout that cannot be read."""
    scale, causal = v.params
    q, k, x, *rest = (Operand(o.value.id, o.value.dtype, o.shape, o.strides, o.offset) for o in operands)
    (_, h, length, d), size = q.shape, v.dtype.itemsize
    if v.name == "attention":
        out = Operand(v.id, v.dtype, q.shape, (length * h * d, d, h * d, 1))
        mask = rest[0] if rest else None
        found = attention_launches(q, k, x, out, Buf(v.id, stats_at(q.shape) * size), scale, causal, mask, target)
    else:
        stats, g = rest[:2]
        mask = rest[2] if len(rest) > 2 else None
        if not operands[3].contiguous:
            raise ValueError("the statistics of attention are read contiguously")
        row = 3 * h * d
        dq, dk, dv = (Operand(v.id, v.dtype, q.shape, (length * row, d, row, 1), i * h * d) for i in range(3))
        found = attention_backward_launches(
            q, k, x, stats.buf, g, dq, dk, dv, scale, causal, mask, target
        )
    return [
        replace(x, where=[v.where] if v.where is not None else []) if isinstance(x, Launch) else x
        for x in found
    ]


def contract_launches(
    v: Value, operands: list[strided.Operand], tail: Tail, target: Target, sparing: bool = False
) -> list[Temp | Launch]:
    """Return what computes a contraction and its tail; sparing: see `matmul_launches`.

    Raises ValueError for a layout that cannot be read.
    """
    epilogue, out_id, out_dtype = _epilogue(v, tail)
    a, b = (Operand(o.value.id, o.value.dtype, o.shape, o.strides, o.offset, o.fixed) for o in operands)
    out = Operand(out_id, out_dtype, v.shape, contiguous_strides(v.shape))
    if v.name == "dot":
        found = matmul_launches(a, b, out, epilogue, target, sparing, v.split)
    else:
        for o in operands:
            if not o.contiguous:
                raise ValueError("convolutions read contiguous operands")
        a, b = (replace(o, strides=contiguous_strides(o.shape)) for o in (a, b))
        if v.name == "conv":
            stride, padding, dilation, groups = v.params
            found = conv_launches(a, b, out, stride, padding, dilation, groups, epilogue, target)
        elif v.name == "conv_dx":
            found = input_gradient_launches(a, b, out, *v.params[1:], epilogue, target)
        else:
            found = weight_gradient_launches(a, b, out, *v.params[1:], target)
    where = ([v.where] if v.where is not None else []) + [w for w in tail.where if w != v.where]
    return [replace(x, where=where) if isinstance(x, Launch) else x for x in found]


def _epilogue(v: Value, tail: Tail) -> tuple[Epilogue | None, int, DType]:
    """Return the tail as an epilogue, and the id and dtype of the output its last value of that dtype goes to."""
    if len(tail.stores) == 1 and tail.stores[0][0] == 0:
        return None, tail.stores[0][1].id, v.dtype  # maybe a broadcast of it, which adds dimensions of size 1
    main = next((s for s in reversed(tail.stores) if s[1].dtype is v.dtype), tail.stores[-1])
    extra = [s for s in tail.stores if s is not main]
    words: list[Buf | int] = []
    at: dict[int, int] = {}
    key: list[str] = []
    reads: list[int] = []
    for i, op in enumerate(tail.ops):
        if op.kind == "load":
            source, how = op.params
            at[i] = len(words)
            words.append(Buf(source.id))
            reads.append(source.id)
            key.append(f"load {how}:{op.dtype.name}")
        elif op.kind == "word":
            at[i] = len(words)
            words.append(word_bits(op.params, op.dtype))
            key.append(f"word:{op.dtype.name}")
        elif op.kind in ("result", "index"):
            key.append(op.kind)
        else:
            key.append(op_key(op))
    first = len(words)
    words += [Buf(s.id) for _, s in extra]
    key += [f"{i}->{s.dtype.name}" for i, s in extra] + [f"{main[0]}->"]
    ops, places, last = tail.ops, [i for i, _ in extra], main[0]

    def emit(site: Site, acc: Scalar) -> Scalar:
        e, w = site.e, site.writer
        values: list[Scalar] = [acc]
        for i, op in enumerate(ops[1:], 1):
            if op.kind == "point":
                x = op.params[0].code(e, *(values[a] for a in op.args), *op.params[1:])
            elif op.kind == "const":
                x = e.const(op.params, op.dtype)
            elif op.kind == "word":
                x = _splat_word(site, at[i], op.dtype)
            elif op.kind == "index":
                lanes = ", ".join(f"i64 {k}" for k in range(site.lanes))
                kind = f"<{site.lanes} x i64>"
                x = Scalar(w.let(f"add {kind} {w.splat(kind, site.offset)}, <{lanes}>"), dt.int64, site.lanes)
            else:
                how = op.params[1]
                x = (
                    site.load(at[i], site.offset if how == HERE else site.col, op.dtype)
                    if how in (HERE, COLUMN)
                    else site.load_splat(at[i], site.row if how == ROW else "0", op.dtype)
                )
            values.append(x)
        for n, i in enumerate(places):
            site.store(first + n, site.offset, values[i])
        return values[last]

    cost = sum(
        max(1, op.params[0].flops if isinstance(op.params[0].flops, int) else 1) if op.kind == "point" else 1
        for op in ops[1:]
    )
    beside = [(at[i], op.dtype.itemsize) for i, op in enumerate(ops) if op.kind == "load" and op.params[1] == HERE]
    beside += [(first + n, s.dtype.itemsize) for n, (_, s) in enumerate(extra)]
    made = Epilogue(
        ";".join(key),
        emit,
        tuple(words),
        cost,
        tail.flops,
        tuple(reads),
        tuple(s.id for _, s in extra),
        "+".join(tail.names),
        v.dtype,
        tuple(beside),
    )
    return made, main[1].id, main[1].dtype


def _splat_word(site: Site, word: int, dtype: DType) -> Scalar:
    w, kind = site.writer, REGISTER[dtype]
    bits = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "float": 32}.get(kind, 64)
    x = site.word(word)
    if bits < 64:
        x = w.let(f"trunc i64 {x} to i{bits}")
    if kind in ("float", "double"):
        x = w.let(f"bitcast i{bits} {x} to {kind}")
    return Scalar(w.splat(vector(kind, site.lanes), x), dtype, site.lanes)
