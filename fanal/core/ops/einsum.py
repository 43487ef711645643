"""Einstein summation: the formula is read here, and becomes products of matrices from left to right."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, wrap

Labels = tuple[int, ...]  # one number per dimension; dimensions of an ellipsis count from _ELLIPSIS on
_ELLIPSIS = 256


def _letters(text: str, where: str) -> list[int | None]:
    """Return the labels of one operand; None stands for the ellipsis."""
    out: list[int | None] = []
    i = 0
    while i < len(text):
        c = text[i]
        if c == " ":
            i += 1
        elif c == ".":
            if text[i : i + 3] != "...":
                raise RuntimeError(f"einsum(): found '.' {where} that is not part of any ellipsis")
            if None in out:
                raise RuntimeError(f"einsum(): found '.' {where} for which an ellipsis was already found")
            out.append(None)
            i += 3
        elif c.isascii() and c.isalpha():
            out.append(ord(c))
            i += 1
        else:
            raise RuntimeError(
                f"einsum(): invalid subscript given at index {i} in the equation string, "
                "subscripts must be in [a-zA-Z]"
            )
    return out


def _sublist(items: Any) -> list[int | None]:
    out: list[int | None] = []
    for i in items:
        if i is Ellipsis:
            out.append(None)
        elif not 0 <= i < 52:
            raise RuntimeError(f"einsum(): expected subscripts in [0, 52), but got {i}")
        else:
            out.append(ord("A") + i if i < 26 else ord("a") + i - 26)
    return out


def _expand(labels: list[int | None], ndim: int, operand: int, spread: int) -> Labels:
    """Replace an ellipsis by as many labels as it covers, aligned at the right."""
    named = len(labels) - (None in labels)
    if ndim < named or (ndim > named and None not in labels):
        raise RuntimeError(
            f"einsum(): the number of subscripts in the equation ({named}) "
            + ("is more than" if None in labels else "does not match")
            + f" the number of dimensions ({ndim}) for operand {operand}"
            + (" and no ellipsis was given" if None not in labels else "")
        )
    out: list[int] = []
    for x in labels:
        if x is None:
            n = ndim - named
            out.extend(range(_ELLIPSIS + spread - n, _ELLIPSIS + spread))
        else:
            out.append(x)
    return tuple(out)


def _diagonal(x: Node, labels: Labels) -> tuple[Node, Labels]:
    """Keep only the diagonal where a label stands twice."""
    while len(set(labels)) < len(labels):
        i = next(i for i, v in enumerate(labels) if v in labels[i + 1 :])
        j = labels.index(labels[i], i + 1)
        n = x.shape[i]
        rest = [d for d in range(len(labels)) if d not in (i, j)]
        x = P.permute(x, (*rest, i, j))
        lead = tuple(x.shape[:-2])
        flat = P.reshape(x, (*lead, n * n))
        x = P.slice_(flat, (0,) * (len(lead) + 1), (*lead, n * n), (*(1,) * len(lead), n + 1))
        labels = (*(labels[d] for d in rest), labels[i])
    return x, labels


def _sum_out(x: Node, labels: Labels, needed: set[int]) -> tuple[Node, Labels]:
    """Sum over the labels that are not needed: integers in int64, as `sum` does."""
    dims = tuple(d for d, v in enumerate(labels) if v not in needed)
    if dims and x.dtype.category < 2:
        x = P.convert(x, dt.int64)
    return P.sum_(x, dims), tuple(v for v in labels if v in needed)


def _arranged(x: Node, labels: Labels, *groups: list[int]) -> Node:
    """Permute to the groups' order and make each group one dimension."""
    order = tuple(labels.index(v) for group in groups for v in group)
    x = P.permute(x, order)
    shape, at = [], 0
    for group in groups:
        shape.append(math.prod(x.shape[at : at + len(group)]))
        at += len(group)
    return P.reshape(x, tuple(shape))


def _product(a: Node, la: Labels, b: Node, lb: Labels, needed: set[int]) -> tuple[Node, Labels]:
    """Multiply two operands and sum over the labels nobody needs any more."""
    sizes: dict[int, int] = {}
    for x, labels in ((a, la), (b, lb)):
        for n, v in zip(x.shape, labels):
            sizes[v] = n if sizes.get(v, 1) == 1 else sizes[v]
    a, la = _sum_out(a, la, needed | set(lb))
    b, lb = _sum_out(b, lb, needed | set(la))
    if a.dtype is not b.dtype:
        if max(a.dtype.category, b.dtype.category) > 1 and any(v in lb and v not in needed for v in la):
            raise RuntimeError(f"expected scalar type {a.dtype} but found {b.dtype}")
        both = dt.promote_types(a.dtype, b.dtype)
        a, b = P.convert(a, both), P.convert(b, both)
    shared = [v for v in la if v in lb]
    a = P.broadcast(a, tuple(sizes[v] for v in la))
    b = P.broadcast(b, tuple(sizes[v] for v in lb))
    batch = [v for v in shared if v in needed]
    inner = [v for v in shared if v not in needed]
    left, right = [v for v in la if v not in lb], [v for v in lb if v not in la]
    out = (*batch, *left, *right)
    shape = tuple(sizes[v] for v in out)
    if not inner:
        x, y = _arranged(a, la, batch, left, []), _arranged(b, lb, batch, [], right)
        return P.reshape(P.mul(x, y), shape), out
    if not batch:
        return P.reshape(P.dot(_arranged(a, la, left, inner), _arranged(b, lb, inner, right)), shape), out
    return P.reshape(
        P.dot(_arranged(a, la, batch, left, inner), _arranged(b, lb, batch, inner, right)), shape
    ), out


def _read_formula(equation: str, count: int) -> tuple[list[list[int | None]], list[int | None] | None]:
    left, arrow, right = equation.partition("->")
    terms = [_letters(t, f"for operand {i}") for i, t in enumerate(left.split(","))]
    if len(terms) < count:
        raise RuntimeError("einsum(): more operands were provided than specified in the equation")
    if len(terms) > count:
        raise RuntimeError("einsum(): fewer operands were provided than specified in the equation")
    return terms, _letters(right, "in the output") if arrow else None


@public(method=False)
def einsum(*args: Any) -> Any:
    """Return the sum of products that a formula describes: einsum("ij,jk->ik", a, b), or einsum(a, [0, 1], b, [1, 2]).

    Operands are taken from left to right.
    """
    if len(args) < 2:
        raise ValueError(
            "einsum(): must specify the equation string and at least one operand, or at least "
            "one operand and its subscripts list"
        )
    goal: list[int | None] | None
    if isinstance(args[0], str):
        tensors = list(args[1:])
        if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
            tensors = list(tensors[0])
        terms, goal = _read_formula(args[0], len(tensors))
    else:
        tensors = list(args[0 : len(args) // 2 * 2 : 2])
        terms = [_sublist(s) for s in args[1::2]]
        goal = _sublist(args[-1]) if len(args) % 2 else None
    nodes = [read(t) for t in tensors]
    spread = max([len(n.shape) - len(t) + 1 for n, t in zip(nodes, terms) if None in t], default=0)
    spread = max(spread, 0)
    labels = [_expand(t, len(n.shape), i, spread) for i, (n, t) in enumerate(zip(nodes, terms))]
    _check_sizes(nodes, labels)
    ellipsis = list(range(_ELLIPSIS, _ELLIPSIS + spread))
    if goal is None:
        seen = [v for row in labels for v in row if v < _ELLIPSIS]
        out = ellipsis + sorted(v for v in set(seen) if seen.count(v) == 1)
    else:
        out = []
        for v in goal:
            out.extend(ellipsis if v is None else [v])
        for v in out:
            if v < _ELLIPSIS and out.count(v) > 1:
                raise RuntimeError(
                    f"einsum(): output subscript {chr(v)} appears more than once in the output"
                )
            if v < _ELLIPSIS and not any(v in row for row in labels):
                raise RuntimeError(
                    f"einsum(): output subscript {chr(v)} does not appear in the equation "
                    "for any input operand"
                )
    parts = [_diagonal(n, row) for n, row in zip(nodes, labels)]
    x, have = parts[0]
    for k, (y, other) in enumerate(parts[1:], 2):
        later = set(out).union(*(row for _, row in parts[k:]))
        x, have = _product(x, have, y, other, later)
    x, have = _sum_out(x, have, set(out))
    return wrap(P.permute(x, tuple(have.index(v) for v in out)))


def _check_sizes(nodes: list[Node], labels: list[Labels]) -> None:
    sizes: dict[int, int] = {}
    for i, (n, row) in enumerate(zip(nodes, labels)):
        for d, v in enumerate(row):
            j = row.index(v)
            if n.shape[j] != n.shape[d]:
                raise RuntimeError(
                    f"einsum(): subscript {chr(v)} is repeated for operand {i} but the sizes don't match, "
                    f"{n.shape[d]} != {n.shape[j]}"
                )
        for size, v in zip(n.shape, row):
            known = sizes.get(v, 1)
            if known != 1 and size not in (1, known):
                name = chr(v) if v < _ELLIPSIS else "..."
                raise RuntimeError(
                    f"einsum(): subscript {name} has size {size} for operand {i} which does "
                    f"not broadcast with previously seen size {known}"
                )
            if known == 1:
                sizes[v] = size
