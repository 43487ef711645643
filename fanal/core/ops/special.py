"""Special functions: gamma, Bessel, normal distribution, orthogonal polynomials. The formulas are rows `special`."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops import pointwise, reduce
from fanal.core.ops.build import (
    Operand,
    dense,
    floating,
    node_of,
    public,
    result,
    result_type,
    unsupported,
    wide,
)
from fanal.core.ops.pointwise import with_gradient


def real_operand(input: Any, name: str) -> Node:
    """Return an operand in floating point. Raises NotImplementedError for complex numbers."""
    if input._dtype.is_complex:
        raise unsupported(name, input._dtype)
    return node_of(input, floating(input._dtype))


def _special(kind: str, name: str, doc: str, *, torch: bool = False, also: tuple[str, ...] = ()) -> Any:
    """Make an operator of one operand from a formula: torch.special.<name>, and torch.<kind> if wanted."""

    def fn(input: Any) -> Any:
        return result(P.special(real_operand(input, kind), kind), input)

    fn.__name__, fn.__doc__ = name, f"Return {doc} of each element. Integers are computed in the default dtype."
    public(name, module="special", method=False, out=True, aliases=also)(fn)
    if torch:
        public(kind, inplace=True, out=True)(fn)
    return fn


i0 = _special("i0", "i0", "the modified Bessel function I0", torch=True)
i0e = _special("i0e", "i0e", "exp(-|x|) I0(x)")
i1 = _special("i1", "i1", "the modified Bessel function I1")
i1e = _special("i1e", "i1e", "exp(-|x|) I1(x)")
erfcx = _special("erfcx", "erfcx", "exp(x**2) erfc(x)")
ndtri = _special("ndtri", "ndtri", "the quantile of the normal distribution")
erfinv = _special("erfinv", "erfinv", "the inverse of erf", torch=True)
digamma = _special("digamma", "digamma", "the logarithmic derivative of gamma", torch=True, also=("psi",))
lgamma = _special("lgamma", "gammaln", "the logarithm of the absolute value of gamma", torch=True)
airy_ai = _special("airy_ai", "airy_ai", "the Airy function Ai")
for _kind, _name, _doc in (
    ("j0", "bessel_j0", "the Bessel function J0"),
    ("j1", "bessel_j1", "the Bessel function J1"),
    ("y0", "bessel_y0", "the Bessel function Y0"),
    ("y1", "bessel_y1", "the Bessel function Y1"),
    ("k0", "modified_bessel_k0", "the modified Bessel function K0"),
    ("k1", "modified_bessel_k1", "the modified Bessel function K1"),
    ("k0e", "scaled_modified_bessel_k0", "exp(x) K0(x)"),
    ("k1e", "scaled_modified_bessel_k1", "exp(x) K1(x)"),
    ("spherical_j0", "spherical_bessel_j0", "sin(x) / x"),
    ("i0", "modified_bessel_i0", "the modified Bessel function I0"),
    ("i1", "modified_bessel_i1", "the modified Bessel function I1"),
):
    _special(_kind, _name, _doc)


# Functions of two operands.


def pair_nodes(a: Operand, b: Operand, name: str) -> tuple[Node, Node]:
    """Return two operands in their common floating dtype.

    Raises TypeError when neither is a tensor, NotImplementedError for complex numbers.
    """
    if not (isinstance(a, Handle) or isinstance(b, Handle)):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(a).__name__}")
    d = floating(result_type(a, b))
    if d.is_complex:
        raise unsupported(name, d)
    return node_of(a, d), node_of(b, d)


def _pair(kind: str, doc: str) -> Any:
    def fn(input: Operand, other: Operand) -> Any:
        return result(P.special2(*pair_nodes(input, other, kind), kind), input, other)

    fn.__name__, fn.__doc__ = kind, f"Return {doc}. Shapes broadcast; integers are computed in the default dtype."
    return fn


gammainc = _pair("gammainc", "the regularised lower incomplete gamma function P(input, other)")
gammaincc = _pair("gammaincc", "the regularised upper incomplete gamma function Q(input, other)")


def _igamma(name: str, fn: Any) -> None:
    """Make torch.<name>, which takes tensors only."""
    public(name, inplace=True, out=True, tensors=2)(fn)
    public(fn.__name__, module="special", method=False, out=True, tensors=2)(fn)


_igamma("igamma", gammainc)
_igamma("igammac", gammaincc)


def _polynomial(kind: str) -> None:
    def fn(input: Operand, n: Operand) -> Any:
        return result(P.special2(*pair_nodes(input, n, kind), kind), input, n)

    fn.__name__, fn.__doc__ = kind, f"Return the {kind.replace('_', ' ')} of degree `n`, 0 for negative degrees."
    public(kind, module="special", method=False, out=True)(fn)


for _letter in "tuvw":
    _polynomial(f"chebyshev_polynomial_{_letter}")
    _polynomial(f"shifted_chebyshev_polynomial_{_letter}")
for _name in ("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"):
    _polynomial(_name)


@public(module="special", method=False, out=True)
def zeta(input: Operand, other: Operand) -> Any:
    """Return the Hurwitz zeta function: the sum of (other + k)**-input over k >= 0."""
    x, q = pair_nodes(input, other, "zeta")
    if x.dtype not in (dt.float32, dt.float64):
        raise unsupported("zeta", x.dtype)
    return result(P.special2(x, q, "zeta"), input, other)


@public(method=False, out=True)
@public(module="special", method=False, out=True)
def polygamma(n: int, input: Any) -> Any:
    """Return the n-th derivative of digamma, n >= 0."""
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    x = real_operand(input, "polygamma")
    if n < 2:
        return result(P.special(x, "trigamma" if n else "digamma"), input)
    return result(P.special2(P.num(x, n), x, "polygamma"), input)


@public("polygamma", function=False, inplace=True)
def _polygamma(input: Any, n: int) -> Any:
    """Return the n-th derivative of digamma, n >= 0."""
    return polygamma(n, input)


@public(inplace=True, out=True)
@public("multigammaln", module="special", method=False, out=True)
def mvlgamma(input: Any, p: int) -> Any:
    """Return the logarithm of the multivariate gamma function of dimension p >= 1."""
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    x = real_operand(input, "mvlgamma")
    y = P.num(x, p * (p - 1) / 4 * math.log(math.pi))
    for i in range(p):
        y = P.add(P.special(P.sub(x, P.num(x, i / 2)), "lgamma"), y)
    return dense(y, input)


# Functions composed of others.


def _xlog(log: Any, at_zero: float) -> Any:
    """Make x * log(y) that is 0 where x is 0, unless y is NaN. `at_zero`: the y whose logarithm is -inf."""

    def node(x: Node, y: Node) -> Node:
        a, b = P.detach(x), P.detach(y)
        zero = P.num(x, 0)
        v = P.where(P.ne(b, b), b, P.where(P.eq(a, zero), zero, P.mul(a, log(b))))

        def rule(g: Node, v: Node, x: Node, y: Node) -> list[Node | None]:
            flat = P.and_(P.eq(x, P.num(x, 0)), P.le(y, P.num(y, at_zero)))
            by_y = P.div(P.mul(g, x), y if at_zero == 0 else P.sub(y, P.num(y, at_zero)))
            return [P.where(flat, P.num(y, 0), node(g, y)), by_y]

        return with_gradient(v, rule, x, y)

    def fn(input: Operand, other: Operand) -> Any:
        return result(node(*pair_nodes(input, other, "xlogy_cpu")), input, other)

    return fn


xlogy, xlog1py = _xlog(P.log, 0.0), _xlog(P.log1p, -1.0)
xlogy.__name__, xlogy.__doc__ = "xlogy", "Return input * log(other), 0 where input is 0 and other is not NaN."
xlog1py.__name__, xlog1py.__doc__ = "xlog1py", "Return input * log1p(other), 0 where input is 0."
public("xlogy", inplace=True, out=True)(xlogy)
public("xlogy", module="special", method=False, out=True)(xlogy)
public("xlog1py", module="special", method=False, out=True)(xlog1py)


@public(module="special", method=False, out=True)
def entr(input: Any) -> Any:
    """Return -x log(x): 0 at 0, and minus infinity below."""
    x = real_operand(input, "entr")
    d = P.detach(x)
    below = P.where(P.eq(d, P.num(d, 0)), P.num(d, 0), P.where(P.ne(d, d), d, P.num(d, -math.inf)))
    y = P.where(P.lt(P.num(d, 0), d), P.neg(P.mul(d, P.log(d))), below)
    rule = lambda g, y, x: [P.mul(g, P.sub(P.num(x, -1), P.log(x)))]
    return result(with_gradient(y, rule, x), input)


def logit_node(x: Node, eps: float | None) -> Node:
    """log(x / (1 - x)); with eps, of x limited to [eps, 1 - eps]."""
    d, one = P.detach(x), P.num(x, 1)
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)
    if eps is not None:
        d = P.min_(P.max_(d, P.num(d, low)), P.num(d, high))  # constants: one argument makes both, and the gradient

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        outside = P.or_(P.lt(x, P.num(x, low)), P.lt(P.num(x, high), x))
        x = P.where(outside, P.num(x, 0.5), x)  # derivatives of the quotient pass over 0 and 1 there, too
        slope = P.div(g, P.mul(x, P.sub(P.num(x, 1), x)))
        return [P.where(outside, P.num(g, math.nan if eps is None else 0.0), slope)]

    return with_gradient(P.log(P.div(d, P.sub(one, d))), rule, x)


@public(inplace=True, out=True)
@public(module="special", method=False, out=True)
def logit(input: Any, eps: float | None = None) -> Any:
    """Return log(input / (1 - input)), with input limited to [eps, 1 - eps] if eps is given."""
    return result(logit_node(real_operand(input, "logit"), eps), input)


@public(inplace=True, out=True)
@public(module="special", method=False, out=True)
def sinc(input: Any) -> Any:
    """Return sin(pi x) / (pi x), 1 at 0."""
    x = wide(node_of(input, floating(input._dtype)))
    turn = P.mul(P.detach(x), P.num(x, math.pi))
    zero = P.num(x, 0)
    y = P.where(P.eq(turn, zero), P.num(x, 1), P.div(P.sin(turn), turn))

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        t = P.mul(x, P.num(x, math.pi))
        slope = P.div(P.sub(P.mul(t, P.cos(t)), P.sin(t)), P.mul(t, x))
        flat = P.eq(P.mul(x, x), P.num(x, 0))
        return [P.mul(g, P.conj(P.where(flat, P.num(x, 0), slope)))]

    return result(P.convert(with_gradient(y, rule, x), floating(input._dtype)), input)


@public(module="special", method=False, out=True)
def ndtr(input: Any) -> Any:
    """Return the normal distribution function, erfc(-x / sqrt(2)) / 2."""
    x = real_operand(input, "ndtr")
    y = P.times(P.erfc(P.times(wide(x), -math.sqrt(0.5))), 0.5)
    return result(P.convert(y, x.dtype), input)


@public(module="special", method=False, out=True)
def log_ndtr(input: Any) -> Any:
    """Return the logarithm of the normal distribution function, exact far to the left."""
    x = real_operand(input, "log_ndtr")
    d = P.detach(x)
    t = P.mul(d, P.num(d, math.sqrt(0.5)))
    left = P.sub(P.log(P.mul(P.special(P.neg(t), "erfcx"), P.num(t, 0.5))), P.mul(t, t))
    right = P.log1p(P.mul(P.erfc(t), P.num(t, -0.5)))
    y = P.where(P.lt(d, P.num(d, -1)), left, right)

    def slope(x: Node) -> Node:
        t = P.mul(P.detach(x), P.num(x, -math.sqrt(0.5)))
        s = P.div(P.num(x, math.sqrt(2 / math.pi)), P.special(t, "erfcx"))
        return with_gradient(s, lambda g, s, x: [P.neg(P.mul(g, P.mul(s, P.add(x, s))))], x)

    return result(with_gradient(y, lambda g, y, x: [P.mul(g, slope(x))], x), input)


# torch.special's names for operators that stand elsewhere.

for _fn, *_names in (
    (pointwise.erf, "erf"),
    (pointwise.erfc, "erfc"),
    (pointwise.exp2, "exp2"),
    (pointwise.expm1, "expm1"),
    (pointwise.log1p, "log1p"),
    (pointwise.sigmoid, "expit"),
    (pointwise.round_, "round"),
    (reduce.logsumexp, "logsumexp"),
):
    for _name in _names:
        public(_name, module="special", method=False, out=True)(_fn)

