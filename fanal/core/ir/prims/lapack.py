"""The primitive of dense linear algebra: one row, one routine of `factor` a use.

A factorisation has several results, a value is one array: the parts of each matrix's result lie side by side
in the last dimension, in the dtype of the matrices (complex for `eig`), and `part` takes one out. Pivots and
`info` are whole numbers, exact there. Inputs are matrices (*, m, n) of one dtype and equal rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, broadcast_shapes
from fanal.core.ir.prims import factor
from fanal.core.ir.prims.batching import ranked
from fanal.core.ir.prims.contract import dot, swap
from fanal.core.ir.prims.index import gather
from fanal.core.ir.prims.point import add, conj, convert, div, eq, imag, le, mul, neg, num, real, sub, where
from fanal.core.ir.prims.reduce import sum_
from fanal.core.ir.prims.source import iota
from fanal.core.ir.prims.view import broadcast, concat, disjoint, reshape, slice_, span, update_slice, zeros
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, Row, prim

Result = list[Node | None]
Gradients = Sequence[Node | None]  # by part; None: the part has none


class Routine(NamedTuple):
    """One use of the row. run: (*arrays, *options) -> parts. shapes: (m, n, k, *options) -> the parts'
    shapes for one matrix, where the first operand is (m, n) and the last (., k). grad: (g, y, *inputs,
    *options) -> one node or None per input, from the parts' gradients `g` and the value `y`."""

    run: Callable
    shapes: Callable
    grad: Callable | None
    to_complex: bool = False


def _core(inputs: Sequence[Node], params: tuple) -> list[Shape]:
    m, n = inputs[0].shape[-2:]
    return [tuple(s) for s in ROUTINES[params[0]].shapes(m, n, inputs[-1].shape[-1], *params[1:])]


def _batch(inputs: Sequence[Node]) -> Shape:
    return broadcast_shapes(*(i.shape[:-2] for i in inputs))


def _shape(inputs: Sequence[Node], params: tuple) -> Shape:
    return (*_batch(inputs), sum(math.prod(s) for s in _core(inputs, params)))


def _dtype(inputs: Sequence[Node], params: tuple) -> dt.dtype:
    d = inputs[0].dtype
    return d.to_complex() if ROUTINES[params[0]].to_complex else d


def _ref(*args: Any) -> np.ndarray:
    k = next(i for i, a in enumerate(args) if isinstance(a, str))
    arrays, name, options = args[:k], args[k], args[k + 1 :]
    with np.errstate(all="ignore"):
        found = [np.asarray(p) for p in ROUTINES[name].run(*arrays, *options)]
    lead = np.broadcast_shapes(*(a.shape[:-2] for a in arrays))
    d = np.result_type(arrays[0].dtype, np.complex64) if ROUTINES[name].to_complex else arrays[0].dtype
    flat = [p.reshape(*lead, math.prod(p.shape[len(lead) :])).astype(d, copy=False) for p in found]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, -1)


def _grad(g: Node, y: Node, *rest: Any) -> Result:
    inputs, (name, *options) = y.inputs, y.params
    rule = ROUTINES[name].grad
    if rule is None:
        return [None] * len(inputs)
    gs = [_behind(g, a, b) for a, b in _places(y)]
    shaped = [
        None if x is None else reshape(x, (*y.shape[:-1], *s)) for x, s in zip(gs, _core(inputs, y.params))
    ]
    return rule(shaped, y, *inputs, *options)


# y = routine(*inputs); parameters: the name of the routine, its options.
lapack: Row = prim(
    "lapack",
    kind="opaque",
    arity=-1,
    shape=_shape,
    dtype=_dtype,
    ref=_ref,
    grad=_grad,
    batch=ranked,
    code=None,
    flops=lambda i, p: (
        2 * math.prod(_batch(i)) * math.prod(i[0].shape[-2:]) * max(i[0].shape[-1], i[-1].shape[-1])
    ),
)


def _places(y: Node) -> list[tuple[int, int]]:
    found, at = [], 0
    for s in _core(y.inputs, y.params):
        found.append((at, at + math.prod(s)))
        at = found[-1][1]
    return found


def part(y: Node, k: int) -> Node:
    """Return part `k` of a value of `lapack`, (*, ...)."""
    last = len(y.shape) - 1
    return reshape(span(y, last, *_places(y)[k]), (*y.shape[:-1], *_core(y.inputs, y.params)[k]))


def _behind(g: Node, start: int, stop: int) -> Node | None:
    """Return the gradient of one part, None if it is zero by construction: then nothing is to be computed
    for it, and no NaN can come of it (singular vectors that nobody uses, though singular values repeat)."""
    zero, lead, one = (0,) * (len(g.shape) - 1), g.shape[:-1], (1,) * len(g.shape)
    region = ((*zero, start), (*lead, stop), one)
    if g.row.name == "full" and g.params[1] == 0:
        return None
    if g.row is add and g.inputs[0].shape == g.inputs[1].shape:
        a, b = (_behind(x, start, stop) for x in g.inputs)
        return a if b is None else b if a is None else add(a, b)
    if g.row is update_slice:
        if g.params == region:
            return g.inputs[1]
        if disjoint(g.params, region):
            return _behind(g.inputs[0], start, stop)
    return slice_(g, *region)


# Small words for the rules.


def adjoint(x: Node) -> Node:
    """The conjugate transpose of matrices."""
    return conj(swap(x))


def triangle(x: Node, diagonal: int = 0, lower: bool = True) -> Node:
    """Keep the triangle of matrices below (or above) a diagonal."""
    rows, cols = iota(x.shape[-2:], 0, dt.int64), iota(x.shape[-2:], 1, dt.int64)
    edge = add(rows, num(rows, diagonal))
    return where(le(cols, edge) if lower else le(edge, cols), x, num(x, 0))


def eye(m: int, n: int) -> Node:
    """Return where the diagonal of a matrix is, (m, n)."""
    return eq(iota((m, n), 0, dt.int64), iota((m, n), 1, dt.int64))


def by_columns(x: Node, v: Node) -> Node:
    """Scale the columns of matrices by the elements of vectors."""
    return mul(x, reshape(convert(v, x.dtype), (*v.shape[:-1], 1, v.shape[-1])))


def diagonal_of(x: Node) -> Node:
    """The diagonals of square matrices, as vectors."""
    return sum_(where(eye(*x.shape[-2:]), x, num(x, 0)), (len(x.shape) - 1,))


def on_diagonal(v: Node, like: Node) -> Node:
    """Square matrices with vectors on the diagonal, in the dtype of `like`."""
    n = v.shape[-1]
    wide = reshape(convert(v, like.dtype), (*v.shape[:-1], 1, n))
    return where(eye(n, n), wide, num(wide, 0))


def pieces(x: Node, rows: tuple[int, int], cols: tuple[int, int]) -> Node:
    """Take a block out of matrices."""
    zero, lead, one = (0,) * (len(x.shape) - 2), x.shape[:-2], (1,) * len(x.shape)
    return slice_(x, (*zero, rows[0], cols[0]), (*lead, rows[1], cols[1]), one)


def triangular(t: Node, b: Node, upper: bool, unit: bool = False) -> Node:
    """X with t X = b for triangular t."""
    return part(lapack((t, b), "triangular", upper, unit), 0)


def triangular_right(b: Node, t: Node, upper: bool, unit: bool = False) -> Node:
    """X with X t^H = b for triangular t, of which `upper` tells the triangle."""
    return adjoint(triangular(t, adjoint(b), upper, unit))


def _half(x: Node) -> Node:
    return mul(x, num(x, 0.5))


def _plus(*xs: Node | None) -> Node | None:
    found = [x for x in xs if x is not None]
    total = found[0] if found else None
    for x in found[1:]:
        total = add(total, x)
    return total


# The rules. Sources: Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
# differentiation" (2008); Seeger et al., "Auto-differentiating linear algebra" (2017); Walter & Lehmann,
# "Algorithmic differentiation of linear algebra functions" (2010) for QR; Boeddeker et al., "On the
# computation of complex-valued gradients" (2017). E with E[j, k] = x[k] - x[j] has ones on its diagonal,
# where nothing is divided.


def _cholesky_grad(g: Gradients, y: Node, a: Node) -> Result:
    low = part(y, 0)
    s = triangle(dot(adjoint(low), g[0]))  # type: ignore[arg-type]
    s = where(eye(*s.shape[-2:]), _half(s), s)
    s = triangular_right(triangular(adjoint(low), s, True), adjoint(low), True)
    return [_half(add(s, adjoint(s)))]


def _from_cholesky_grad(g: Gradients, y: Node, f: Node, upper: bool) -> Result:
    inverse = part(y, 0)
    s = neg(dot(dot(inverse, add(g[0], adjoint(g[0]))), inverse))  # type: ignore[arg-type]
    return [triangle(dot(f, s) if upper else dot(s, f), lower=not upper)]


def _inverse_grad(g: Gradients, y: Node, a: Node) -> Result:
    inverse = adjoint(part(y, 0))
    return [neg(dot(dot(inverse, g[0]), inverse))]


def _solve_grad(g: Gradients, y: Node, a: Node, b: Node) -> Result:
    gb = part(lapack((adjoint(a), g[0]), "solve"), 0)
    return [neg(dot(gb, adjoint(part(y, 0)))) if a.varies else None, gb]


def _triangular_grad(g: Gradients, y: Node, t: Node, b: Node, upper: bool, unit: bool) -> Result:
    gb = triangular(adjoint(t), g[0], not upper, unit)  # type: ignore[arg-type]
    gt = None
    if t.varies:
        gt = triangle(neg(dot(gb, adjoint(part(y, 0)))), int(unit) if upper else -int(unit), not upper)
    return [gt, gb]


def row_order(pivots: Node, m: int, back: bool) -> Node:
    """The rows of P^T x, or of P x when `back`, in order: int64 (*, m). pivots: LAPACK's, (*, k)."""
    wide = reshape(convert(pivots, dt.float64), (*pivots.shape[:-1], 1, pivots.shape[-1]))
    order = part(lapack((wide,), "row_order", m, back), 0)
    return convert(reshape(order, (*pivots.shape[:-1], m)), dt.int64)


def take_rows(x: Node, order: Node) -> Node:
    """Matrices with their rows in another order. Shapes: (*, m, n), (*, m) -> (*, m, n)."""
    return gather(x, broadcast(reshape(order, (*order.shape, 1)), x.shape), len(x.shape) - 2)


def _lu_grad(g: Gradients, y: Node, a: Node) -> Result:
    f, gf = part(y, 0), g[0]
    assert gf is not None
    (m, n), k = f.shape[-2:], min(f.shape[-2:])
    top, left = (0, k), (0, k)
    square = pieces(f, top, left)
    inside = pieces(gf, top, left)
    low = triangle(square, -1)
    low = where(eye(*low.shape[-2:]), num(low, 1), low)
    up = triangle(square, lower=False)
    by_low, by_up = triangle(inside, -1), triangle(inside, lower=False)
    s = dot(adjoint(low), by_low)
    t = dot(by_up, adjoint(up))
    rest = None
    if n > m:
        g2, u2 = pieces(gf, top, (k, n)), pieces(f, top, (k, n))
        s, rest = sub(s, dot(g2, adjoint(u2))), triangular(adjoint(low), g2, True, True)
    elif m > n:
        g2, l2 = pieces(gf, (k, m), left), pieces(f, (k, m), left)
        rest = triangular_right(g2, up, True)
        t = sub(t, dot(adjoint(l2), g2))
    ga = add(triangle(s, -1), triangle(t, lower=False))
    ga = triangular_right(triangular(adjoint(low), ga, True, True), up, True)
    if rest is not None:
        ga = concat((ga, rest), len(ga.shape) - (1 if n > m else 2))
    return [take_rows(ga, row_order(part(y, 1), m, True))]


def _qr_grad(g: Gradients, y: Node, a: Node, complete: bool) -> Result:
    (m, n), k = a.shape[-2:], min(a.shape[-2:])
    if complete and m > n:
        raise RuntimeError(
            "The QR decomposition is not differentiable when mode='complete' and nrows > ncols"
        )
    q, r, (gq, gr), right = part(y, 0), part(y, 1), g, None
    if n > m:
        r1, r2 = pieces(r, (0, k), (0, k)), pieces(r, (0, k), (k, n))
        if gr is not None:
            g2 = pieces(gr, (0, k), (k, n))
            gq, right = _plus(gq, dot(dot(q, r2), adjoint(g2))), dot(q, g2)
            gr = pieces(gr, (0, k), (0, k))
        r = r1
    s = _plus(None if gr is None else dot(gr, adjoint(r)), None if gq is None else neg(dot(adjoint(q), gq)))
    if s is None:
        return [None]
    s = triangle(s, lower=False)
    s = add(s, adjoint(s))
    s = where(eye(*s.shape[-2:]), _half(s), s)
    ga = triangular_right(_plus(dot(q, s), gq), r, True)  # type: ignore[arg-type]
    if n > m:
        ga = concat(
            (ga, zeros((*ga.shape[:-1], n - m), ga.dtype) if right is None else right), len(ga.shape) - 1
        )
    return [ga]


def _gaps(x: Node) -> Node:
    """E[j, k] = x[k] - x[j], with ones on the diagonal."""
    n = x.shape[-1]
    e = sub(reshape(x, (*x.shape[:-1], 1, n)), reshape(x, (*x.shape[:-1], n, 1)))
    return where(eye(*e.shape[-2:]), num(e, 1), e)


def _eigh_grad(g: Gradients, y: Node, a: Node) -> Result:
    values, v, (gl, gv) = real(part(y, 0)), part(y, 1), g[:2]
    vh = adjoint(v)
    if gv is None:
        return [None if gl is None else dot(by_columns(v, gl), vh)]
    s = div(dot(vh, gv), convert(_gaps(values), v.dtype))
    s = where(eye(*s.shape[-2:]), num(s, 0) if gl is None else on_diagonal(real(gl), s), s)
    return [dot(dot(v, s), vh)]


def _eigvalsh_grad(g: Gradients, y: Node, a: Node) -> Result:
    return _eigh_grad([g[0], None], lapack((a,), "eigh"), a)


def _eig_grad(g: Gradients, y: Node, a: Node) -> Result:
    values, v, (gl, gv) = part(y, 0), part(y, 1), g[:2]
    vh = adjoint(v)
    if gv is None:
        if gl is None:
            return [None]
        return [part(lapack((vh, mul(reshape(gl, (*gl.shape, 1)), vh)), "solve"), 0)]
    s = dot(vh, gv)
    s = sub(s, by_columns(dot(vh, v), real(diagonal_of(s))))
    s = div(s, conj(_gaps(values)))
    s = where(eye(*s.shape[-2:]), num(s, 0) if gl is None else on_diagonal(gl, s), s)
    return [part(lapack((vh, dot(s, vh)), "solve"), 0)]


def _eigvals_grad(g: Gradients, y: Node, a: Node) -> Result:
    return _eig_grad([g[0], None], lapack((a,), "eig"), a)


def _skew(x: Node) -> Node:
    return sub(x, adjoint(x))


def _svd_grad(g: Gradients, y: Node, a: Node, full: bool) -> Result:
    (m, n), k = a.shape[-2:], min(a.shape[-2:])
    u, s, vh = pieces(part(y, 0), (0, m), (0, k)), real(part(y, 1)), pieces(part(y, 2), (0, k), (0, n))
    gu = None if g[0] is None else pieces(g[0], (0, m), (0, k))
    gs = None if g[1] is None else real(g[1])
    gv = None if g[2] is None else pieces(g[2], (0, k), (0, n))
    if gu is None and gv is None:
        return [None if gs is None else dot(by_columns(u, gs), vh)]
    e = convert(_gaps(mul(s, s)), u.dtype)
    rows = reshape(convert(s, u.dtype), (*s.shape, 1))
    by_u = None if gu is None else _skew(dot(adjoint(u), gu))
    by_v = None if gv is None else mul(rows, _skew(dot(vh, adjoint(gv))))
    mid = div(_plus(None if by_u is None else by_columns(by_u, s), by_v), e)
    mid = where(eye(*mid.shape[-2:]), num(mid, 0) if gs is None else on_diagonal(gs, mid), mid)
    if by_u is not None and by_v is not None and u.dtype.is_complex:  # the phase, which both share
        phase = div(diagonal_of(by_u), convert(add(s, s), u.dtype))
        mid = add(mid, on_diagonal(phase, mid))
    ga = dot(dot(u, mid), vh)
    if gu is not None and m > k:
        outside = by_columns(gu, div(num(s, 1), s))
        ga = add(ga, dot(sub(outside, dot(u, dot(adjoint(u), outside))), vh))
    if gv is not None and n > k:
        outside = div(gv, rows)
        ga = add(ga, dot(u, sub(outside, dot(dot(outside, adjoint(vh)), vh))))
    return [ga]


def _svdvals_grad(g: Gradients, y: Node, a: Node) -> Result:
    return _svd_grad([None, g[0], None], lapack((a,), "svd", False), a, False)


def _as_matrix(x: Node) -> Node:
    return reshape(x, (*x.shape, 1, 1))


def _det_grad(g: Gradients, y: Node, a: Node) -> Result:
    return [mul(_as_matrix(g[0]), adjoint(part(lapack((a,), "adjugate"), 0)))]  # type: ignore[arg-type]


def _adjugate_grad(g: Gradients, y: Node, a: Node) -> Result:
    inverse, (gy,) = part(lapack((a,), "inverse"), 0), g
    assert gy is not None
    det = _as_matrix(part(lapack((a,), "det"), 0))
    last = (len(gy.shape) - 2, len(gy.shape) - 1)
    trace = _as_matrix(sum_(mul(gy, conj(inverse)), last))
    turned = adjoint(inverse)
    return [sub(mul(trace, adjoint(part(y, 0))), dot(dot(turned, mul(gy, conj(det))), turned))]


def _slogdet_grad(g: Gradients, y: Node, a: Node) -> Result:
    sign, inverse = part(y, 0), adjoint(part(lapack((a,), "inverse"), 0))
    scale = None if g[1] is None else convert(real(g[1]), a.dtype)
    if g[0] is not None and a.dtype.is_complex:  # the angle of the sign turns
        turn = mul(convert(imag(mul(conj(sign), g[0])), a.dtype), num(sign, 1j))
        scale = _plus(scale, turn)
    return [None if scale is None else mul(_as_matrix(scale), inverse)]


def _expm_grad(g: Gradients, y: Node, a: Node) -> Result:
    """The derivative in a direction is a block of the exponential of a matrix twice as large.

    Source: Higham, "Functions of Matrices" (2008), 3.2, equation 3.16.
    """
    n, (gy,), turned = a.shape[-1], g, adjoint(a)
    rows, cols = len(a.shape) - 2, len(a.shape) - 1
    top = concat((turned, gy), cols)
    block = concat((top, concat((zeros(a.shape, a.dtype), turned), cols)), rows)
    return [pieces(part(lapack((block,), "expm"), 0), (0, n), (n, 2 * n))]


def _row_order(pivots: np.ndarray, m: int, back: bool) -> tuple[np.ndarray]:
    order = factor.permutation(pivots[..., 0, :].astype(np.int64), m)
    return ((np.argsort(order, -1) if back else order)[..., None, :],)


def _ldl_solve(f: np.ndarray, pivots: np.ndarray, b: np.ndarray, hermitian: bool) -> tuple:
    return factor.ldl_solve(f, pivots[..., 0, :], b, hermitian)


ROUTINES: dict[str, Routine] = {
    "cholesky": Routine(factor.cholesky, lambda m, n, k: ((n, n), ()), _cholesky_grad),
    "from_cholesky": Routine(factor.from_cholesky, lambda m, n, k, upper: ((n, n), ()), _from_cholesky_grad),
    "inverse": Routine(factor.inverse, lambda m, n, k: ((n, n), ()), _inverse_grad),
    "solve": Routine(factor.solve, lambda m, n, k: ((n, k), ()), _solve_grad),
    "triangular": Routine(
        lambda t, b, *o: (factor.substitute(t, b, *o),), lambda m, n, k, *o: ((n, k),), _triangular_grad
    ),
    "lu": Routine(factor.lu, lambda m, n, k: ((m, n), (min(m, n),), ()), _lu_grad),
    "row_order": Routine(_row_order, lambda m, n, k, rows, back: ((1, rows),), NO_GRADIENT),
    "qr": Routine(
        factor.qr,
        lambda m, n, k, full: ((m, m if full else min(m, n)), (m if full else min(m, n), n)),
        _qr_grad,
    ),
    "least_squares": Routine(factor.least_squares, lambda m, n, k: ((n, k), ()), NO_GRADIENT),
    "reflectors": Routine(factor.reflectors, lambda m, n, k: ((m, n), (min(m, n),)), NO_GRADIENT),
    "ldl": Routine(factor.ldl, lambda m, n, k, h: ((n, n), (n,), ()), NO_GRADIENT),
    "ldl_solve": Routine(_ldl_solve, lambda m, n, k, h: ((n, k),), NO_GRADIENT),
    "eigh": Routine(lambda a: factor.eigh(a, True), lambda m, n, k: ((n,), (n, n), ()), _eigh_grad),
    "eigvalsh": Routine(lambda a: factor.eigh(a, False), lambda m, n, k: ((n,), ()), _eigvalsh_grad),
    "eig": Routine(lambda a: factor.eig(a, True), lambda m, n, k: ((n,), (n, n), ()), _eig_grad, True),
    "eigvals": Routine(lambda a: factor.eig(a, False), lambda m, n, k: ((n,), ()), _eigvals_grad, True),
    "svd": Routine(
        factor.svd,
        lambda m, n, k, full: (
            (m, m if full else min(m, n)),
            (min(m, n),),
            (n if full else min(m, n), n),
            (),
        ),
        _svd_grad,
    ),
    "svdvals": Routine(factor.svdvals, lambda m, n, k: ((min(m, n),), ()), _svdvals_grad),
    "det": Routine(factor.det, lambda m, n, k: ((),), _det_grad),
    "slogdet": Routine(factor.slogdet, lambda m, n, k: ((), ()), _slogdet_grad),
    "adjugate": Routine(factor.adjugate, lambda m, n, k: ((n, n),), _adjugate_grad),
    "expm": Routine(factor.expm, lambda m, n, k: ((n, n),), _expm_grad),
}
