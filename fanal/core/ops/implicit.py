"""Samples of gamma and Dirichlet distributions as differentiable functions of their parameters.

A sample x of parameter a moves so that its probability F(x; a) stays: dx/da = -(dF/da) / (dF/dx).
Source: Figurnov, Mohamed & Mnih, "Implicit reparameterization gradients" (NeurIPS 2018). Both derivatives are
one integral over a tail of the density f, by Gauss and Legendre's rule: dF/da is that of (d log f / da) f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.ir import prims as P
from fanal.core.ir.prims.special import ARRAYS, FORMULAS
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, result
from fanal.core.ops.pointwise import with_gradient

_ROOTS, _PARTS = np.polynomial.legendre.leggauss(48)
# u in [0, 1], and s = end * u**2: nodes lie closer where the integrand is largest
_NODES, _WEIGHTS = ((_ROOTS + 1) / 2) ** 2, _PARTS * (_ROOTS + 1) / 2
_NEGLIGIBLE = 45.0  # exp(-45) adds nothing to a float64
_CHUNK = 1 << 9  # samples worked on at a time


def _tail_integral(log_ratio: Callable, score: Callable, end: np.ndarray) -> np.ndarray:
    """Integrate exp(log_ratio(s)) * score(s) over s >= 0. log_ratio falls from 0, concave, and is negligible
    at `end`.
    """
    low = np.zeros_like(end)
    for _ in range(16):  # where the integrand dies out
        middle = (low + end) / 2
        dead = log_ratio(middle) < -_NEGLIGIBLE
        end, low = np.where(dead, middle, end), np.where(dead, low, middle)
    s = end * _NODES[:, None]
    return end * (_WEIGHTS[:, None] * np.exp(log_ratio(s)) * score(s)).sum(0)


def _gamma_slope(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx/da of a gamma sample, with t = x exp(-s) in the lower tail and x exp(s) in the upper."""
    side = np.where(x < a, -1.0, 1.0)
    log_x, psi = np.log(x), FORMULAS["digamma"](ARRAYS, a)
    upper = np.minimum(np.sqrt(2 * _NEGLIGIBLE / x), 2 * np.log1p(_NEGLIGIBLE / x) + 2)
    end = np.where(x < a, (_NEGLIGIBLE + x) / a, upper)
    # the density at t over that at x, with the factor t of dt = t ds
    log_ratio = lambda s: side * a * s - x * np.expm1(side * s)
    return side * x * _tail_integral(log_ratio, lambda s: log_x + side * s - psi, end)


def _beta_slope(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx/da / (1 - x) of a sample of Beta(a, b), with logit(t) = logit(x) - s or + s."""
    lower = x < a / (a + b)
    side = np.where(lower, -1.0, 1.0)
    log_x, log_rest = np.log(x), np.log1p(-x)
    shift = FORMULAS["digamma"](ARRAYS, a) - FORMULAS["digamma"](ARRAYS, a + b)
    log_t = lambda s: -np.logaddexp(log_x, log_rest - side * s)  # log(t / x)
    log_other = lambda s: -np.logaddexp(log_x + side * s, log_rest)  # log((1 - t) / (1 - x))
    end = (_NEGLIGIBLE - (a + b) * np.where(lower, log_rest, log_x)) / np.where(lower, a, b)
    log_ratio = lambda s: a * log_t(s) + b * log_other(s)
    return side * x * _tail_integral(log_ratio, lambda s: log_x + log_t(s) - shift, end)


def _by_chunks(f: Callable) -> Callable:
    """Return a function of arrays of one shape, computed in float64, a part at a time."""

    def call(*arrays: np.ndarray) -> np.ndarray:
        flat = [np.ascontiguousarray(v, np.float64).reshape(-1) for v in np.broadcast_arrays(*arrays)]
        out = np.empty(flat[0].size, arrays[0].dtype)
        with np.errstate(all="ignore"):
            for k in range(0, out.size, _CHUNK):
                out[k : k + _CHUNK] = f(*(v[k : k + _CHUNK] for v in flat))
        return out.reshape(np.broadcast_shapes(*(v.shape for v in arrays)))

    return call


_gamma = _by_chunks(_gamma_slope)
_dirichlet = _by_chunks(lambda x, a, total: _beta_slope(a, total - a, x))


def _no_second(name: str) -> Callable:
    def rule(*_: Any) -> list[Node | None]:
        raise RuntimeError(f"derivative for {name} is not implemented")

    return rule


def _gamma_node(alpha: Node, x: Node) -> Node:
    slope = P.host((P.detach(alpha), P.detach(x)), _gamma, x.shape, x.dtype)
    return with_gradient(slope, _no_second("aten::_standard_gamma_grad"), alpha)


def _dirichlet_node(x: Node, alpha: Node, total: Node) -> Node:
    inputs = (P.detach(x), P.detach(alpha), P.detach(total))
    slope = P.host(inputs, _dirichlet, x.shape, x.dtype)
    return with_gradient(slope, _no_second("aten::_dirichlet_grad"), alpha)


@public("_standard_gamma_grad", method=False)
def standard_gamma_grad(input: Any, output: Any) -> Any:
    """Return the derivative of a gamma sample `output` by its shape parameter `input`."""
    return result(_gamma_node(read(input), read(output)), input)


@public("_dirichlet_grad", method=False)
def dirichlet_grad(x: Any, alpha: Any, total: Any) -> Any:
    """Return dx/da / (1 - x) of a coordinate of a Dirichlet sample: a beta number."""
    return result(_dirichlet_node(read(x), read(alpha), read(total)), x)


@public("_gamma_sample", method=False)
def gamma_sample(alpha: Any, sample: Any) -> Any:
    """Return a gamma sample as a function of its shape parameter. Shapes: the same for both."""
    rule = lambda g, y, alpha: [P.mul(g, _gamma_node(alpha, y))]
    return result(with_gradient(read(sample), rule, read(alpha)), sample)


@public("_dirichlet_sample", method=False)
def dirichlet_sample(alpha: Any, sample: Any) -> Any:
    """Return a Dirichlet sample as a function of its concentrations, those along the last dimension.

    Where one coordinate moves, the others give way in proportion.
    """

    def rule(g: Node, y: Node, alpha: Node) -> list[Node | None]:
        last = (len(y.shape) - 1,)
        row = (*y.shape[:-1], 1)
        total = P.broadcast(P.reshape(P.sum_(alpha, last), row), y.shape)
        mean = P.reshape(P.sum_(P.mul(y, g), last), row)
        return [P.mul(_dirichlet_node(y, alpha, total), P.sub(g, mean))]

    return result(with_gradient(read(sample), rule, read(alpha)), sample)
