"""Everything that is drawn from the CPU generator, under one name."""
from __future__ import annotations

from fanal.core.random.draws import (
    bernoulli,
    cauchy,
    exponential,
    geometric,
    log_normal,
    normal,
    normal_of,
    randint,
    random,
    randperm,
    uniform,
)
from fanal.core.random.mt19937 import Mt19937
from fanal.core.random.samplers import (
    binomial,
    multinomial,
    poisson,
    standard_gamma,
)

__all__ = [
    "Mt19937",
    "bernoulli",
    "binomial",
    "cauchy",
    "exponential",
    "geometric",
    "log_normal",
    "multinomial",
    "normal",
    "normal_of",
    "poisson",
    "randint",
    "random",
    "randperm",
    "standard_gamma",
    "uniform",
]
