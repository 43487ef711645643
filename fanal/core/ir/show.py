"""Programs as text: Python that rebuilds them, with shapes, dtypes and the user's lines in comments."""

from __future__ import annotations

from fanal.core.base import dtype as dt
from fanal.core.base.where import show as line
from fanal.core.ir.program import Node, Program

_RENAMED = {
    "abs": "abs_",
    "and": "and_",
    "convert": "convert",
    "input": "input_",
    "max": "max_",
    "min": "min_",
    "not": "not_",
    "or": "or_",
    "pow": "pow_",
    "round": "round_",
    "slice": "slice_",
    "sum": "sum_",
}


def _text(p: object) -> str:
    if isinstance(p, dt.dtype):
        return "dt." + ("bool_" if p.name == "bool" else p.name)
    if isinstance(p, float) and (p != p or p in (float("inf"), -float("inf"))):
        return f"float('{p}')"
    if isinstance(p, tuple):
        return "(" + ", ".join(_text(x) for x in p) + ("," if len(p) == 1 else "") + ")"
    return getattr(p, "__qualname__", None) or repr(p)


def show(program: Program) -> str:
    """Return Python source that defines `program`.

    Values that are known, and parameters that are functions, are named in comments: they are not in the text.
    """
    names: dict[int, str] = {}
    lines = [
        "from fanal.core.base import dtype as dt",
        "from fanal.core.ir import prims as P",
        "from fanal.core.ir.program import Program",
        "",
    ]
    width = 0
    rows: list[tuple[str, Node]] = []

    def give(n: Node, prefix: str) -> str:
        return names.setdefault(id(n), f"{prefix}{len(names)}")

    def source(n: Node) -> str:
        if id(n) not in names:
            rows.append((f"{give(n, 'k')} = P.input_({_text(tuple(n.shape))}, {_text(n.dtype)})", n))
        return names[id(n)]

    for n in program.inputs:
        rows.append((f"{give(n, 'x')} = P.input_({_text(tuple(n.shape))}, {_text(n.dtype)})", n))
    for n in program.nodes:
        if id(n) in names:
            continue
        if n.buffer is not None:
            source(n)
            continue
        inputs = [source(i) for i in n.inputs]
        head = ["[" + ", ".join(inputs) + "]"] if n.row.arity < 0 else inputs
        name = _RENAMED.get(n.row.name, n.row.name)
        rows.append((f"{give(n, 'v')} = P.{name}({', '.join([*head, *(_text(p) for p in n.params)])})", n))
    outputs = [source(o) for o in program.outputs]
    width = min(84, max((len(t) for t, _ in rows), default=0))
    for text, n in rows:
        note = f"{n.dtype.name}{list(n.shape)}" + (", known" if n.buffer is not None else "")
        lines.append(f"{text:{width}}  # {note}{'  ' + line(n.where) if n.where else ''}")
    nodes = [names[id(n)] for n in program.nodes if names[id(n)][0] == "v"]
    lines += [
        "",
        f"program = Program([{', '.join(names[id(n)] for n in program.inputs)}], [{', '.join(nodes)}],",
        f"                  [{', '.join(outputs)}], {program.writes!r}"
        + (f", {program.gradients!r})" if program.gradients else ")"),
    ]
    return "\n".join(lines) + "\n"
