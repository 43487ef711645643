"""The ordered list of stages from a program to launches."""
from __future__ import annotations

from typing import Any

from fanal.core.compiler.steps import Buffer, HostStep, Lowered
from fanal.core.ir.program import Program


def _host(fn, params):
    if not params:
        return fn
    return lambda *a: fn(*a, *params)


def lower(program: Program, backend: Any = None) -> Lowered:
    ids: dict[int, int] = {}
    shapes: dict[int, tuple] = {}
    known = {}
    buffers = {}
    steps = []
    for n in program.inputs:
        ids.setdefault(id(n), len(ids))
    inputs = [ids[id(n)] for n in program.inputs]

    def vid(n):
        k = ids.get(id(n))
        if k is None:
            k = ids[id(n)] = len(ids)
            if n.buffer is not None:
                known[k] = n.buffer
        return k

    made = set()
    for n in program.nodes:
        if n.buffer is not None or id(n) in ids:
            continue
        i = tuple(vid(x) for x in n.inputs)
        o = vid(n)
        made.add(o)
        buffers[o] = Buffer(n.nbytes, n.shape, n.dtype)
        steps.append(HostStep(_host(n.row.ref, n.params), i, tuple(x.shape for x in n.inputs), o, n.row.name, [n.where]))
    outputs = []
    fresh = max(ids.values(), default=-1) + 1
    for k, n in enumerate(program.outputs):
        src = vid(n)
        j = program.writes.get(k)
        if j is not None:
            dst = inputs[j]
        elif src in made and src not in outputs:
            outputs.append(src)
            continue
        else:
            fresh = max([fresh, *ids.values()]) + 1
            dst = fresh
            buffers[dst] = Buffer(n.nbytes, n.shape, n.dtype)
        outputs.append(dst)
        if dst != src:
            steps.append(HostStep(lambda x: x, (src,), (n.shape,), dst, "copy", [n.where]))
    return Lowered(steps, inputs, outputs, buffers, known)
