"""What the operators of linear algebra ask of their operands, and the errors when it is not so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.errors import LinAlgError
from fanal.core.base.shape import broadcast_shapes
from fanal.core.engine.record import session, unfollowable
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import read, unsupported
from fanal.core.tensor.tensor import compute

LAPACK = (dt.float32, dt.float64, dt.complex64, dt.complex128)


def need_matrix(t: Any, name: str, what: str = "A") -> None:
    """Raise unless `t` has at least two dimensions."""
    if len(t._shape) < 2:
        raise RuntimeError(f"{name}: The input tensor {what} must have at least 2 dimensions.")


def need_square(t: Any, name: str) -> None:
    """Raise unless `t` is made of square matrices."""
    need_matrix(t, name)
    m, n = t._shape[-2:]
    if m != n:
        raise RuntimeError(f"{name}: A must be batches of square matrices, but they are {m} by {n} matrices")


def need_floating(t: Any, name: str, low: bool = True) -> None:
    """Raise for integers, and for 16-bit floats unless `low`."""
    if t._dtype.category < 2:
        found = dt.scalar_name(t._dtype)
        raise RuntimeError(f"{name}: Expected a floating point or complex tensor as input. Got {found}")
    if not low and t._dtype not in LAPACK:
        raise RuntimeError(f"{name}: Low precision dtypes not supported. Got {dt.scalar_name(t._dtype)}")


def need_kernel(t: Any, kernel: str) -> None:
    """Raise for dtypes that LAPACK does not have, naming PyTorch's kernel."""
    if t._dtype not in LAPACK:
        raise unsupported(kernel, t._dtype)


def need_same(a: Any, b: Any, name: str) -> None:
    """Raise unless two operands have one dtype."""
    if a._dtype is not b._dtype:
        x, y = dt.scalar_name(a._dtype), dt.scalar_name(b._dtype)
        raise RuntimeError(
            f"{name}: Expected A and B to have the same dtype, but found A of type {x} and B of type {y} "
            f"instead"
        )


def need_fitting(a: Any, b: Any, left: bool, name: str) -> None:
    """Raise unless AX = B (or XA = B) has shapes that fit; A is square."""
    if (a._shape[-2] != b._shape[-2]) if left else (a._shape[-1] != b._shape[-1]):
        sizes = "({}x{} and {}x{})".format(*a._shape[-2:], *b._shape[-2:])
        raise RuntimeError(
            f"{name}: Incompatible shapes of A and B for the equation {'AX = B' if left else 'XA = B'} "
            f"{sizes}"
        )


def failure(name: str, text: str, kind: type[Exception] = LinAlgError) -> Callable[[Any], None]:
    """Return a function that raises `kind` for the first nonzero element of info; `text` has a {} for it."""

    def check(info: Any) -> None:
        if session.levels:  # inside a mapped function: looked at when it has ended
            if session.depth:
                unfollowable("a factorisation is checked later")
            session.checks.append((check, info))
            return
        codes = np.asarray(compute(info))
        if codes.any():
            at = int((codes.reshape(-1) != 0).argmax())
            where = f"(Batch element {at}): " if codes.ndim else ""
            raise kind(f"{name}: {where}{text.format(int(codes.reshape(-1)[at]))}")

    return check


svd_failed = failure(
    "linalg.svd", "The algorithm failed to converge because the input matrix contained non-finite values."
)


def together(*xs: Any) -> list[Node]:
    """Return matrices as values of their common batch shape."""
    nodes = [x if isinstance(x, Node) else read(x) for x in xs]
    lead = broadcast_shapes(*(n.shape[:-2] for n in nodes))
    return [P.broadcast(n, (*lead, *n.shape[-2:])) for n in nodes]


def whole_part(y: Node, k: int) -> Node:
    """Return pivots or info: whole numbers, int32."""
    return P.convert(P.detach(P.real(P.part(y, k))), dt.int32)
