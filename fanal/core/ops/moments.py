"""Covariance and correlation."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import floating, node_of, public, read, wrap
from fanal.core.ops.factory import complex_node
from fanal.core.ops.pointwise import with_gradient
from fanal.core.tensor.tensor import compute


def _weights(w: Any, name: str, observations: int) -> None:
    found = dt.scalar_name(w._dtype)
    if len(w._shape) > 1:
        raise RuntimeError(
            f"cov(): expected {name} to have one or fewer dimensions but got {name} with {len(w._shape)} "
            f"dimensions"
        )
    if name == "fweights" and w._dtype.category != 1:
        raise RuntimeError(
            f"cov(): expected fweights to have integral dtype but got fweights with {found} dtype"
        )
    if name == "aweights" and w._dtype.category != 2:
        raise RuntimeError(
            f"cov(): expected aweights to have floating point dtype but got aweights with {found} dtype"
        )
    if w.numel() != observations:
        raise RuntimeError(
            f"cov(): expected {name} to have the same numel as there are observations in the input but got "
            f"{w.numel()} != {observations}"
        )
    if (compute(w) < 0).any():
        raise RuntimeError(f"cov(): {name} cannot be negative")


@public()
def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Return the covariance matrix of variables in rows, observed in columns.

    Shapes: (v, n) -> (v, v); a vector is one variable. fweights: how often each observation was seen;
    aweights: how much it counts. Divides by n - correction.
    """
    rank = len(input._shape)
    if rank > 2:
        raise RuntimeError(
            f"cov(): expected input to have two or fewer dimensions but got an input with {rank} dimensions"
        )
    if input._dtype is dt.bool_:
        raise RuntimeError("cov(): bool dtype is not supported for input")
    d = floating(input._dtype)
    if aweights is not None:
        d = dt.promote_types(d, aweights._dtype)
    x = node_of(input, d)
    x = x if rank == 2 else P.reshape(x, (1, x.size))
    n = x.shape[1]
    w: Node | None = None
    real = d.to_real()
    for t, name in ((fweights, "fweights"), (aweights, "aweights")):
        if t is not None:
            _weights(t, name, n)
            v = P.reshape(node_of(t, real), (n,))
            w = v if w is None else P.mul(w, v)
    if w is None:
        total = P.full((), n, real)
        mean = P.div(P.sum_(x, (1,)), P.num(x, n))
    else:
        total = P.sum_(w, (0,))
        mean = P.div(P.sum_(P.mul(x, P.convert(w, d)), (1,)), P.convert(total, d))
    c = P.sub(x, P.reshape(mean, (x.shape[0], 1)))
    if aweights is None or correction == 0:
        norm = P.sub(total, P.num(total, correction))
    else:
        assert w is not None
        own = P.mul(w, P.reshape(node_of(aweights, real), (n,)))
        norm = P.sub(total, P.div(P.mul(P.num(total, correction), P.sum_(own, (0,))), total))
    norm = P.max_(norm, P.num(norm, 0))
    right = P.conj(c if w is None else P.mul(c, P.convert(w, d)))
    y = P.div(P.dot(c, P.permute(right, (1, 0))), P.convert(norm, d))
    return wrap(P.reshape(y, ()) if y.shape == (1, 1) else P.alias(y))


@public()
def corrcoef(input: Any) -> Any:
    """Return Pearson's correlations of variables in rows, observed in columns, clipped to [-1, 1]."""
    rank = len(input._shape)
    if rank > 2:
        raise RuntimeError(
            f"corrcoef(): expected input to have two or fewer dimensions but got an input with {rank} "
            f"dimensions"
        )
    c = read(cov(input))
    if not c.shape:
        return wrap(P.div(c, c))
    n = c.shape[0]
    sd = P.sqrt(P.real(P.sum_(P.where(P.eye(n, n), c, P.num(c, 0)), (1,))))
    wide = P.convert(sd, c.dtype)
    y = P.div(P.div(c, P.reshape(wide, (n, 1))), P.reshape(wide, (1, n)))
    if y.dtype.is_complex:
        return wrap(complex_node(_clipped(P.real(y)), _clipped(P.imag(y))))
    return wrap(_clipped(y))


def _clipped(y: Node) -> Node:
    """Limit to [-1, 1]; the gradient passes where nothing was cut off, the ends included."""
    one, low = P.num(y, 1), P.num(y, -1)
    d = P.detach(y)
    inside = P.and_(P.le(low, d), P.le(d, one))
    return with_gradient(P.min_(P.max_(d, low), one), lambda g, c, y: [P.where(inside, g, P.num(g, 0))], y)
