"""Special functions of one number in double precision: the references of primitives without generated code."""

from __future__ import annotations

import math

import numpy as np


def scalar_map(f):  # type: ignore[no-untyped-def]
    """Make a reference from a function of one Python float, computed in double precision."""
    table = np.frompyfunc(f, 1, 1)

    def call(x):  # type: ignore[no-untyped-def]
        return np.asarray(table(np.asarray(x, np.float64))).astype(x.dtype)

    return call


def erfinv_value(y: float) -> float:
    """Inverse error function. Source: Giles, "Approximating the erfinv function" (2010), polished by Newton steps."""
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    w = -math.log((1 - y) * (1 + y))
    if w < 5:
        w, c = (
            w - 2.5,
            (
                2.81022636e-08,
                3.43273939e-07,
                -3.5233877e-06,
                -4.39150654e-06,
                0.00021858087,
                -0.00125372503,
                -0.00417768164,
                0.246640727,
                1.50140941,
            ),
        )
    else:
        w, c = (
            math.sqrt(w) - 3,
            (
                -0.000200214257,
                0.000100950558,
                0.00134934322,
                -0.00367342844,
                0.00573950773,
                -0.0076224613,
                0.00943887047,
                1.00167406,
                2.83297682,
            ),
        )
    x = 0.0
    for k in c:
        x = x * w + k
    x *= y
    for _ in range(2):
        x -= (
            (math.erf(x) - y) / (2 / math.sqrt(math.pi) * math.exp(-x * x))
            if abs(y) < 0.9999999
            else (math.copysign(1 - math.erfc(abs(x)), x) - y) / (2 / math.sqrt(math.pi) * math.exp(-x * x))
        )
    return x


def lgamma_value(x: float) -> float:
    """Logarithm of the absolute value of the gamma function, infinite at its poles."""
    if math.isnan(x):
        return x
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    try:
        return math.lgamma(x)
    except OverflowError:
        return math.inf


def digamma_value(x: float) -> float:
    """Digamma by upward recurrence and its asymptotic series. Source: Abramowitz & Stegun 6.3.5, 6.3.18."""
    if math.isnan(x) or x == -math.inf:
        return math.nan
    if x == 0:
        return math.copysign(math.inf, -x)
    if x < 0:
        if x == math.floor(x):
            return math.nan
        return digamma_value(1 - x) - math.pi / math.tan(math.pi * (x - math.floor(x)))
    s = 0.0
    while x < 10:
        s -= 1 / x
        x += 1
    z = 1 / (x * x) if x < 1e17 else 0.0
    return (
        s
        + math.log(x)
        - 0.5 / x
        - z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * 691 / 32760)))))
    )


def polygamma_value(n: int, x: float) -> float:
    """n-th derivative of digamma (n >= 1), x > 0 or by reflection for n = 1.

    Source: Abramowitz & Stegun 6.4.6, 6.4.11.
    """
    if n == 0:
        return digamma_value(x)
    if x == -math.inf:
        return math.nan
    sign_, s = (-1) ** (n + 1), 0.0
    fact = math.factorial(n)
    if 0 < x < 1e-17 or x > 1e17:  # the pole or the first term of the series alone, whose powers may leave the range
        try:
            return sign_ * (fact * math.pow(1 / x, n + 1) if x < 1 else math.factorial(n - 1) * math.pow(1 / x, n))
        except OverflowError:
            return sign_ * math.inf
    if x <= 0:
        if x == math.floor(x):
            return math.inf if n % 2 else math.nan
        if n == 1:
            cosecant = math.pi / math.sin(math.pi * x)
            return cosecant * cosecant - polygamma_value(1, 1 - x)
    while x < 20:
        s += fact / x ** (n + 1)
        x += 1
    series = math.factorial(n - 1) / x**n + fact / (2 * x ** (n + 1))
    for k, b in enumerate((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6), 1):
        series += b * math.factorial(2 * k + n - 1) / (math.factorial(2 * k) * x ** (2 * k + n))
    return sign_ * (s + series)
